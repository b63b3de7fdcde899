"""The surroundings of a procedural head: the neck, the shoulders and the background."""

import cv2
import numpy as np

from distfacegan.sources.procedural.paint import to_bytes
from distfacegan.sources.procedural.raster import Surface
from distfacegan.sources.procedural.traits import Look


def build_body(look: Look) -> Surface:
    """Return the neck and the shoulders."""
    theta = np.radians(np.linspace(-100, 100, 80, dtype=np.float32))[None, :]
    fall = np.linspace(0, 1, 50, dtype=np.float32)[:, None]  # from inside the head down
    sine, cosine = np.sin(theta), np.cos(theta)
    flare = np.maximum((fall - 0.4) / 0.4, 0) ** 1.6
    x = (0.50 + 2.3 * flare) * sine
    y = -0.9 - 2.1 * fall - 0.25 * flare * cosine**2
    z = (0.48 + 0.5 * flare) * cosine - 0.45
    fall = np.linspace(0, 1, 160, dtype=np.float32)[:, None]
    shadow = np.minimum(0.35 + 1.5 * fall, 1)[..., None]  # the head keeps the light off the neck
    skin, cloth = (np.array(to_bytes(c), np.float32) for c in (look.skin, look.cloth))
    neckline = (fall - 0.58 - 0.14 * cosine**4) * len(fall) + 0.5
    dressed = np.minimum(np.maximum(neckline, 0), 1)[..., None]
    colours = (shadow * skin * (1 - dressed) + cloth * dressed).astype(np.uint8)
    return Surface(np.stack([x, y, z]), colours, turn=0.35)


def paint_background(look: Look, side: int) -> np.ndarray:
    """Return a soft background, f32 RGB [side, side, 3], 0 to 255."""
    rng = np.random.Generator(np.random.Philox(look.texture_seed + 1))
    top, bottom = (np.array(colour) for colour in look.background)
    share = np.linspace(0, 1, 4)[:, None, None] + rng.normal(0, 0.25, size=(4, 4, 1))
    coarse = (255 * (top + (bottom - top) * share)).astype(np.float32)
    fine = cv2.resize(coarse, (32, 32), interpolation=cv2.INTER_CUBIC)
    return cv2.resize(np.clip(fine, 0, 255), (side, side))
