"""Light, camera and pixels: from curved sheets to an antialiased picture.

A sheet is a grid of positions, f32 [rows, columns, 3]: x to the image's right, y up, z to the viewer, in head
units. Drawing one asks, for every pixel, which place of the sheet is seen there: a depth buffer of the
sheet's points answers to the nearest point, one Newton step to a fraction of it. Colours and light are then looked
up at that place, so that they stay as smooth as they were painted.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from distfacegan.sources.procedural_traits import Light, Pose

DISTANCE = 9.0  # of the camera from the head, in head units
PIVOT = np.array([0.0, -0.6, -0.25], np.float32)  # the head turns about the top of the neck
NEAR, FAR = 2.5, -3.5  # the depths that the depth buffer spans
DEPTH_BITS, INDEX_BITS = 12, 19  # of an i32
POINTS_PER_CELL = 1.6  # along a side of a sheet's cell, in a picture of 192 pixels
LINEAR = ((np.arange(256, dtype=np.float32) / 255) ** 2).reshape(1, 256)


@dataclasses.dataclass(frozen=True)
class Surface:
    """A sheet and its colours, u8 RGB or RGBA, spread over the same area in any resolution."""

    sheet: np.ndarray
    albedo: np.ndarray
    gloss: float = 0.1
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


def draw(
    picture: np.ndarray, surface: Surface, camera: Camera, light: Light, *, inside: bool = False
) -> np.ndarray:
    """Draw a surface, from outside or inside, over the picture f32 RGB [S, S, 3], 0 to 255.

    Returns where the points of its sheet are seen: x, y in pixels and depth, f32 [rows, columns, 3].
    """
    turned = camera.turn(surface.sheet, surface.turn)
    screen = camera.project(turned)
    seen = find_places(screen, camera.size, inside)
    if seen is None:
        return screen
    window, place, cover = seen
    albedo = _look_up(surface.albedo, place)
    if albedo.shape[2] == 4:
        cover = cover * albedo[..., 3] * np.float32(1 / 255)
    shade, shine = light_sheet(turned, light)
    colour = cv2.LUT(albedo[..., :3], LINEAR) * _look_up(shade, place)
    colour += (_look_up(shine, place) * np.float32(surface.gloss))[..., None]
    colour = np.sqrt(np.minimum(colour, 1)) * np.float32(255)
    picture[window] += (colour - picture[window]) * cover[..., None]
    return screen


def find_places(
    screen: np.ndarray, side: int, inside: bool
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
    """Return the window of the picture that shows a sheet, the sheet's places seen in it, and its coverage.

    The places are f32 [h, w, 2], shares of the columns and of the rows; the coverage is f32 [h, w] in [0, 1].
    None where nothing of the sheet is in the picture.
    """
    across, down = _slopes(screen[..., :2])
    area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    facing = -area if inside else area
    # Many points for each of the sheet's, so that no pixel of it is without one.
    scale = POINTS_PER_CELL * side / 192
    rows, columns = (round(n * scale) for n in screen.shape[:2])
    dense = cv2.resize(cv2.merge([screen, facing]), (columns, rows)).reshape(-1, 4)
    x, y, z, facing = dense.T
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
    near = (row * (1 / scale)).astype(np.int32) * screen.shape[1] + (column * (1 / scale)).astype(
        np.int32
    )
    xu, yu, xv, yv = cv2.split(
        np.concatenate([across, down], axis=-1).reshape(-1, 1, 4)[near].reshape(high, wide, 4)
    )
    at = dense[nearest]
    ex = np.arange(left, left + wide, dtype=np.float32) + np.float32(0.5) - at[..., 0]
    ey = (np.arange(top, top + high, dtype=np.float32) + np.float32(0.5))[:, None] - at[..., 1]
    area = xu * yv - yu * xv
    area = np.where(np.abs(area) < 0.1, np.copysign(np.float32(0.1), area), area) * np.float32(
        1 / scale
    )
    u = column + np.clip((ex * yv - ey * xv) / area, -1.5, 1.5) + np.float32(0.5)
    v = row + np.clip((ey * xu - ex * yu) / area, -1.5, 1.5) + np.float32(0.5)
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
    grown = cv2.dilate(nearest.astype(np.float64), np.ones((3, 3))).astype(np.int32)
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


def light_sheet(turned: np.ndarray, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Return the light that falls on a sheet, f32 RGB [rows, columns, 3], and its shine [rows, columns]."""
    normal = sheet_normals(turned)
    nx, ny, nz = cv2.split(normal)
    lx, ly, lz = (np.float32(v) for v in light.direction)
    facing = nx * lx + ny * ly + nz * lz
    hollow = cv2.blur(turned[..., 2], (17, 17)) - turned[..., 2]
    open_sky = np.clip(1 - 1.6 * np.clip(hollow, 0, 1), 0.4, 1)
    ambient = (0.72 + 0.28 * ny) * open_sky
    edge = light.rim * np.clip(1 - nz, 0, 1) ** 2 * np.clip(-nx * np.sign(lx), 0, 1)
    shade = np.empty_like(turned)
    # Light bleeds around the edge of the shadow, red the most: skin is translucent.
    for channel, bleed in enumerate((0.30, 0.17, 0.10)):
        key = np.clip((facing + bleed) / (1 + bleed), 0, 1) * (0.4 + 0.6 * open_sky)
        shade[..., channel] = key * light.key[channel] + ambient * light.ambient[channel] + edge
    halfway = np.sqrt(2 + 2 * lz)
    mirror = np.clip((facing + nz) / halfway, 0, 1)
    return shade, mirror**18


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
