"""The hair of a procedural face: a shell around the head, cut open over the face."""

import cv2
import numpy as np

from distfacegan.sources.procedural.head import CROWN
from distfacegan.sources.procedural.raster import Surface
from distfacegan.sources.procedural.traits import Look, Traits

SHEET = (80, 100)  # rows from the crown down, columns around the head
CANVAS = (140, 300)
DOME = 0.55  # share of the rows that are above the ears
LENGTHS = {"long": -2.2, "bob": -1.15}  # height of the tips
SHORT = -0.7


def build_hair(traits: Traits) -> tuple[list[Surface], list[Surface]]:
    """Return the hair behind the head and the hair in front of it; none for a bald head."""
    look = traits.look
    if look.hair_style == "bald":
        return [], []
    rng = np.random.Generator(np.random.Philox(look.texture_seed))
    sheet = _shape_shell(traits, rng)
    colours, alpha = _paint_shell(look, rng)

    def part(start: float, end: float) -> list[Surface]:
        """Return the shell between two shares of the way around the head, across the seam too."""

        def cut(grid: np.ndarray, axis: int) -> np.ndarray:
            count = grid.shape[axis]
            columns = range(round(start * count), round(end * count))
            return np.take(grid, columns, axis, mode="wrap")

        return [Surface(cut(sheet, 2), cut(colours, 1), cut(alpha, 1), gloss=0.09)]

    if look.hair_style in LENGTHS:
        return part(0.75, 1.25), part(0.23, 0.77)
    return part(0.66, 1.34), part(0.16, 0.84)


def hairline(theta: np.ndarray, look: Look) -> np.ndarray:
    """Return the height of the hair's lower edge at angles around the head."""
    style, around = look.hair_style, np.abs(theta)
    top = np.full_like(theta, look.hairline)
    if style in LENGTHS:
        top = top - 0.28 * (style == "bob") - 0.25 * np.maximum(around - 0.2, 0)
        return top + (LENGTHS[style] - 0.1 - top) * _step(around, 0.85, 1.25)
    if style == "fringe":
        top = top - 0.33
    elif style == "parted":
        aside = np.abs(theta - look.parting) - 0.1
        top = top - 0.25 * np.minimum(np.maximum(aside, 0), 0.7)
    else:
        top = top + 0.12 * np.exp(-(((around - 0.6) / 0.25) ** 2)) - 0.04
    sideburn = top + (-0.12 - top) * _step(around, 0.8, 1.22)
    above_ear = 0.32 * _step(around, 1.24, 1.36)
    return sideburn + above_ear - 0.5 * _step(around, 1.8, 2.2)


def _shape_shell(traits: Traits, rng: np.random.Generator) -> np.ndarray:
    """Return the positions of the shell, f32 [3, rows, columns]."""
    look, ends = traits.look, LENGTHS.get(traits.look.hair_style, SHORT)
    theta, rows = _axes(SHEET)
    arc, below = _arc_and_drop(rows)
    edge, steep = _edge(theta, look)
    swell = np.sin(arc)
    locks = 0.5 * _noise(rng, (2, 24), SHEET) + 0.3 * _noise(rng, (3, 60), SHEET)
    if look.hair_style == "afro":
        locks += 0.6 * _noise(rng, (6, 16), SHEET)
    y = CROWN * np.cos(arc) + ends * below
    rise = np.minimum(np.maximum((y - edge) / (steep * (0.3 + look.hair_volume)), 0), 1)
    volume = 0.02 + look.hair_volume * (1 + 0.25 * locks * swell) * np.sqrt(rise)
    if ends == SHORT:
        hang = 1 - 0.3 * below  # close to the neck
    else:
        hang = 1 + 0.06 * np.sin(below * 3) + look.curl * np.sin(below * 13) * below
    width = (traits.shape.width * swell**0.82 + volume * swell**0.6) * hang
    depth = np.where(np.cos(theta) > 0, 1.12 * swell**0.8, 1.2 * swell**0.7) + volume
    y = y + (volume + 0.05) * np.cos(arc)
    return np.stack([width * np.sin(theta), y, depth * np.cos(theta)])


def _paint_shell(look: Look, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the strands, u8 RGB [rows, columns, 3], and their alpha, 0 below the hairline."""
    theta, rows = _axes(CANVAS)
    arc, below = _arc_and_drop(rows)
    edge, steep = _edge(theta, look)
    y = CROWN * np.cos(arc) + LENGTHS.get(look.hair_style, SHORT) * below
    strands = 1 + 0.16 * _noise(rng, (4, 200), CANVAS) + 0.1 * _noise(rng, (2, 40), CANVAS)
    tips = (0.03 if look.hair_style in ("fringe", "bob") else 0.015) * _noise(rng, (1, 300), CANVAS)
    alpha = np.minimum((y - edge + tips) / (0.07 * steep) + 0.5, (1 - rows + tips) / 0.06)
    colours = cv2.merge([np.clip(strands * (255 * c), 0, 255) for c in look.hair])
    return colours.astype(np.uint8), (np.clip(alpha, 0, 1) * 255).astype(np.uint8)


def _arc_and_drop(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's angle from the crown, and its share of the way from the ears down."""
    arc = np.minimum(rows / DOME, 1) * np.float32(np.pi / 2)
    return arc, np.maximum(rows - DOME, 0) * np.float32(1 / (1 - DOME))


def _edge(theta: np.ndarray, look: Look) -> tuple[np.ndarray, np.ndarray]:
    """Return the hairline at theta [1, columns], and the factor by which its slope is longer."""
    edge = hairline(theta, look).astype(np.float32)
    return edge, np.hypot(1, np.gradient(edge[0], theta[0])).astype(np.float32)


def _step(value: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.minimum(np.maximum((value - low) / (high - low), 0), 1)
    return share * share * (3 - 2 * share)


def _axes(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return theta [1, columns], once around from the back of the head, and the rows [rows, 1]."""
    rows, columns = (((np.arange(n) + 0.5) / n).astype(np.float32) for n in size)
    return (columns[None, :] * 2 - 1) * np.float32(np.pi), rows[:, None]


def _noise(rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return smooth noise, f32 [size], of `cells` independent values down and around."""
    coarse = rng.standard_normal(cells, dtype=np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
