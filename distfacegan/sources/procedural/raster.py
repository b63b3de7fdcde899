"""Light, camera and pixels: from curved sheets to an antialiased picture.

A sheet is a grid of positions, f32 [3, rows, columns]: x to the image's right, y up, z to the
viewer, in head units. To draw a sheet, the place on the sheet that each pixel sees is found first:
a depth buffer gives the nearest point of the grid, and one Newton step refines the place between
the points. The colours and the light are then interpolated at this place.

    S  side of the picture     h, w  height and width of the window that shows a sheet

For speed, x, y and z are separate arrays, and minimum and maximum are used instead of clip:
together this saves a quarter of the time of a face.
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
GAP = 200  # a larger step in the depth buffer is the gap between two parts: 0.3 head units
SPACING = 1.05  # distance of the points in the depth buffer, in pixels
# How far light reaches beyond the edge of the shadow in red, green and blue: skin is translucent.
BLEED = (0.30, 0.17, 0.10)
# The linear light of each byte of a colour.
LINEAR = ((np.arange(256, dtype=np.float32) / 255) ** 2).reshape(1, 256)

Planes = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Surface:
    """A sheet, its colours, u8 RGB [.., .., 3], and its alpha, u8 [.., ..], each on a grid."""

    sheet: np.ndarray
    colours: np.ndarray
    alpha: np.ndarray | None = None  # None: opaque, and only its outside can be seen
    gloss: float = 0.1
    turn: float = 1.0  # the surface turns by this share of the head's turn


class Camera:
    """Turns positions with the head, and projects positions in perspective to pixels."""

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
        """Return x, y and z of turned positions: x and y in pixels from the picture's corner."""
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
    """Return the window of the picture that shows a sheet, the places seen there, and the cover.

    `screen` is the projected sheet. The places are two f32 [h, w], shares of the sheet's columns
    and rows, one for each pixel of the window. The cover f32 [h, w] is the share of each pixel that
    the sheet covers. Returns None if the sheet is outside the picture.
    """
    slopes = (*_slopes(screen[0]), *_slopes(screen[1]))
    xu, xv, yu, yv = slopes
    # The grid is scaled so that every pixel of the sheet has a point.
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
    """Return the number of the nearest point that each pixel sees, i32 [h, w].

    The points are given by column and row of their pixel, by their depth z and by their number.
    """
    depth = ((z - FAR) * ((2**DEPTH_BITS - 1) / (NEAR - FAR))).astype(np.int32)
    nearest = np.zeros(size[0] * size[1], np.int32)
    # Depth and number are packed into one integer, so that the maximum is the nearest point.
    key = (depth << INDEX_BITS) | points.astype(np.int32)
    np.maximum.at(nearest, row * size[1] + column, key)
    nearest = nearest.reshape(size)
    # A pixel may lie between points or beside the sheet, or show a far part of the sheet through a
    # gap in the near part. Such a pixel takes the nearest point of its neighbours. The cover cuts
    # off what is beside the sheet.
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
    """Return the places that the pixels' centres see: one Newton step from the nearest points.

    x and y are the coordinates of the grid's points, in pixels of the window.
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
    """Return the share of every pixel that the points cover, f32 [h, w] in [0, 1]."""
    margin = 4  # without a margin, closing would fill the space between points and the edge
    fine = np.zeros((2 * size[0] + 2 * margin, 2 * size[1] + 2 * margin), np.uint8)
    pixel = (2 * y).astype(np.int32) * fine.shape[1] + (2 * x).astype(np.int32)
    fine.ravel()[pixel + margin * (fine.shape[1] + 1)] = 255
    closed = cv2.morphologyEx(fine, cv2.MORPH_CLOSE, np.ones((7, 7)))
    soft = cv2.GaussianBlur(closed, (3, 3), 0)[margin:-margin, margin:-margin]
    return cv2.resize(soft, size[::-1], interpolation=cv2.INTER_AREA) * np.float32(1 / 255)


def _look_up(grid: np.ndarray, place: Planes) -> np.ndarray:
    """Return the values of a grid at places, which are shares of the grid's columns and rows."""
    u = place[0] * np.float32(grid.shape[1]) - np.float32(0.5)
    v = place[1] * np.float32(grid.shape[0]) - np.float32(0.5)
    return cv2.remap(grid, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def light_sheet(turned: np.ndarray, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Return the light on a sheet, f32 RGB [rows, columns, 3], and the highlights [.., ..]."""
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
