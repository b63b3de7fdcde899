"""What is around a procedural face: the neck, the shoulders, the hair that hangs, and the background."""

from __future__ import annotations

import cv2
import numpy as np

from distfacegan.sources.procedural_paint import to_bytes
from distfacegan.sources.procedural_raster import Surface
from distfacegan.sources.procedural_traits import Look, Traits


def build_body(traits: Traits, size: tuple[int, int]) -> Surface:
    """Return the neck and the shoulders."""
    rows, columns = 60, 80
    fall = np.linspace(0, 1, rows)[:, None]
    theta = np.radians(np.linspace(-100, 100, columns))[None, :]
    y = -0.9 - 2.0 * fall + 0 * theta
    flare = np.clip((fall - 0.42) / 0.3, 0, 1.3) ** 1.1
    x = (0.52 + 1.5 * flare) * np.sin(theta)
    z = (0.5 + 0.35 * flare) * np.cos(theta) - 0.38
    y = y + 0.2 * flare * np.cos(theta)
    sheet = np.stack([x, y, z], axis=-1).astype(np.float32)
    albedo = np.empty((size[0] * 3 // 4, size[1], 3), np.uint8)
    albedo[:] = to_bytes(traits.look.skin)
    neckline = 0.55 + 0.1 * np.cos(np.linspace(-1.7, 1.7, size[1])) ** 2
    albedo[np.arange(len(albedo))[:, None] > neckline * len(albedo)] = to_bytes(traits.look.cloth)
    return Surface(sheet, albedo, turn=0.35)


def paint_background(look: Look, side: int) -> np.ndarray:
    """Return a soft background u8 RGB [side, side, 3]."""
    rng = np.random.Generator(np.random.Philox(look.texture_seed + 1))
    top, bottom = (np.array(c) for c in look.background)
    share = np.linspace(0, 1, 4)[:, None, None] + rng.normal(0, 0.25, size=(4, 4, 1))
    coarse = (top + (bottom - top) * share).astype(np.float32)
    fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(fine * 255, 0, 255).astype(np.uint8)
