"""Light, camera and pixels: from curved sheets to an antialiased picture.

A sheet is a grid of positions, f32 [rows, columns, 3]: x to the image's right, y up, z to the
viewer, in head units. Drawing one asks, for every pixel, which place of the sheet is seen there: a
depth buffer of the sheet's points answers to the nearest point, one Newton step to a fraction of
it. Colours and light are then looked up at that place, as smooth as they were painted.

    S  side of the picture     h, w  height and width of the window that shows a sheet
"""

import dataclasses
import math

import cv2
import numpy as np

from distfacegan.sources.procedural.traits import Light, Pose

DISTANCE = 9.0  # of the camera from the head, in head units
PIVOT = np.array([0.0, -0.6, -0.25], np.float32)  # the head turns about the top of the neck
VIEW = 4.3  # side of the picture at the head, in head units
NEAR, FAR = 2.5, -3.5  # the depths that the depth buffer spans
DEPTH_BITS, INDEX_BITS = 12, 19  # of an i32
GAP = 200  # in the depth buffer, between a near and a far part of a sheet: 0.3 head units
SPACING = 0.85  # of the points in the depth buffer, in pixels
# How far light bleeds around the edge of the shadow, red the most: skin is translucent.
BLEED = (0.30, 0.17, 0.10)
LINEAR = ((np.arange(256, dtype=np.float32) / 255) ** 2).reshape(1, 256)  # of a byte


@dataclasses.dataclass(frozen=True)
class Surface:
    """A sheet and its colours, u8 RGB or RGBA, spread over the same area in any resolution."""

    sheet: np.ndarray
    colours: np.ndarray
    gloss: float = 0.1
    solid: bool = True  # only its outside can be seen
    turn: float = 1.0  # share of the head's turn that it follows


class Camera:
    """Turns positions with the head and projects them, in perspective, to pixels."""

    def __init__(self, pose: Pose, size: int) -> None:
        self.pose, self.size = pose, size

    def turn(self, positions: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Return positions [rows, columns, 3] turned by a share of the pose."""
        about_x = cv2.Rodrigues(np.array([share * self.pose.pitch, 0.0, 0.0]))[0]
        about_y = cv2.Rodrigues(np.array([0.0, share * self.pose.yaw, 0.0]))[0]
        about_z = cv2.Rodrigues(np.array([0.0, 0.0, -share * self.pose.roll]))[0]
        rotation = about_z @ about_x @ about_y
        return cv2.transform(positions, np.c_[rotation, PIVOT - rotation @ PIVOT])

    def project(self, turned: np.ndarray) -> np.ndarray:
        """Return x and y in pixels, from the picture's corner, and z of turned positions."""
        x, y, z = cv2.split(turned)
        zoom = self.size * self.pose.scale / VIEW * DISTANCE / (DISTANCE - z)
        x = self.size / 2 + zoom * (x + self.pose.shift[0])
        y = self.size / 2 - zoom * (y + self.pose.shift[1] + 0.15)
        return cv2.merge([x, y, z])


def draw(picture: np.ndarray, surface: Surface, camera: Camera, light: Light) -> None:
    """Draw a surface over the picture f32 RGB [S, S, 3], 0 to 255."""
    turned = camera.turn(surface.sheet, surface.turn)
    seen = find_places(camera.project(turned), camera.size, surface.solid)
    if seen is None:
        return
    window, place, cover = seen
    colours = _look_up(surface.colours, place)
    if colours.shape[2] == 4:
        cover = cover * colours[..., 3] * np.float32(1 / 255)
    lit = _look_up(light_sheet(turned, light), place)
    colour = cv2.LUT(colours[..., :3], LINEAR) * lit[..., :3]
    colour += lit[..., 3:] * np.float32(surface.gloss)
    colour = np.sqrt(np.minimum(colour, 1)) * np.float32(255)
    picture[window] += (colour - picture[window]) * cover[..., None]


def find_places(
    screen: np.ndarray, side: int, solid: bool
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
    """Return the window of the picture that shows a sheet, its places seen there, and its cover.

    `screen` is the projected sheet; the places are f32 [h, w, 2], shares of the sheet's columns and
    rows; the cover f32 [h, w] in [0, 1]. None where nothing of the sheet is in the picture.
    """
    slopes = np.concatenate(_slopes(screen[..., :2]), axis=-1)
    xu, yu, xv, yv = cv2.split(slopes)
    # So many points that no pixel of the sheet is without one.
    columns = math.ceil(screen.shape[1] * _usual(xu, yu) / SPACING)
    rows = math.ceil(screen.shape[0] * _usual(xv, yv) / SPACING)
    dense: np.ndarray = cv2.resize(screen, (columns, rows))
    x, y, z = cv2.split(dense)
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    shown = (column.view(np.uint32) < side) & (row.view(np.uint32) < side)
    if solid:
        shown &= cv2.resize(xu * yv - yu * xv, (columns, rows)) > 0
    points = np.flatnonzero(shown)
    if not len(points):
        return None
    x, y, z = (v.ravel()[points] for v in (x, y, z))
    column, row = (v.ravel()[points] for v in (column, row))
    left, top = int(column.min()), int(row.min())
    size = (int(row.max()) + 1 - top, int(column.max()) + 1 - left)
    nearest = _nearest_points(column - left, row - top, z, points.astype(np.int32), size)
    place = _refine(dense, slopes, nearest, (left, top))
    window = np.s_[top : top + size[0], left : left + size[1]]
    return window, place, _cover(x - left, y - top, size)


def _usual(u: np.ndarray, v: np.ndarray) -> float:
    """A length that few of the vectors (u, v) exceed."""
    return 1.3 * math.sqrt(float(np.vdot(u, u) + np.vdot(v, v)) / u.size)


def _nearest_points(
    column: np.ndarray, row: np.ndarray, z: np.ndarray, points: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return which of the points, given by pixel and depth, every pixel sees: i32 [h, w]."""
    depth = ((z - FAR) * ((2**DEPTH_BITS - 1) / (NEAR - FAR))).astype(np.int32)
    nearest = np.zeros(size[0] * size[1], np.int32)
    # The largest of depth and number, packed into one integer.
    np.maximum.at(nearest, row * size[1] + column, (depth << INDEX_BITS) | points)
    nearest = nearest.reshape(size)
    # A pixel between points, beside the sheet, or through which a far part of it shows, takes what
    # its neighbours see; the cover then cuts.
    grown = cv2.dilate(nearest.astype(np.float64), np.ones((3, 3))).astype(np.int32)
    nearest = np.where(grown - nearest > GAP << INDEX_BITS, grown, nearest)
    return nearest & (2**INDEX_BITS - 1)


def _refine(
    dense: np.ndarray, slopes: np.ndarray, nearest: np.ndarray, corner: tuple[int, int]
) -> np.ndarray:
    """One Newton step from the points seen to what the pixels' centres see: places [h, w, 2]."""
    (rows, columns), (high, wide) = dense.shape[:2], nearest.shape
    row_step, column_step = slopes.shape[0] / rows, slopes.shape[1] / columns
    row, column = nearest // columns, nearest % columns
    cell = (row * row_step).astype(np.int32), (column * column_step).astype(np.int32)
    x, y, _ = cv2.split(dense.reshape(-1, 3)[nearest])
    xu, yu, xv, yv = cv2.split(slopes[cell])
    dx = np.arange(wide, dtype=np.float32) + np.float32(corner[0] + 0.5) - x
    dy = (np.arange(high, dtype=np.float32) + np.float32(corner[1] + 0.5))[:, None] - y
    area = xu * yv - yu * xv
    area = np.where(np.abs(area) < 0.1, np.copysign(np.float32(0.1), area), area)
    across = (dx * yv - dy * xv) / area * np.float32(1 / column_step)
    down = (dy * xu - dx * yu) / area * np.float32(1 / row_step)
    across = np.minimum(np.maximum(across, -2.5), 2.5) + np.float32(0.5)
    down = np.minimum(np.maximum(down, -2.5), 2.5) + np.float32(0.5)
    u = (column.astype(np.float32) + across) * np.float32(1 / columns)
    v = (row.astype(np.float32) + down) * np.float32(1 / rows)
    return cv2.merge([u, v])


def _cover(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return how much of every pixel lies under points, f32 [h, w] in [0, 1]."""
    fine = np.zeros((2 * size[0], 2 * size[1]), np.uint8)
    fine[(2 * y).astype(np.int32), (2 * x).astype(np.int32)] = 255
    closed = cv2.morphologyEx(fine, cv2.MORPH_CLOSE, np.ones((5, 5)))
    soft = cv2.resize(cv2.GaussianBlur(closed, (3, 3), 0), size[::-1], interpolation=cv2.INTER_AREA)
    return soft * np.float32(1 / 255)


def _look_up(grid: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return a grid's values at places, given as shares of its columns and rows."""
    at = place * np.array(grid.shape[1::-1], np.float32) - np.float32(0.5)
    u, v = cv2.split(at)
    return cv2.remap(grid, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def light_sheet(turned: np.ndarray, light: Light) -> np.ndarray:
    """Return the light that falls on a sheet, RGB, and its mirror image: f32 [rows, columns, 4]."""
    nx, ny, nz = _normals(turned)
    lx, ly, lz = (np.float32(v) for v in light.direction)
    facing = nx * lx + ny * ly + nz * lz
    hollow = cv2.blur(turned[..., 2], (17, 17)) - turned[..., 2]
    sky = 1 - np.minimum(np.maximum(np.float32(1.6) * hollow, 0), np.float32(0.5))
    ambient = (np.float32(0.75) + np.float32(0.25) * ny) * sky
    rim = np.float32(light.rim) * np.maximum(1 - nz, 0) ** 2 * np.maximum(-nx * np.sign(lx), 0)
    sun = np.float32(0.4) + np.float32(0.6) * sky
    halfway = np.float32(math.sqrt(2 + 2 * lz))
    lit = [np.minimum(np.maximum((facing + nz) / halfway, 0), 1) ** 18]
    for bleed, key, fill in reversed(list(zip(BLEED, light.key, light.ambient, strict=True))):
        direct = np.maximum(facing + np.float32(bleed), 0) * sun * np.float32(key / (1 + bleed))
        lit.insert(0, direct + ambient * np.float32(fill) + rim)
    return cv2.merge(lit)


def _slopes(sheet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the change of a sheet's values from column to column and from row to row."""
    kernel, edge = np.array([[-0.5, 0, 0.5]], np.float32), cv2.BORDER_REPLICATE
    across = cv2.filter2D(sheet, -1, kernel, borderType=edge)
    return across, cv2.filter2D(sheet, -1, kernel.T, borderType=edge)


def _normals(sheet: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the x, y and z, f32 [rows, columns], of a sheet's outward unit normals."""
    (ax, ay, az), (bx, by, bz) = (cv2.split(slope) for slope in _slopes(sheet))
    x, y, z = by * az - bz * ay, bz * ax - bx * az, bx * ay - by * ax
    length = np.sqrt(x * x + y * y + z * z) + np.float32(1e-9)
    return x / length, y / length, z / length
