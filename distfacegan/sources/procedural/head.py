"""The shape of a procedural face: a head as one smooth surface, and its 49 landmarks on it.

A face is laid out on a chart (x, y), as seen from straight ahead: x to the image's right, y up, the
origin between the eyes. The surface over the chart is a closed form of two coordinates. `row` runs
from 0 at the crown to 1 at the chin. `theta` is the angle around the vertical axis, 0 at the nose
and positive to the image's right. A position on the surface is (x, y, z) in head units, z to the
viewer.
"""

import dataclasses

import numpy as np

from distfacegan.sources.procedural.traits import Expression, Shape, Traits

THETA_MAX = float(np.radians(118))  # the surface ends behind the ears
CROWN = 1.62  # height of the crown above the eyes
SHEET = (120, 120)  # rows and columns of a head's sheet


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a face: curves on the chart, in the order of their landmarks."""

    brows: np.ndarray  # [2, 5, 2] along the middle of the hair
    bridge: np.ndarray  # [4, 2] from the top down
    nostrils: np.ndarray  # [5, 2]
    eyes: np.ndarray  # [2, 6, 2] clockwise in the image, from its left corner
    lips: np.ndarray  # [12, 2] clockwise from the left corner
    mouth: np.ndarray  # [6, 2] the inner lips, without their corners
    pupils: np.ndarray  # [2, 2], no landmarks

    @property
    def landmarks(self) -> np.ndarray:
        """The 49 landmarks on the chart, [49, 2], in iBUG's order."""
        curves = (self.brows, self.bridge, self.nostrils, self.eyes, self.lips, self.mouth)
        return np.concatenate([curve.reshape(-1, 2) for curve in curves])


class Head:
    """The surface of a head, given its shape and its expression."""

    def __init__(self, shape: Shape, expression: Expression) -> None:
        self.shape = shape
        self.bottom = -shape.chin - 0.17 * expression.open  # an open mouth lowers the chin
        self.features = place_features(shape, expression)

    def locate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and theta of points [..., 2] of the chart.

        A point beside the head gets the coordinates of the head's edge.
        """
        middle, half = (CROWN + self.bottom) / 2, (CROWN - self.bottom) / 2
        cosine = np.minimum(np.maximum((points[..., 1] - middle) / half, -0.9999), 0.9999)
        row = np.arccos(cosine) / np.pi
        sine = points[..., 0] / self._half_width(np.sin(np.pi * row), row)
        return row, np.arcsin(np.minimum(np.maximum(sine, -1), 1))

    def surface(self, row: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Return the positions, [3, ...], at rows and thetas that broadcast."""
        middle, half = (CROWN + self.bottom) / 2, (CROWN - self.bottom) / 2
        sine, cosine, swell = np.sin(theta), np.cos(theta), np.sin(np.pi * row)
        x = self._half_width(swell, row) * sine
        y = middle + half * np.cos(np.pi * row)
        front = 1.12 * swell ** np.where(row > 0.5, np.float32(0.36), np.float32(0.8))
        depth = np.where(cosine > 0, front, 1.2 * swell**0.7) * cosine
        relief = self._relief(x, y) * np.minimum(np.maximum(3 * cosine, 0), 1)
        ear = np.exp(-(((np.abs(theta) - 1.62) / 0.13) ** 2) - ((y + 0.12) / 0.27) ** 4)
        # The jaw climbs from the chin to the ears.
        climb = 0.5 * np.minimum(np.maximum((row - 0.55) / 0.4, 0), 1) * (1 - cosine) ** 2
        return np.stack([x * (1 + 0.15 * ear), y + climb, depth + relief])

    def sheet(self) -> np.ndarray:
        """Return the surface on a grid, f32 [3, rows, columns]."""
        rows, columns = (((np.arange(n) + 0.5) / n).astype(np.float32) for n in SHEET)
        return self.surface(rows[:, None], (columns[None, :] * 2 - 1) * np.float32(THETA_MAX))

    def landmarks(self) -> np.ndarray:
        """Return the positions of the 49 landmarks, [3, 49], in iBUG's order."""
        return self.surface(*self.locate(self.features.landmarks))

    def _half_width(self, swell: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The largest x of a row; swell = sin(pi row) would give an ellipse."""
        chin = (1.1 * swell**2 / (swell**2 + 0.1)) ** 0.25  # makes the tip of the chin round
        return self.shape.width * np.where(row > 0.5, swell**self.shape.jaw * chin, swell**0.82)

    def _relief(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The height of the features above the smooth head, along z."""
        shape, lips = self.shape, self.features.lips
        side, top = np.abs(x), lips[3, 1]
        mouth, low = (lips[3, 1] + lips[9, 1]) / 2, lips[9, 1]
        eye, tip, brow, width = (
            shape.eye_distance,
            -shape.nose_length,
            shape.brow_height,
            shape.nose_width,
        )
        bumps = (  # height, place beside and above the origin, width and height of the spread
            (0.40 * shape.nose_height, 0.0, tip + 0.05, 0.12, 0.10),
            (0.16, 0.72 * width, tip - 0.01, 0.085, 0.085),  # the wings of the nose
            (-0.14, eye - 0.06, 0.03, 0.27, 0.17),  # the sockets
            (0.085, eye, 0.0, 0.17, 0.12),  # the eyeballs
            (0.06, eye - 0.03, brow + 0.02, 0.32, 0.11),
            (shape.cheeks, 0.52, -0.42, 0.26, 0.24),
            (0.10, 0.0, mouth, 0.38, 0.26),
            (0.05, 0.0, top - 0.05, 0.27, 0.05),  # the lips
            (0.06, 0.0, low + 0.06, 0.22, 0.06),
            (-0.06, 0.0, low - 0.07, 0.25, 0.06),
            (shape.chin_height, 0.0, -shape.chin + 0.17, 0.24, 0.14),
        )
        height = self._ridge(x, y)
        for rise, beside, above, wide, high in bumps:
            height = height + np.float32(rise) * np.exp(
                -(((side - np.float32(beside)) / np.float32(wide)) ** 2)
                - ((y - np.float32(above)) / np.float32(high)) ** 2
            )
        return height

    def _ridge(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The height of the nose's ridge, which begins between the eyes and ends below the tip."""
        tip = -self.shape.nose_length
        down = np.minimum(np.maximum((0.12 - y) / (0.12 - tip), 0), 1.3)
        rise = 0.1 * np.minimum(down * 6, 1) + 0.8 * down**1.3
        end = 1 / (1 + np.exp(np.minimum((tip - 0.07 - y) / 0.022, 50)))
        return self.shape.nose_height * rise * end * np.exp(-((x / (0.075 + 0.05 * down**2)) ** 2))


def build_head(traits: Traits) -> Head:
    """Return the head of a face."""
    return Head(traits.shape, traits.expression)


def place_features(shape: Shape, expression: Expression) -> Features:
    """Return the curves of brows, eyes, nose and mouth."""
    eyes, pupils = _place_eyes(shape, expression)
    lips, mouth = _place_mouth(shape, expression)
    across = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) * shape.nose_width
    drop = np.array([0.04, -0.03, -0.055, -0.03, 0.04]) - 0.05
    bridge = np.linspace(0.05, -shape.nose_length + 0.07, 4)
    return Features(
        brows=_place_brows(shape, expression),
        bridge=np.stack([0 * bridge, bridge], axis=-1),
        nostrils=np.stack(
            [across * (1 + 0.12 * max(expression.smile, 0)), drop - shape.nose_length], axis=-1
        ),
        eyes=eyes,
        lips=lips,
        mouth=mouth,
        pupils=pupils,
    )


def _place_brows(shape: Shape, expression: Expression) -> np.ndarray:
    along = np.linspace(0, 1, 5)  # from the nose outwards
    x = shape.eye_distance - 0.29 + 0.62 * along
    arch = shape.brow_arch * np.sin(np.pi * (along * 0.85 + 0.08)) - 0.05 * along**3
    lift = 0.09 * expression.brow * (0.75 + along * (1 - along))
    tilt = 0.05 * expression.brow_tilt * (1 - 2 * along)
    right = np.stack([x, shape.brow_height + arch + lift + tilt], axis=-1)
    return np.stack([(right * [-1, 1])[::-1], right])


def _place_eyes(shape: Shape, expression: Expression) -> tuple[np.ndarray, np.ndarray]:
    half, lids = shape.eye_size, expression.lids
    upper = 0.138 * lids
    lower = 0.056 * (0.4 + 0.6 * lids) * (1 - 0.25 * max(expression.smile, 0))
    # The eye on the image's right: its inner corner is on the left.
    x = np.array([-half, -0.42 * half, 0.38 * half, half, 0.40 * half, -0.38 * half])
    y = np.array([-0.012, upper, 0.98 * upper, 0.012, -lower, -lower])
    right = np.stack([shape.eye_distance + x, y + shape.eye_slant * x / half], axis=-1)
    left = (right * [-1, 1])[[3, 2, 1, 0, 5, 4]]
    glance = [0.07 * expression.gaze[0], 0.03 * expression.gaze[1] + 0.012 + (upper - lower) / 4]
    pupils = np.array([[-shape.eye_distance, 0.0], [shape.eye_distance, 0.0]]) + glance
    return np.stack([left, right]), pupils


def _place_mouth(shape: Shape, expression: Expression) -> tuple[np.ndarray, np.ndarray]:
    smile, opened = expression.smile, expression.open
    line = -shape.nose_length - 0.07 - shape.mouth_drop
    half = shape.mouth_width * (1 + 0.17 * smile - 0.12 * opened)
    parted = 0.035 * max(smile - 0.35, 0)  # a smile parts the lips
    top, bottom = line + 0.03 * opened + parted / 2, line - 0.22 * opened - parted
    corner = line + 0.075 * smile - 0.09 * opened

    def curve(x: np.ndarray, y: float, swell: np.ndarray) -> np.ndarray:
        """Return the edge of a lip: a curve from y in the middle to the corners, plus a swell."""
        return np.stack([x * half, y + x**2 * (corner - y) + swell], axis=-1)

    x = np.array([-1, -0.6, -0.24, 0, 0.24, 0.6, 1])
    bow = np.array([0, 0.62, 1.0, 0.82, 1.0, 0.62, 0]) * shape.upper_lip * (1 - 0.15 * smile)
    pad = np.array([0, 0.62, 0.95, 1.0, 0.95, 0.62, 0]) * shape.lower_lip * (1 - 0.1 * smile)
    lips = np.concatenate([curve(x, top, bow), curve(x, bottom, -pad)[-2:0:-1]])
    x = np.array([-0.32, 0.0, 0.32])
    mouth = np.concatenate([curve(x, top, 0 * x), curve(x, bottom, 0 * x - 0.004)[::-1]])
    return lips, mouth
