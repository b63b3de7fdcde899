"""Grids of faces, and their encoding as image files."""

import cv2
import numpy as np


def tile(faces: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay out faces u8 [B, r, r, 3] row by row on white: a grid u8 [H, W, 3].

    >>> tile(np.zeros((3, 8, 8, 3), np.uint8), columns=2, gap=2).shape
    (18, 18, 3)
    """
    rows = -(-len(faces) // columns)
    side = faces.shape[1] + gap
    grid = np.full((rows * side - gap, columns * side - gap, 3), 255, np.uint8)
    for i, face in enumerate(faces):
        top, left = i // columns * side, i % columns * side
        grid[top : top + faces.shape[1], left : left + faces.shape[2]] = face
    return grid


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    """Encode an image u8 [H, W, 3] RGB in the file format that `suffix` names."""
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"cannot encode an image {image.shape} as {suffix}")
    return data.tobytes()
