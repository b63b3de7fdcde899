"""Pictures of many faces."""

import cv2
import numpy as np


def tile(faces: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay out faces u8 [B, r, r, 3] row by row on white: u8 [H, W, 3]."""
    rows = -(-len(faces) // columns)
    side = faces.shape[1] + gap
    grid = np.full((rows * side - gap, columns * side - gap, 3), 255, np.uint8)
    for i, face in enumerate(faces):
        top, left = i // columns * side, i % columns * side
        grid[top : top + faces.shape[1], left : left + faces.shape[2]] = face
    return grid


def encode(picture: np.ndarray, suffix: str = ".png") -> bytes:
    """Encode a picture u8 [H, W, 3] RGB as the image format that `suffix` names."""
    done, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"cannot encode a picture {picture.shape} as {suffix}")
    return data.tobytes()
