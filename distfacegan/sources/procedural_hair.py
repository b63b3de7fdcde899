"""The hair of a procedural face: a shell around the head, cut open over the face."""

from __future__ import annotations

import cv2
import numpy as np

from distfacegan.sources.procedural_head import CROWN
from distfacegan.sources.procedural_raster import Surface
from distfacegan.sources.procedural_traits import Look, Shape

GRID = (80, 100)  # rows from the crown down, columns around the head
DOME = 0.55  # share of the rows above the ears
PAINT = (140, 300)


def build_hair(shape: Shape, look: Look) -> tuple[list[Surface], list[Surface]]:
    """Return what of the hair's shell is behind the head and what is before it; nothing for the bald."""
    if look.hair_style == "bald":
        return [], []
    rng = np.random.Generator(np.random.Philox(look.texture_seed))
    theta, rows = _axes(GRID)
    edge, steep, ends = *_hairline(theta, look), _length(look)
    arc = np.minimum(rows / DOME, 1) * (np.pi / 2)
    below = np.clip((rows - DOME) / (1 - DOME), 0, 1)
    crown = CROWN + 0.05
    y = crown * np.cos(arc) + ends * below + 0 * theta
    swell = np.sin(arc)
    locks = _noise(rng, (2, 24), GRID) * 0.5 + _noise(rng, (3, 60), GRID) * 0.3
    if look.hair_style == "afro":
        locks = locks + 0.7 * _noise(rng, (7, 18), GRID)
    full = look.hair_volume * (1 + 0.25 * locks * np.sin(arc))
    volume = 0.02 + full * np.clip((y - edge) / (0.35 * steep), 0, 1) ** 0.6
    nape = 1 - 0.3 * below * (ends > -1)
    flare = nape + 0.06 * np.sin(below * 3) + look.curl * np.sin(below * 13) * below
    width = (shape.width * swell**0.82 + volume * swell**0.6) * flare
    front = 1.12 * swell**0.8 + volume
    back = 1.2 * swell**0.7 + volume
    x = width * np.sin(theta)
    z = np.where(np.cos(theta) > 0, front, back) * np.cos(theta)
    y = y + volume * np.cos(arc)
    sheet = np.stack([x, y, z], axis=-1).astype(np.float32)
    paint = _paint(look, rng, ends)
    behind, before = (
        [Surface(_columns(sheet, *part), _columns(paint, *part), gloss=0.09, solid=False)]
        for part in ((0.75, 1.25), (0.23, 0.77))
    )
    return behind, before


def _columns(grid: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the columns from one share of the way around to another, past the seam if need be."""
    count = grid.shape[1]
    return np.take(grid, range(round(start * count), round(end * count)), axis=1, mode="wrap")


def hairline(theta: np.ndarray, look: Look) -> np.ndarray:
    """Return the y of the hair's lower edge at angles around the head."""
    style, around = look.hair_style, np.abs(theta)
    if style in ("long", "bob"):
        ends = _length(look)
        top = look.hairline - 0.28 * (style == "bob") - 0.25 * np.clip(around - 0.2, 0, 1)
        return top + (ends - 0.1 - top) * _step(around, 0.85, 1.25)
    top = look.hairline - (0.33 if style == "fringe" else 0.0)
    if style in ("short", "tied", "afro"):
        top = top + 0.12 * np.exp(-(((around - 0.6) / 0.25) ** 2)) - 0.04
    if style == "parted":
        top = top - 0.25 * np.clip(np.abs(theta - look.parting) - 0.1, 0, 0.7)
    line = top + (-0.12 - top) * _step(around, 0.8, 1.22)
    line = line + 0.32 * _step(around, 1.24, 1.36)
    return line - 0.5 * _step(around, 1.8, 2.2)


def _hairline(theta: np.ndarray, look: Look) -> tuple[np.ndarray, np.ndarray]:
    """Return the hairline at theta [1, columns], and how much longer its slope makes a way up than across."""
    edge = hairline(theta, look)
    return edge, np.hypot(1, np.gradient(edge[0], theta[0])).astype(np.float32)


def _length(look: Look) -> float:
    return {"long": -2.2, "bob": -1.15}.get(look.hair_style, -0.7)


def _step(value: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip((value - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _axes(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    theta = ((np.arange(size[1], dtype=np.float32) + 0.5) / size[1] * 2 - 1) * np.float32(np.pi)
    rows = (np.arange(size[0], dtype=np.float32) + 0.5) / size[0]
    return theta[None, :], rows[:, None]


def _noise(rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Smooth noise of `cells` cells down and around, f32 [size]."""
    coarse = rng.standard_normal(cells).astype(np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def _paint(look: Look, rng: np.random.Generator, ends: float) -> np.ndarray:
    """Return the hair's colour and alpha, u8 RGBA."""
    theta, rows = _axes(PAINT)
    y = CROWN * np.cos(np.minimum(rows / DOME, 1) * (np.pi / 2))
    y = y + ends * np.clip((rows - DOME) / (1 - DOME), 0, 1)
    strands = 1 + 0.16 * _noise(rng, (4, 200), PAINT) + 0.1 * _noise(rng, (2, 40), PAINT)
    tips = (0.03 if look.hair_style in ("fringe", "bob") else 0.015) * _noise(rng, (1, 300), PAINT)
    edge, steep = _hairline(theta, look)
    alpha = np.clip((y - edge + tips) / (0.07 * steep) + 0.5, 0, 1)
    alpha *= np.clip((1 - rows + tips) / 0.06, 0, 1)
    colour = strands[..., None] * np.array(look.hair, np.float32)
    return (np.clip(np.dstack([colour, alpha]), 0, 1) * 255).astype(np.uint8)
