"""Light, camera and pixels: from curved sheets to an antialiased picture.

A sheet is a grid of positions, f32 [rows, columns, 3]: x to the image's right, y up, z to the viewer, in head
units. Drawing one asks, for every pixel, which place of the sheet is seen there: a depth buffer of the
sheet's points answers to the nearest point, one Newton step to a fraction of it. Colours and light are then looked
up at that place, so that they stay as smooth as they were painted.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from distfacegan.sources.procedural_traits import Light, Pose

DISTANCE = 9.0  # of the camera from the head, in head units
PIVOT = np.array([0.0, -0.6, -0.25], np.float32)  # the head turns about the top of the neck
NEAR, FAR = 2.5, -3.5  # the depths that the depth buffer spans
DEPTH_BITS, INDEX_BITS = 12, 19  # of an i32
SPACING = 0.85  # of the points drawn, in pixels
LINEAR = ((np.arange(256, dtype=np.float32) / 255) ** 2).reshape(1, 256)


@dataclasses.dataclass(frozen=True)
class Surface:
    """A sheet and its colours, u8 RGB or RGBA, spread over the same area in any resolution."""

    sheet: np.ndarray
    albedo: np.ndarray
    gloss: float = 0.1
    solid: bool = True  # only its outside can be seen
    turn: float = 1.0  # share of the head's turn that it follows


class Camera:
    """Turns positions with the head and projects them, in perspective, to pixels."""

    def __init__(self, pose: Pose, size: int) -> None:
        self.pose, self.size = pose, size

    def turn(self, sheet: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Return the sheet turned by a share of the pose."""
        yaw, pitch, roll = (share * a for a in (self.pose.yaw, self.pose.pitch, self.pose.roll))
        about_x = cv2.Rodrigues(np.array([pitch, 0.0, 0.0]))[0]
        about_y = cv2.Rodrigues(np.array([0.0, yaw, 0.0]))[0]
        about_z = cv2.Rodrigues(np.array([0.0, 0.0, -roll]))[0]
        rotation = (about_z @ about_x @ about_y).astype(np.float32)
        return cv2.transform(sheet, np.c_[rotation, PIVOT - rotation @ PIVOT])

    def project(self, turned: np.ndarray) -> np.ndarray:
        """Return x and y in pixels and the depth z of turned positions, f32 [..., 3]."""
        x, y, z = cv2.split(turned)
        zoom = self.size * self.pose.scale / 4.3 * DISTANCE / (DISTANCE - z)
        x = self.size / 2 + zoom * (x + self.pose.shift[0])
        y = self.size / 2 - zoom * (y + self.pose.shift[1] + 0.15)
        return cv2.merge([x, y, z])


def draw(picture: np.ndarray, surface: Surface, camera: Camera, light: Light) -> np.ndarray:
    """Draw a surface over the picture f32 RGB [S, S, 3], 0 to 255.

    Returns where the points of its sheet are seen: x, y in pixels and depth, f32 [rows, columns, 3].
    """
    turned = camera.turn(surface.sheet, surface.turn)
    screen = camera.project(turned)
    seen = find_places(screen, camera.size, surface.solid)
    if seen is None:
        return screen
    window, place, cover = seen
    albedo = _look_up(surface.albedo, place)
    if albedo.shape[2] == 4:
        cover = cover * albedo[..., 3] * np.float32(1 / 255)
    lit = _look_up(light_sheet(turned, light), place)
    colour = cv2.LUT(albedo[..., :3], LINEAR) * lit[..., :3] + lit[..., 3:] * np.float32(
        surface.gloss
    )
    colour = np.sqrt(np.minimum(colour, 1)) * np.float32(255)
    picture[window] += (colour - picture[window]) * cover[..., None]
    return screen


def find_places(
    screen: np.ndarray, side: int, solid: bool
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
    """Return the window of the picture that shows a sheet, the sheet's places seen in it, and its coverage.

    The places are f32 [h, w, 2], shares of the columns and of the rows; the coverage is f32 [h, w] in [0, 1].
    None where nothing of the sheet is in the picture.
    """
    across, down = _slopes(screen[..., :2])
    facing = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    if not solid:
        facing = np.ones_like(facing)
    # So many points that no pixel of the sheet is without one.
    rows, columns = (
        math.ceil(n * float(np.quantile(np.abs(slope[::3, ::3]), 0.9)) / SPACING)
        for n, slope in zip(screen.shape[:2], (down, across), strict=True)
    )
    row_step, column_step = screen.shape[0] / rows, screen.shape[1] / columns
    dense = cv2.resize(cv2.merge([screen, facing]), (columns, rows))
    x, y, z, facing = cv2.split(dense)
    dense = dense.reshape(-1, 4)
    points = np.flatnonzero((facing > 0) & (x >= 0) & (x < side) & (y >= 0) & (y < side))
    if not len(points):
        return None
    x, y, z = cv2.split(dense[points, None, :3])
    left, top = int(x.min()), int(y.min())
    x, y = x[:, 0] - left, y[:, 0] - top
    wide, high = int(x.max()) + 1, int(y.max()) + 1
    nearest = _nearest_points(x.astype(np.int32), y.astype(np.int32), z[:, 0], points, (high, wide))
    column, row = (nearest % columns).astype(np.float32), (nearest // columns).astype(np.float32)
    # One Newton step from there to what the centres of the pixels see.
    cell = (row * row_step).astype(np.int32) * screen.shape[1] + (column * column_step).astype(
        np.int32
    )
    slopes = cv2.merge([across, down]).reshape(-1, 4)
    (x0, y0, _, _), (xu, yu, xv, yv) = cv2.split(dense[nearest]), cv2.split(slopes[cell])
    dx = np.arange(left, left + wide, dtype=np.float32) + np.float32(0.5) - x0
    dy = (np.arange(top, top + high, dtype=np.float32) + np.float32(0.5))[:, None] - y0
    area = xu * yv - yu * xv
    area = np.where(np.abs(area) < 0.1, np.copysign(np.float32(0.1), area), area)
    u = (dx * yv - dy * xv) / (area * column_step)
    v = (dy * xu - dx * yu) / (area * row_step)
    u = column + np.clip(u, -2.5, 2.5) + np.float32(0.5)
    v = row + np.clip(v, -2.5, 2.5) + np.float32(0.5)
    place = cv2.merge([u * np.float32(1 / columns), v * np.float32(1 / rows)])
    return np.s_[top : top + high, left : left + wide], place, _coverage(x, y, (high, wide))


def _nearest_points(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, points: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return the nearest of the points, given by pixel and depth, in every pixel: i32 [h, w]."""
    depth = ((z - FAR) * ((2**DEPTH_BITS - 1) / (NEAR - FAR))).astype(np.int32)
    nearest = np.zeros(size[0] * size[1], np.int32)
    # The largest of depth and number, packed into one integer.
    np.maximum.at(nearest, y * size[1] + x, (depth << INDEX_BITS) | points.astype(np.int32))
    nearest = nearest.reshape(size)
    # A pixel between points, or beside the sheet, takes its neighbours'; the coverage then cuts.
    grown = cv2.dilate(nearest.astype(np.float64), np.ones((5, 5))).astype(np.int32)
    return np.where(nearest > 0, nearest, grown) & (2**INDEX_BITS - 1)


def _coverage(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return how much of every pixel lies under points, f32 [h, w] in [0, 1]."""
    high, wide = size
    fine = np.zeros((2 * high, 2 * wide), np.uint8)
    fine[(2 * y).astype(np.int32), (2 * x).astype(np.int32)] = 255
    fine = cv2.morphologyEx(fine, cv2.MORPH_CLOSE, np.ones((5, 5)))
    fine = cv2.GaussianBlur(fine, (3, 3), 0)
    return cv2.resize(fine, (wide, high), interpolation=cv2.INTER_AREA) * np.float32(1 / 255)


def _look_up(grid: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return a grid's values at places, given as shares of its columns and rows."""
    rows, columns = grid.shape[:2]
    at = place * np.array([columns, rows], np.float32) - np.float32(0.5)
    return cv2.remap(grid, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def light_sheet(turned: np.ndarray, light: Light) -> np.ndarray:
    """Return the light that falls on a sheet, RGB, and its mirror image: f32 [rows, columns, 4]."""
    normal = sheet_normals(turned)
    nx, ny, nz = cv2.split(normal)
    lx, ly, lz = (np.float32(v) for v in light.direction)
    facing = nx * lx + ny * ly + nz * lz
    hollow = cv2.blur(turned[..., 2], (17, 17)) - turned[..., 2]
    open_sky = np.clip(1 - 1.6 * np.clip(hollow, 0, 1), 0.4, 1)
    ambient = (0.72 + 0.28 * ny) * open_sky
    edge = light.rim * np.clip(1 - nz, 0, 1) ** 2 * np.clip(-nx * np.sign(lx), 0, 1)
    lit = np.empty((*turned.shape[:2], 4), np.float32)
    # Light bleeds around the edge of the shadow, red the most: skin is translucent.
    for channel, bleed in enumerate((0.30, 0.17, 0.10)):
        key = np.clip((facing + bleed) / (1 + bleed), 0, 1) * (0.4 + 0.6 * open_sky)
        lit[..., channel] = key * light.key[channel] + ambient * light.ambient[channel] + edge
    halfway = np.sqrt(2 + 2 * lz)
    lit[..., 3] = np.clip((facing + nz) / halfway, 0, 1) ** 18
    return lit


def _slopes(sheet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the change of a sheet's values from column to column and from row to row."""
    kernel, edge = np.array([[-0.5, 0, 0.5]], np.float32), cv2.BORDER_REPLICATE
    across = cv2.filter2D(sheet, -1, kernel, borderType=edge)
    return across, cv2.filter2D(sheet, -1, kernel.T, borderType=edge)


def sheet_normals(sheet: np.ndarray) -> np.ndarray:
    """Return the outward unit normals of a sheet, f32 [rows, columns, 3]."""
    (ax, ay, az), (bx, by, bz) = (cv2.split(slope) for slope in _slopes(sheet))
    x, y, z = by * az - bz * ay, bz * ax - bx * az, bx * ay - by * ax
    length = np.sqrt(x * x + y * y + z * z) + np.float32(1e-9)
    return cv2.merge([x / length, y / length, z / length])
