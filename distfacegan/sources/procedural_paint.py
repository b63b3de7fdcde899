"""The colours of a procedural face, painted on the head's sheet where the features are."""

from __future__ import annotations

import cv2
import numpy as np

from distfacegan.sources.procedural_head import THETA_MAX, Chart, Features
from distfacegan.sources.procedural_traits import Colour, Expression, Look, Shape

SUBPIXEL_BITS = 4  # OpenCV draws at sixteenths of a pixel

_AXIS = np.exp(-(np.linspace(-2, 2, 33, dtype=np.float32) ** 2))
SPOT = np.outer(_AXIS, _AXIS)[..., None].repeat(3, axis=2)  # a soft spot, of two spreads each way


class Canvas:
    """A sheet to paint on, u8 [rows, columns, 3], with coordinates of the chart."""

    def __init__(self, chart: Chart, rows: int, columns: int, colour: Colour) -> None:
        self.chart, self.size = chart, np.array([columns, rows])
        self.pixels = np.empty((rows, columns, 3), np.uint8)
        self.pixels[:] = to_bytes(colour)

    def fill(self, outline: np.ndarray, colour: Colour) -> None:
        """Fill a closed outline [P, 2]."""
        cv2.fillPoly(
            self.pixels, [self._place(outline)], to_bytes(colour), cv2.LINE_AA, SUBPIXEL_BITS
        )

    def stroke(self, curve: np.ndarray, width: float, colour: Colour) -> None:
        """Draw a curve [P, 2] of a width in chart units."""
        thickness = max(1, round(width * self.size[1] / 3.2))
        cv2.polylines(
            self.pixels,
            [self._place(curve)],
            False,
            to_bytes(colour),
            thickness,
            cv2.LINE_AA,
            SUBPIXEL_BITS,
        )

    def tint(
        self, centre: tuple[float, float], spread: tuple[float, float], colour: Colour
    ) -> None:
        """Multiply a soft spot of the sheet, on both sides of the face, by a colour."""
        corners = np.array([[-2, 2], [2, -2]]) * spread + centre
        (left, top), (right, bottom) = (self.chart.locate(corners) * self.size).astype(int)
        gain = 1 + cv2.resize(SPOT, (right - left, bottom - top)) * (
            np.array(colour, np.float32) - 1
        )
        width = self.size[0]
        for start in {left, width - right} if centre[0] else {left}:
            patch = self.pixels[top:bottom, start : start + right - left]
            patch[:] = cv2.multiply(patch, gain, dtype=cv2.CV_8U)

    def _place(self, points: np.ndarray) -> np.ndarray:
        # OpenCV counts from the middle of the first pixel.
        place = self.chart.locate(points) * self.size - 0.5
        return np.round(place * 2**SUBPIXEL_BITS).astype(np.int32)


def to_bytes(colour: Colour) -> tuple[int, int, int]:
    """Return a colour of [0, 1] as bytes."""
    r, g, b = (int(np.clip(c * 255, 0, 255)) for c in colour)
    return (r, g, b)


def smooth(points: np.ndarray, closed: bool = False, steps: int = 6) -> np.ndarray:
    """Return a Catmull-Rom curve through points [P, 2]."""
    around = (
        np.concatenate([points[-1:], points, points[:2]])
        if closed
        else np.concatenate([points[:1], points, points[-1:]])
    )
    a, b, c, d = (around[i : len(around) - 3 + i, None] for i in range(4))
    t = (np.arange(steps) / steps)[None, :, None]
    curve = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def paint_face(
    chart: Chart,
    shape: Shape,
    expression: Expression,
    features: Features,
    look: Look,
    size: tuple[int, int],
) -> np.ndarray:
    """Return the albedo of the head's sheet, u8 RGB [rows, columns, 3]."""
    canvas = Canvas(chart, *size, look.skin)
    _paint_skin(canvas, shape, features, look)
    for eye, pupil in zip(features.eyes, features.pupils, strict=True):
        _paint_eye(canvas, eye, pupil, look, expression)
    _paint_mouth(canvas, features, look)
    for brow in features.brows:
        _paint_brow(canvas, brow, shape, look)
    return canvas.pixels


def _shade(colour: Colour, gain: float) -> Colour:
    return (colour[0] * gain, colour[1] * gain, colour[2] * gain)


def _paint_skin(canvas: Canvas, shape: Shape, features: Features, look: Look) -> None:
    red = (1.0, 1 - 0.5 * look.blush, 1 - 0.5 * look.blush)
    canvas.tint((0.52, -0.45), (0.28, 0.24), red)
    canvas.tint((0.0, -shape.nose_length), (0.18, 0.14), red)
    canvas.tint((shape.eye_distance - 0.03, 0.10), (0.26, 0.14), (0.86, 0.78, 0.76))
    canvas.tint((shape.eye_distance - 0.05, -0.13), (0.22, 0.08), (0.93, 0.88, 0.88))
    x, y = features.nostrils[3]
    canvas.tint((float(x) * 0.95, float(y) + 0.012), (0.065, 0.036), (0.25, 0.18, 0.17))
    canvas.tint((shape.nose_width + 0.03, -shape.nose_length), (0.05, 0.09), (0.85, 0.78, 0.76))
    canvas.tint((0.0, float(features.lips[9, 1]) - 0.05), (0.22, 0.05), (0.85, 0.78, 0.76))
    if look.beard:
        _paint_beard(canvas, shape, features, look)


def _paint_beard(canvas: Canvas, shape: Shape, features: Features, look: Look) -> None:
    corner, lip = features.lips[6], features.lips[3]
    edge = np.array(
        [
            [1.02 * shape.width, -0.1],
            [0.88 * shape.width, -0.32],
            [0.66, -0.56],
            [corner[0] + 0.12, corner[1] + 0.06],
            [0.7 * corner[0], lip[1] + 0.075],
            [0.0, lip[1] + 0.05],
        ]
    )
    edge = smooth(np.concatenate([edge * [-1, 1], edge[-2::-1]]))
    below = edge[[-1, 0]] * [1, 0] + [0, canvas.chart.bottom]
    mask = Canvas(canvas.chart, *canvas.size[::-1], (0.0, 0.0, 0.0))
    mask.fill(np.concatenate([edge, below]), (look.beard, look.beard, look.beard))
    share = cv2.GaussianBlur(mask.pixels, (11, 11), 0) * np.float32(1 / 255)
    canvas.pixels[:] = canvas.pixels + (np.array(to_bytes(look.hair)) - canvas.pixels) * share


def _paint_eye(
    canvas: Canvas, eye: np.ndarray, pupil: np.ndarray, look: Look, expression: Expression
) -> None:
    outline = smooth(eye, closed=True)
    canvas.fill(outline, (0.93, 0.91, 0.89))
    turn = np.linspace(0, 2 * np.pi, 25)[:-1]
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    opening = cv2.convexHull(outline.astype(np.float32))
    discs = ((0.090, _shade(look.iris, 0.45)), (0.076, look.iris), (0.038, (0.03, 0.03, 0.03)))
    for radius, colour in discs:
        disc = (pupil + radius * circle).astype(np.float32)
        visible = cv2.intersectConvexConvex(opening, disc)[1]
        if visible is not None and len(visible) > 2:
            canvas.fill(visible[:, 0], colour)
    canvas.fill(pupil + [0.03, 0.035] + 0.018 * circle, (1.0, 1.0, 1.0))
    lash = _shade(look.hair, 0.35)
    canvas.stroke(smooth(eye[:4]), 0.022, lash)
    canvas.stroke(smooth(eye[[3, 4, 5, 0]]), 0.008, _shade(look.skin, 0.55))
    crease = smooth(eye[:4] + [0, 0.055])
    canvas.stroke(crease, 0.008, _shade(look.skin, 0.7))


def _paint_mouth(canvas: Canvas, features: Features, look: Look) -> None:
    lips, mouth = features.lips, features.mouth
    inner = np.concatenate([lips[:1], mouth[:3], lips[6:7], mouth[3:]])
    upper = np.concatenate(
        [smooth(lips[:7]), smooth(np.concatenate([lips[6:7], mouth[2::-1], lips[:1]]))]
    )
    canvas.fill(smooth(lips, closed=True), look.lips)
    canvas.fill(upper, _shade(look.lips, 0.88))
    canvas.fill(smooth(inner, closed=True), (0.16, 0.05, 0.05))
    gap = float(mouth[1, 1] - mouth[4, 1])
    if gap > 0.03:
        above = smooth(np.concatenate([lips[:1], mouth[:3], lips[6:7]])) * [0.86, 1]
        across = above[:, :1] / above[-1, 0]
        below = above - np.concatenate([0 * across, min(0.1, 0.6 * gap) * (1 - across**2)], axis=-1)
        canvas.fill(np.concatenate([above, below[::-1]]), (0.86, 0.83, 0.78))


def _paint_brow(canvas: Canvas, brow: np.ndarray, shape: Shape, look: Look) -> None:
    curve = smooth(brow)
    inwards = np.abs(curve[:, 0]) - np.abs(curve[:, 0]).min()
    along = inwards / inwards.max()
    taper = np.minimum(1 - 0.75 * along**2, 0.45 + 4 * along)
    half = np.stack([np.zeros(len(curve)), shape.brow_thickness * taper], axis=-1)
    colour = tuple(0.75 * h + 0.15 * s for h, s in zip(look.hair, look.skin, strict=True))
    canvas.fill(
        np.concatenate([curve + half, (curve - half)[::-1]]), (colour[0], colour[1], colour[2])
    )
