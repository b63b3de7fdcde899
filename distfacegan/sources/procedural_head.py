"""The shape of a procedural face: a head as a smooth surface, and its 49 landmarks on it.

The surface has a chart (x, y): x to the image's right, y up, the origin between the eyes, as the face looks
from straight ahead. A sheet holds the surface on a grid: rows from the crown to the chin, columns by the
angle theta around the vertical axis, from the face's right ear (image left) over the nose to the left.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from distfacegan.sources.procedural_traits import Expression, Look, Shape

THETA_MAX = float(np.radians(118))
CROWN = 1.62  # height of the crown above the eyes
GRID = (120, 120)  # rows, columns of the geometry


@dataclasses.dataclass(frozen=True)
class Chart:
    """From chart coordinates to positions on a sheet, as shares of its rows and columns."""

    width: float
    bottom: float  # y of the lowest row, negative
    jaw: float

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The share of the arc from the crown to the chin of every row of the grid."""
        return (np.arange(GRID[0], dtype=np.float32) + 0.5) / GRID[0]

    def height(self, rows: np.ndarray) -> np.ndarray:
        """The y of rows given as shares."""
        middle, half = (CROWN + self.bottom) / 2, (CROWN - self.bottom) / 2
        return middle + half * np.cos(np.pi * rows)

    def half_width(self, rows: np.ndarray) -> np.ndarray:
        """The largest x of rows given as shares."""
        swell = np.sin(np.pi * rows)
        jaw = swell**self.jaw * (1.1 * swell**2 / (swell**2 + 0.1)) ** 0.25  # a round end: the chin
        return self.width * np.where(rows > 0.5, jaw, swell**0.82)

    def locate(self, points: np.ndarray) -> np.ndarray:
        """Return the (column, row) shares, in [0, 1], of chart points [..., 2]."""
        middle, half = (CROWN + self.bottom) / 2, (CROWN - self.bottom) / 2
        rows = np.arccos(np.minimum(np.maximum((points[..., 1] - middle) / half, -1), 1)) / np.pi
        sine = points[..., 0] / np.maximum(self.half_width(rows), 1e-3)
        theta = np.arcsin(np.minimum(np.maximum(sine, -1), 1))
        return np.stack([0.5 + theta / (2 * THETA_MAX), rows], axis=-1)


@dataclasses.dataclass(frozen=True)
class Features:
    """Where the features are: curves in the chart, from the image's left to its right unless said otherwise."""

    brows: np.ndarray  # [2, 5, 2] along the middle of the hair
    bridge: np.ndarray  # [4, 2] from the top down
    nostrils: np.ndarray  # [5, 2]
    eyes: np.ndarray  # [2, 6, 2] clockwise in the image, from its left corner
    pupils: np.ndarray  # [2, 2]
    lips: np.ndarray  # [12, 2] clockwise from the left corner
    mouth: np.ndarray  # [6, 2] the inner lip: upper left to right, lower right to left

    @property
    def landmarks(self) -> np.ndarray:
        """The 49 landmarks in the chart, f32 [49, 2], in iBUG order."""
        parts = (self.brows, self.bridge, self.nostrils, self.eyes, self.lips, self.mouth)
        return np.concatenate([p.reshape(-1, 2) for p in parts]).astype(np.float32)


def place_features(shape: Shape, expression: Expression) -> Features:
    """Return the curves of brows, eyes, nose and mouth."""
    eyes, pupils = _place_eyes(shape, expression)
    mouth_line = -shape.nose_length - 0.07 - shape.mouth_drop
    lips, mouth = _place_mouth(shape, expression, mouth_line)
    nostril = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    flare = shape.nose_width * (1 + 0.12 * max(expression.smile, 0))
    drop = np.array([0.04, -0.03, -0.055, -0.03, 0.04])
    bridge = np.linspace(0.05, -shape.nose_length + 0.07, 4)
    return Features(
        brows=_place_brows(shape, expression),
        bridge=np.stack([np.zeros(4), bridge], axis=-1),
        nostrils=np.stack([nostril * flare, -shape.nose_length - 0.05 + drop], axis=-1),
        eyes=eyes,
        pupils=pupils,
        lips=lips,
        mouth=mouth,
    )


def _place_brows(shape: Shape, expression: Expression) -> np.ndarray:
    along = np.linspace(0, 1, 5)  # from the nose outwards
    x = shape.eye_distance - 0.29 + 0.62 * along
    arch = shape.brow_arch * np.sin(np.pi * np.clip(along * 0.85 + 0.08, 0, 1)) - 0.05 * along**3
    lift = 0.09 * expression.brow * (0.75 + 0.5 * along * (1 - along) * 2)
    tilt = 0.05 * expression.brow_tilt * (1 - 2 * along)
    right = np.stack([x, shape.brow_height + arch + lift + tilt], axis=-1)
    return np.stack([(right * [-1, 1])[::-1], right])


def _place_eyes(shape: Shape, expression: Expression) -> tuple[np.ndarray, np.ndarray]:
    half, lids = shape.eye_size, expression.lids
    squint = 1 - 0.25 * max(expression.smile, 0)
    upper, lower = 0.138 * lids, 0.056 * (0.4 + 0.6 * lids) * squint
    # Seen from straight ahead, the image's right eye: inner corner left, outer corner right.
    outline = np.array(
        [
            [-half, -0.012],
            [-0.42 * half, upper],
            [0.38 * half, upper * 0.98],
            [half, 0.012],
            [0.40 * half, -lower],
            [-0.38 * half, -lower],
        ]
    )
    outline[:, 1] += shape.eye_slant * outline[:, 0] / half
    right = outline + [shape.eye_distance, 0]
    left = (right * [-1, 1])[[3, 2, 1, 0, 5, 4]]
    middle = np.array([[-shape.eye_distance, 0.0], [shape.eye_distance, 0.0]])
    look = np.array(
        [expression.gaze[0] * 0.07, expression.gaze[1] * 0.03 + 0.012 + (upper - lower) * 0.25]
    )
    return np.stack([left, right]), middle + look


def _place_mouth(
    shape: Shape, expression: Expression, line: float
) -> tuple[np.ndarray, np.ndarray]:
    smile, opened = expression.smile, expression.open
    half = shape.mouth_width * (1 + 0.17 * smile - 0.12 * opened)
    upper, lower = shape.upper_lip * (1 - 0.15 * smile), shape.lower_lip * (1 - 0.1 * smile)
    top, bottom = line + 0.03 * opened, line - 0.22 * opened
    corner = line + 0.075 * smile - 0.09 * opened
    part = 0.035 * max(smile - 0.35, 0)  # a smile parts the lips
    top, bottom = top + 0.5 * part, bottom - part
    x = np.array([-1, -0.6, -0.24, 0, 0.24, 0.6, 1])
    rise = np.array([0, 0.62, 1.0, 0.82, 1.0, 0.62, 0])
    fall = np.array([0, 0.62, 0.95, 1.0, 0.95, 0.62, 0])
    sag = np.abs(x) ** 2  # from the middle of the mouth to its corners
    above = np.stack([x * half, top + sag * (corner - top) + rise * upper], axis=-1)
    below = np.stack([x * half, bottom + sag * (corner - bottom) - fall * lower], axis=-1)
    below[[0, -1]] = above[[0, -1]]
    inner = np.array([-0.32, 0.0, 0.32])
    inside_top = np.stack([inner * half, top + inner**2 * (corner - top)], axis=-1)
    inside_bottom = np.stack([inner * half, bottom + inner**2 * (corner - bottom)], axis=-1)
    inside_bottom[:, 1] -= 0.004
    return np.concatenate([above, below[-2:0:-1]]), np.concatenate(
        [inside_top, inside_bottom[::-1]]
    )


def chart_of(shape: Shape, expression: Expression) -> Chart:
    """Return the chart of a head; an open mouth lowers its chin."""
    return Chart(shape.width, -shape.chin - 0.17 * expression.open, shape.jaw)


def build_head(
    chart: Chart, shape: Shape, expression: Expression, features: Features, look: Look
) -> np.ndarray:
    """Return the head's sheet of positions, f32 [rows, columns, 3] (x right, y up, z to the viewer)."""
    rows = chart.rows[:, None]
    theta = (np.arange(GRID[1], dtype=np.float32) + 0.5) / GRID[1] * 2 - 1
    theta = (theta * THETA_MAX)[None, :]
    sine, cosine = np.sin(theta), np.cos(theta)
    y, half_width = chart.height(rows), chart.half_width(rows)
    swell = np.sin(np.pi * rows)
    front = 1.12 * swell ** np.where(rows > 0.5, 0.36, 0.8)
    depth = np.where(cosine > 0, front, 1.2 * swell**0.7)
    x = half_width * sine
    z = depth * cosine + _relief(x, y + 0 * x, shape, features) * np.clip(cosine * 3, 0, 1)
    jaw = np.clip((rows - 0.55) / 0.4, 0, 1)
    y = y + 0.5 * jaw * (1 - cosine) ** 2  # the jaw climbs from the chin to the ears
    ear = 0.15 * np.exp(-(((np.abs(theta) - 1.62) / 0.13) ** 2) - ((y + 0.12) / 0.27) ** 4)
    sheet = np.stack([x * (1 + ear), y, z], axis=-1)
    return sheet.astype(np.float32)


def _relief(x: np.ndarray, y: np.ndarray, shape: Shape, features: Features) -> np.ndarray:
    """The height of the features above the smooth head, along z."""

    def bump(
        centre: tuple[float, float], spread: tuple[float, float], power: int = 2
    ) -> np.ndarray:
        u, v = (np.abs(x) - centre[0]) / spread[0], (y - centre[1]) / spread[1]
        return np.exp(-(np.abs(u) ** power) - np.abs(v) ** power)

    eye, tip = shape.eye_distance, -shape.nose_length
    mouth = float(features.lips[3, 1] + features.lips[9, 1]) / 2
    low = float(features.lips[9, 1])
    down = np.clip((0.12 - y) / (0.12 - tip), 0, 1.3)
    end = 1 / (1 + np.exp((tip - 0.07 - y) / 0.022))
    ridge_width = 0.075 + 0.05 * down**2
    ridge = (
        shape.nose_height
        * (0.1 * np.minimum(down * 6, 1) + 0.8 * down**1.3)
        * np.exp(-((x / ridge_width) ** 2))
        * end
    )
    height = ridge + 0.4 * shape.nose_height * bump((0, tip + 0.05), (0.12, 0.10))
    height += 0.16 * bump((shape.nose_width * 0.72, tip - 0.01), (0.085, 0.085))
    height -= 0.14 * bump((eye - 0.06, 0.03), (0.27, 0.17))
    height += 0.085 * bump((eye, 0.0), (0.17, 0.12))
    height += 0.06 * bump((eye - 0.03, shape.brow_height + 0.02), (0.32, 0.11))
    height += shape.cheeks * bump((0.52, -0.45), (0.26, 0.24))
    height += 0.10 * bump((0, mouth), (0.38, 0.26))
    height += 0.05 * bump((0, float(features.lips[3, 1]) - 0.05), (0.27, 0.05))
    height += 0.06 * bump((0, low + 0.06), (0.22, 0.06))
    height -= 0.06 * bump((0, low - 0.07), (0.25, 0.06))
    return height + shape.chin_height * bump((0, -shape.chin + 0.17), (0.24, 0.14))
