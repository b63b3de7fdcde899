"""The colours of a procedural face, painted on the surface of the head."""

import cv2
import numpy as np

from distfacegan.sources.procedural.head import THETA_MAX, Features, Head
from distfacegan.sources.procedural.traits import Colour, Look, Shape, Traits

CANVAS = (300, 320)  # rows and columns
SUBPIXEL_BITS = 4  # OpenCV draws at sixteenths of a pixel
_AXIS = np.exp(-(np.linspace(-2, 2, 33, dtype=np.float32) ** 2))
SPOT = np.outer(_AXIS, _AXIS)[..., None].repeat(3, axis=2)  # a soft spot, up to two spreads away


class Canvas:
    """The head's surface as a flat picture, painted on in coordinates of the chart.

    `pixels` is u8 RGB [rows, columns, 3].
    """

    def __init__(self, head: Head, colour: Colour) -> None:
        self.head = head
        self.pixels = np.empty((*CANVAS, 3), np.uint8)
        self.pixels[:] = to_bytes(colour)

    def fill(self, outline: np.ndarray, colour: Colour) -> None:
        """Fill a closed outline [P, 2]."""
        points = [self._subpixels(outline)]
        cv2.fillPoly(self.pixels, points, to_bytes(colour), cv2.LINE_AA, SUBPIXEL_BITS)

    def stroke(self, curve: np.ndarray, width: int, colour: Colour) -> None:
        """Draw a curve [P, 2] some pixels wide."""
        points, colour = [self._subpixels(curve)], to_bytes(colour)
        cv2.polylines(self.pixels, points, False, colour, width, cv2.LINE_AA, SUBPIXEL_BITS)

    def tint(self, centre: tuple[float, float], spread: tuple[float, float], by: Colour) -> None:
        """Multiply a soft spot by a colour, and its mirror image on the face's other side too."""
        corners = np.array([[-2, 2], [2, -2]]) * spread + centre
        (left, top), (right, bottom) = self._place(corners).astype(int)
        gain = 1 + cv2.resize(SPOT, (right - left, bottom - top)) * np.subtract(by, 1, dtype="f4")
        for start in {left, CANVAS[1] - right} if centre[0] else {left}:
            patch = self.pixels[top:bottom, start : start + right - left]
            patch[:] = cv2.multiply(patch, gain, dtype=cv2.CV_8U)

    def blend(self, share: np.ndarray, colour: Colour) -> None:
        """Mix a colour in, by a share f32 [rows, columns, 1] of each pixel."""
        paint = np.array(to_bytes(colour), np.float32)
        self.pixels[:] = self.pixels + (paint - self.pixels) * share

    def _place(self, points: np.ndarray) -> np.ndarray:
        row, theta = self.head.locate(points)
        return np.stack([theta / (2 * THETA_MAX) + 0.5, row], axis=-1) * CANVAS[::-1]

    def _subpixels(self, points: np.ndarray) -> np.ndarray:
        # OpenCV counts from the centre of the first pixel.
        return np.round((self._place(points) - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)


def to_bytes(colour: Colour) -> tuple[int, int, int]:
    """Return a colour of [0, 1] as bytes."""
    r, g, b = (int(min(max(c, 0), 1) * 255) for c in colour)
    return (r, g, b)


def smooth(points: np.ndarray, closed: bool = False, steps: int = 6) -> np.ndarray:
    """Return a Catmull-Rom curve through points [P, 2]."""
    before, after = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    around = np.concatenate([before, points, after])
    a, b, c, d = (around[i : len(around) - 3 + i, None] for i in range(4))
    t = (np.arange(steps) / steps)[None, :, None]
    curve = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def paint_face(head: Head, traits: Traits) -> np.ndarray:
    """Return the colours of the head's surface, u8 RGB [rows, columns, 3]."""
    canvas, features, look = Canvas(head, traits.look.skin), head.features, traits.look
    _paint_skin(canvas, traits.shape, features, look)
    if look.beard:
        _paint_beard(canvas, traits.shape, features, look)
    for eye, pupil in zip(features.eyes, features.pupils, strict=True):
        _paint_eye(canvas, eye, pupil, look)
    _paint_mouth(canvas, features, look)
    for brow in features.brows:
        _paint_brow(canvas, brow, traits.shape, look)
    return canvas.pixels


def _shade(colour: Colour, gain: float) -> Colour:
    return (colour[0] * gain, colour[1] * gain, colour[2] * gain)


def _paint_skin(canvas: Canvas, shape: Shape, features: Features, look: Look) -> None:
    blush = (1.0, 1 - 0.5 * look.blush, 1 - 0.5 * look.blush)
    shadow = (0.85, 0.78, 0.76)
    nostril, low = features.nostrils[3], features.lips[9, 1]
    canvas.tint((0.52, -0.40), (0.30, 0.26), blush)
    canvas.tint((0.0, -shape.nose_length), (0.20, 0.15), blush)
    canvas.tint((shape.eye_distance - 0.03, 0.10), (0.28, 0.15), (0.86, 0.78, 0.76))
    canvas.tint((shape.eye_distance - 0.05, -0.13), (0.24, 0.09), (0.93, 0.88, 0.88))
    canvas.tint((0.95 * nostril[0], nostril[1] + 0.012), (0.065, 0.036), (0.25, 0.18, 0.17))
    canvas.tint((shape.nose_width + 0.03, -shape.nose_length), (0.05, 0.10), shadow)
    canvas.tint((0.0, low - 0.05), (0.24, 0.055), shadow)


def _paint_beard(canvas: Canvas, shape: Shape, features: Features, look: Look) -> None:
    corner, lip, width = features.lips[6], features.lips[3], shape.width
    right = np.array(
        [
            [1.02 * width, -0.1],
            [0.88 * width, -0.32],
            [0.66, -0.56],
            [corner[0] + 0.12, corner[1] + 0.06],
            [0.7 * corner[0], lip[1] + 0.075],
            [0.0, lip[1] + 0.05],
        ]
    )
    edge = smooth(np.concatenate([right * [-1, 1], right[-2::-1]]))
    below = np.array([[width, canvas.head.bottom], [-width, canvas.head.bottom]])
    mask = Canvas(canvas.head, (0.0, 0.0, 0.0))
    mask.fill(np.concatenate([edge, below]), (look.beard, look.beard, look.beard))
    canvas.blend(cv2.GaussianBlur(mask.pixels, (11, 11), 0) / np.float32(255), look.hair)


def _paint_eye(canvas: Canvas, eye: np.ndarray, pupil: np.ndarray, look: Look) -> None:
    outline = smooth(eye, closed=True)
    canvas.fill(outline, (0.93, 0.91, 0.89))
    turn = np.linspace(0, 2 * np.pi, 25)[:-1]
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    opening = cv2.convexHull(outline.astype(np.float32))
    black, white = (0.03, 0.03, 0.03), (1.0, 1.0, 1.0)
    for radius, colour in ((0.09, _shade(look.iris, 0.45)), (0.076, look.iris), (0.038, black)):
        disc = (pupil + radius * circle).astype(np.float32)
        _, visible = cv2.intersectConvexConvex(opening, disc)
        if visible is not None and len(visible) > 2:
            canvas.fill(visible[:, 0], colour)
    canvas.fill(pupil + [0.03, 0.035] + 0.018 * circle, white)
    canvas.stroke(smooth(eye[:4]), 2, _shade(look.hair, 0.35))
    canvas.stroke(smooth(eye[[3, 4, 5, 0]]), 1, _shade(look.skin, 0.55))
    canvas.stroke(smooth(np.add(eye[:4], [0, 0.055])), 1, _shade(look.skin, 0.7))


def _paint_mouth(canvas: Canvas, features: Features, look: Look) -> None:
    lips, mouth = features.lips, features.mouth
    above = smooth(np.concatenate([lips[:1], mouth[:3], lips[6:7]]))
    below = smooth(np.concatenate([lips[6:7], mouth[3:], lips[:1]]))
    canvas.fill(smooth(lips, closed=True), look.lips)
    canvas.fill(np.concatenate([smooth(lips[:7]), above[::-1]]), _shade(look.lips, 0.88))
    canvas.fill(np.concatenate([above, below]), (0.16, 0.05, 0.05))
    gap = float(mouth[1, 1] - mouth[4, 1])
    if gap > 0.03:
        inside = above * [0.86, 1]
        across = inside[:, 0] / inside[-1, 0]
        edge = inside[:, 1] - min(0.1, 0.6 * gap) * (1 - across**2)
        teeth = np.concatenate([inside, np.stack([inside[:, 0], edge], axis=-1)[::-1]])
        canvas.fill(teeth, (0.86, 0.83, 0.78))


def _paint_brow(canvas: Canvas, brow: np.ndarray, shape: Shape, look: Look) -> None:
    curve = smooth(brow)
    beside = np.abs(curve[:, 0]) - np.abs(curve[:, 0]).min()
    along = beside / beside.max()  # from the nose outwards
    half = shape.brow_thickness * np.minimum(1 - 0.75 * along**2, 0.45 + 4 * along)
    rise = np.stack([0 * half, half], axis=-1)
    h, s = look.hair, look.skin
    colour = (0.75 * h[0] + 0.15 * s[0], 0.75 * h[1] + 0.15 * s[1], 0.75 * h[2] + 0.15 * s[2])
    canvas.fill(np.concatenate([curve + rise, (curve - rise)[::-1]]), colour)
