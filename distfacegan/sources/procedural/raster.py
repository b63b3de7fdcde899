"""Light, camera and pixels: from curved sheets to an antialiased picture.

A sheet is a grid of positions, f32 [3, rows, columns]: x to the image's right, y up, z to the
viewer, in head units. Drawing one asks, for every pixel, which place of the sheet is seen there: a
depth buffer of the sheet's points answers to the nearest point, one Newton step to a fraction of
it. Colours and light are then looked up at that place, as smooth as they were painted.

    S  side of the picture     h, w  height and width of the window that shows a sheet

The arrays are planes rather than pixels of several numbers, and minimum and maximum stand for
clip: together they save a quarter of the time of a face.
"""

import dataclasses
import math

import cv2
import numpy as np

from distfacegan.sources.procedural.traits import Light, Pose

DISTANCE = 9.0  # of the camera from the head, in head units
PIVOT = np.array([0.0, -0.6, -0.25])  # the head turns about the top of the neck
VIEW = 4.3  # side of the picture at the head, in head units
NEAR, FAR = 2.5, -3.5  # the depths that the depth buffer spans
DEPTH_BITS, INDEX_BITS = 12, 19  # of an i32
GAP = 200  # in the depth buffer, between a near and a far part of a sheet: 0.3 head units
SPACING = 1.05  # of the points in the depth buffer, in pixels
# How far light bleeds around the edge of the shadow, red the most: skin is translucent.
BLEED = (0.30, 0.17, 0.10)
LINEAR = ((np.arange(256, dtype=np.float32) / 255) ** 2).reshape(1, 256)  # of a byte

Planes = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Surface:
    """A sheet, its colours, u8 RGB [.., .., 3], and its alpha, u8 [.., ..], each on a grid."""

    sheet: np.ndarray
    colours: np.ndarray
    alpha: np.ndarray | None = None  # None: opaque, and only its outside can be seen
    gloss: float = 0.1
    turn: float = 1.0  # share of the head's turn that it follows


class Camera:
    """Turns positions with the head and projects them, in perspective, to pixels."""

    def __init__(self, pose: Pose, size: int) -> None:
        self.pose, self.size = pose, size

    def turn(self, positions: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Return positions [3, ...] turned by a share of the pose."""
        about_x = cv2.Rodrigues(np.array([share * self.pose.pitch, 0.0, 0.0]))[0]
        about_y = cv2.Rodrigues(np.array([0.0, share * self.pose.yaw, 0.0]))[0]
        about_z = cv2.Rodrigues(np.array([0.0, 0.0, -share * self.pose.roll]))[0]
        rotation = about_z @ about_x @ about_y
        x, y, z = positions
        turned = [
            x * float(a) + y * float(b) + z * float(c) + float(d)
            for (a, b, c), d in zip(rotation, PIVOT - rotation @ PIVOT, strict=True)
        ]
        return np.stack(turned)

    def project(self, turned: np.ndarray) -> np.ndarray:
        """Return x and y in pixels, from the picture's corner, and z of turned positions."""
        x, y, z = turned
        zoom = self.size * self.pose.scale / VIEW * DISTANCE / (DISTANCE - z)
        x = self.size / 2 + zoom * (x + self.pose.shift[0])
        y = self.size / 2 - zoom * (y + self.pose.shift[1] + 0.15)
        return np.stack([x, y, z])


def draw(picture: np.ndarray, surface: Surface, camera: Camera, light: Light) -> None:
    """Draw a surface over the picture f32 RGB [S, S, 3], 0 to 255."""
    turned = camera.turn(surface.sheet, surface.turn)
    seen = find_places(camera.project(turned), camera.size, surface.alpha is None)
    if seen is None:
        return
    window, place, cover = seen
    if surface.alpha is not None:
        cover = cover * (_look_up(surface.alpha, place) * np.float32(1 / 255))
    shade, mirror = light_sheet(turned, light)
    shine = _look_up(mirror, place) * np.float32(surface.gloss)
    colour = cv2.LUT(_look_up(surface.colours, place), LINEAR) * _look_up(shade, place)
    colour = np.sqrt(np.minimum(colour + cv2.merge([shine] * 3), 1)) * np.float32(255)
    picture[window] = cv2.blendLinear(colour, picture[window], cover, 1 - cover)


def find_places(
    screen: np.ndarray, side: int, solid: bool
) -> tuple[tuple[slice, slice], Planes, np.ndarray] | None:
    """Return the window of the picture that shows a sheet, its places seen there, and its cover.

    `screen` is the projected sheet; the places are two f32 [h, w], shares of the sheet's columns
    and rows; the cover f32 [h, w] in [0, 1]. None where nothing of the sheet is in the picture.
    """
    slopes = (*_slopes(screen[0]), *_slopes(screen[1]))
    xu, xv, yu, yv = slopes
    # So many points that no pixel of the sheet is without one.
    columns = math.ceil(xu.shape[1] * _usual(xu, yu) / SPACING)
    rows = math.ceil(xu.shape[0] * _usual(xv, yv) / SPACING)
    x, y, z = (cv2.resize(plane, (columns, rows)) for plane in screen)
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    shown = (column.view(np.uint32) < side) & (row.view(np.uint32) < side)
    if solid:
        shown &= cv2.resize(xu * yv - yu * xv, (columns, rows)) > 0
    points = np.flatnonzero(shown)
    if not len(points):
        return None
    column, row = column.ravel()[points], row.ravel()[points]
    left, top = int(column.min()), int(row.min())
    size = (int(row.max()) + 1 - top, int(column.max()) + 1 - left)
    x, y = x.ravel() - np.float32(left), y.ravel() - np.float32(top)
    nearest = _nearest_points(column - left, row - top, z.ravel()[points], points, size)
    place = _refine(x, y, slopes, (rows, columns), nearest)
    window = np.s_[top : top + size[0], left : left + size[1]]
    return window, place, _cover(x[points], y[points], size)


def _usual(u: np.ndarray, v: np.ndarray) -> float:
    """A length that few of the vectors (u, v) exceed."""
    return 1.3 * math.sqrt(float(np.square(u).mean() + np.square(v).mean()))


def _nearest_points(
    column: np.ndarray, row: np.ndarray, z: np.ndarray, points: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return which of the points, given by pixel and depth, every pixel sees: i32 [h, w]."""
    depth = ((z - FAR) * ((2**DEPTH_BITS - 1) / (NEAR - FAR))).astype(np.int32)
    nearest = np.zeros(size[0] * size[1], np.int32)
    # The largest of depth and number, packed into one integer.
    key = (depth << INDEX_BITS) | points.astype(np.int32)
    np.maximum.at(nearest, row * size[1] + column, key)
    nearest = nearest.reshape(size)
    # A pixel between points, beside the sheet, or through which a far part of it shows, takes what
    # its neighbours see; the cover then cuts.
    grown = cv2.dilate(nearest.astype(np.float64), np.ones((3, 3))).astype(np.int32)
    nearest = np.where(grown - nearest > GAP << INDEX_BITS, grown, nearest)
    return nearest & (2**INDEX_BITS - 1)


def _refine(
    x: np.ndarray,
    y: np.ndarray,
    slopes: tuple[np.ndarray, ...],
    grid: tuple[int, int],
    nearest: np.ndarray,
) -> Planes:
    """One Newton step from the points seen to what the pixels' centres see.

    x and y are those of the grid's points, in pixels of the window.
    """
    rows, columns = grid
    sheet_rows, sheet_columns = slopes[0].shape
    row_step, column_step = sheet_rows / rows, sheet_columns / columns
    row = nearest // columns
    column = nearest - row * columns
    cell = (row * row_step).astype(np.int32) * sheet_columns
    cell += (column * column_step).astype(np.int32)
    xu, xv, yu, yv = (slope.ravel()[cell] for slope in slopes)
    dx = np.arange(nearest.shape[1], dtype=np.float32) + np.float32(0.5) - x[nearest]
    dy = (np.arange(nearest.shape[0], dtype=np.float32) + np.float32(0.5))[:, None] - y[nearest]
    area = xu * yv - yu * xv
    area = np.copysign(np.maximum(np.abs(area), np.float32(0.1)), area)
    across = (dx * yv - dy * xv) / (area * np.float32(column_step))
    down = (dy * xu - dx * yu) / (area * np.float32(row_step))
    u = column.astype(np.float32) + np.minimum(np.maximum(across, -2.5), 2.5)
    v = row.astype(np.float32) + np.minimum(np.maximum(down, -2.5), 2.5)
    return (u + np.float32(0.5)) / np.float32(columns), (v + np.float32(0.5)) / np.float32(rows)


def _cover(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return how much of every pixel lies under points, f32 [h, w] in [0, 1]."""
    margin = 4  # closing fills what lies between points and the array's edge
    fine = np.zeros((2 * size[0] + 2 * margin, 2 * size[1] + 2 * margin), np.uint8)
    pixel = (2 * y).astype(np.int32) * fine.shape[1] + (2 * x).astype(np.int32)
    fine.ravel()[pixel + margin * (fine.shape[1] + 1)] = 255
    closed = cv2.morphologyEx(fine, cv2.MORPH_CLOSE, np.ones((7, 7)))
    soft = cv2.GaussianBlur(closed, (3, 3), 0)[margin:-margin, margin:-margin]
    return cv2.resize(soft, size[::-1], interpolation=cv2.INTER_AREA) * np.float32(1 / 255)


def _look_up(grid: np.ndarray, place: Planes) -> np.ndarray:
    """Return a grid's values at places, given as shares of its columns and rows."""
    u = place[0] * np.float32(grid.shape[1]) - np.float32(0.5)
    v = place[1] * np.float32(grid.shape[0]) - np.float32(0.5)
    return cv2.remap(grid, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def light_sheet(turned: np.ndarray, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Return the light on a sheet, f32 RGB [rows, columns, 3], and its mirror image [.., ..]."""
    nx, ny, nz = _normals(turned)
    lx, ly, lz = light.direction
    facing = nx * lx + ny * ly + nz * lz
    hollow = cv2.blur(turned[2], (17, 17)) - turned[2]
    sky = 1 - np.minimum(np.maximum(1.6 * hollow, 0), 0.5)
    ambient = (0.75 + 0.25 * ny) * sky
    rim = light.rim * np.square(np.maximum(1 - nz, 0)) * np.maximum(-nx * math.copysign(1, lx), 0)
    sun = 0.4 + 0.6 * sky
    shade = [
        np.maximum(facing + bleed, 0) * sun * (key / (1 + bleed)) + ambient * fill + rim
        for bleed, key, fill in zip(BLEED, light.key, light.ambient, strict=True)
    ]
    half = np.minimum(np.maximum((facing + nz) / math.sqrt(2 + 2 * lz), 0), 1)
    return cv2.merge(shade), cv2.pow(half, 18)


def _slopes(plane: np.ndarray) -> Planes:
    """Return the change of a plane's values from column to column and from row to row."""
    kernel, edge = np.array([[-0.5, 0, 0.5]], np.float32), cv2.BORDER_REPLICATE
    across = cv2.filter2D(plane, -1, kernel, borderType=edge)
    return across, cv2.filter2D(plane, -1, kernel.T, borderType=edge)


def _normals(sheet: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the x, y and z, f32 [rows, columns], of a sheet's outward unit normals."""
    (ax, bx), (ay, by), (az, bz) = (_slopes(plane) for plane in sheet)
    x, y, z = by * az - bz * ay, bz * ax - bx * az, bx * ay - by * ax
    length = np.sqrt(x * x + y * y + z * z) + 1e-9
    return x / length, y / length, z / length
