"""What is around a procedural face: the neck, the shoulders, the hair that hangs, and the background."""

from __future__ import annotations

import cv2
import numpy as np

from distfacegan.sources.procedural_paint import to_bytes
from distfacegan.sources.procedural_raster import Surface
from distfacegan.sources.procedural_traits import Look, Traits


def build_body(traits: Traits) -> Surface:
    """Return the neck and the shoulders."""
    rows, columns = 50, 80
    fall = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    theta = np.radians(np.linspace(-100, 100, columns, dtype=np.float32))[None, :]
    sine, cosine = np.sin(theta), np.cos(theta)
    flare = np.clip((fall - 0.4) / 0.4, 0, 2) ** 1.6
    x = (0.50 + 2.3 * flare) * sine
    z = (0.48 + 0.5 * flare) * cosine - 0.45
    y = -0.9 - 2.1 * fall - 0.25 * flare * cosine**2 + 0 * theta
    sheet = np.stack([x, y, z], axis=-1)
    fall = np.linspace(0, 1, 160, dtype=np.float32)[:, None]
    shade = np.clip(0.35 + 1.5 * fall, 0, 1)[..., None]  # the head keeps the light off the neck
    albedo = shade * np.array(to_bytes(traits.look.skin), np.float32) * np.ones((columns, 1))
    neckline = 0.58 + 0.14 * cosine**4
    share = np.clip((fall - neckline) * len(fall) + 0.5, 0, 1)[..., None]
    albedo += (np.array(to_bytes(traits.look.cloth), np.float32) - albedo) * share
    return Surface(sheet, albedo.astype(np.uint8), turn=0.35)


def paint_background(look: Look, side: int) -> np.ndarray:
    """Return a soft background f32 RGB [side, side, 3], 0 to 255."""
    rng = np.random.Generator(np.random.Philox(look.texture_seed + 1))
    top, bottom = (np.array(c) for c in look.background)
    share = np.linspace(0, 1, 4)[:, None, None] + rng.normal(0, 0.25, size=(4, 4, 1))
    coarse = (top + (bottom - top) * share).astype(np.float32)
    fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(fine * 255, 0, 255)
