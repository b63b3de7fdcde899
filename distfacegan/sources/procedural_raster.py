"""Light, camera and pixels: from curved sheets to an antialiased picture, with a depth buffer of points.

A sheet is a grid of positions; its colours may lie on a finer grid. Every point of the finer grid is drawn as one
pixel of a picture of twice the size: fine enough that the points touch, so that no triangles are needed.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from distfacegan.sources.procedural_traits import Light, Pose

DISTANCE = 9.0  # of the camera from the head, in head units
PIVOT = np.array([0.0, -0.6, -0.25], np.float32)  # the head turns about the top of the neck
DEPTH_BITS, INDEX_BITS = 13, 19
NEAR, FAR = 2.5, -3.5  # what the depth buffer spans


@dataclasses.dataclass(frozen=True)
class Surface:
    """A sheet f32 [rows, columns, 3] and its colours u8 RGB, on the same grid or a finer one."""

    sheet: np.ndarray
    albedo: np.ndarray
    turn: float = 1.0  # share of the head's turn that it follows


class Camera:
    """Turns positions with the head and projects them, with perspective, to pixels of twice the size."""

    def __init__(self, pose: Pose, size: int) -> None:
        self.pose, self.size = pose, size

    def turn(self, sheet: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Return the sheet [..., 3] turned by a share of the pose."""
        flat = cv2.transform(sheet - PIVOT, self._rotation(share))
        return flat + PIVOT

    def project(self, sheet: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Return x, y in pixels of a picture of twice the size, and the depth, f32 [..., 3]."""
        return self.see(self.turn(sheet, share))

    def see(self, turned: np.ndarray) -> np.ndarray:
        """Return x, y in pixels of twice the size, and the depth, of turned positions."""
        zoom = 2 * self.size * self.pose.scale / 4.3 * DISTANCE / (DISTANCE - turned[..., 2])
        x = self.size + zoom * (turned[..., 0] + self.pose.shift[0])
        y = self.size - zoom * (turned[..., 1] + self.pose.shift[1] + 0.15)
        return np.stack([x, y, turned[..., 2]], axis=-1).astype(np.float32)

    def _rotation(self, share: float) -> np.ndarray:
        yaw, pitch, roll = (share * a for a in (self.pose.yaw, self.pose.pitch, self.pose.roll))
        about_x = cv2.Rodrigues(np.array([pitch, 0.0, 0.0]))[0]
        about_y = cv2.Rodrigues(np.array([0.0, yaw, 0.0]))[0]
        about_z = cv2.Rodrigues(np.array([0.0, 0.0, -roll]))[0]
        return (about_z @ about_x @ about_y).astype(np.float32)


def render(
    surfaces: list[Surface], camera: Camera, light: Light, background: np.ndarray
) -> np.ndarray:
    """Return the picture u8 RGB [S, S, 3] of surfaces before a background u8 [2 S, 2 S, 3]."""
    side = background.shape[0]
    drawn = [_draw_points(surface, camera, light, side) for surface in surfaces]
    pixel = np.concatenate([d[0] for d in drawn])
    depth = np.concatenate([d[1] for d in drawn])
    colour = np.concatenate([d[2] for d in drawn])
    # The nearest point of every pixel: the largest of (depth, index) packed into one number.
    key = (depth << np.uint32(INDEX_BITS)) | np.arange(len(depth), dtype=np.uint32)
    nearest = np.zeros(side * side + 1, np.uint32)  # the last is for points out of sight
    np.maximum.at(nearest, pixel, key)
    nearest = nearest[:-1].reshape(side, side)
    index = nearest & np.uint32(2**INDEX_BITS - 1)
    picture = np.where((nearest > 0)[..., None], colour[index], background)
    return cv2.resize(picture, (side // 2, side // 2), interpolation=cv2.INTER_AREA)


def _draw_points(
    surface: Surface, camera: Camera, light: Light, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixel, the depth and the colour u8 [P, 3] of every point of a surface."""
    turned = camera.turn(surface.sheet, surface.turn)
    rows, columns = surface.albedo.shape[:2]
    normal = sheet_normals(turned)
    shade, shine = light_sheet(normal, turned, light)
    shade = cv2.resize(shade, (columns, rows))
    shine = cv2.resize(shine, (columns, rows))
    linear = cv2.LUT(surface.albedo, LINEAR) * shade + shine[..., None]
    colour = np.sqrt(np.clip(linear, 0, 1)) * 255
    screen = cv2.resize(camera.see(turned), (columns, rows))
    x, y = screen[..., 0].astype(np.int32), screen[..., 1].astype(np.int32)
    depth = np.clip((screen[..., 2] - FAR) / (NEAR - FAR), 0, 1) * (2**DEPTH_BITS - 2) + 1
    seen = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    pixel = np.where(seen, y * side + x, side * side)
    return pixel.ravel(), depth.astype(np.uint32).ravel(), colour.astype(np.uint8).reshape(-1, 3)


LINEAR = ((np.arange(256, dtype=np.float32) / 255) ** 2).reshape(1, 256)


def sheet_normals(sheet: np.ndarray) -> np.ndarray:
    """Return the outward unit normals of a sheet, f32 [rows, columns, 3]."""
    across = cv2.Sobel(sheet, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(sheet, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE)
    normal = np.cross(down, across)
    return normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)


def light_sheet(
    normal: np.ndarray, turned: np.ndarray, light: Light
) -> tuple[np.ndarray, np.ndarray]:
    """Return the light that falls on a sheet, f32 RGB [rows, columns, 3], and its shine."""
    direction = np.array(light.direction, np.float32)
    facing = normal @ direction
    # Light bleeds around the edge of the shadow, red the most: skin is translucent.
    bleed = np.array([0.35, 0.2, 0.12], np.float32)
    key = np.clip((facing[..., None] + bleed) / (1 + bleed), 0, 1) * np.array(light.key, np.float32)
    sky = 0.7 + 0.3 * normal[..., 1:2]
    hollow = cv2.blur(turned[..., 2], (21, 21)) - turned[..., 2]
    open_sky = np.clip(1 - 2.2 * np.clip(hollow, 0, 1), 0.3, 1)[..., None]
    ambient = sky * open_sky * np.array(light.ambient, np.float32)
    half = direction + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    shine = 0.12 * np.clip(normal @ half, 0, 1) ** 18
    edge = (
        light.rim
        * np.clip(1 - normal[..., 2], 0, 1) ** 3
        * np.clip(-normal[..., 0] * np.sign(direction[0]), 0, 1)
    )
    shade = key * (0.4 + 0.6 * open_sky) + ambient + edge[..., None]
    return shade.astype(np.float32), shine.astype(np.float32)
