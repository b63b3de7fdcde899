"""Conversion between faces as they are stored and images as networks take and make them.

Legend: B batch, R side of a stored face, r side of a network's image: R, or R / n for a whole n.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def to_images(
    faces: np.ndarray | Tensor, resolution: int | None = None, device: str | torch.device = "cpu"
) -> Tensor:
    """Turn faces u8 [B, R, R, 3] into images f32 [B, 3, r, r] in [-1, 1].

    `resolution` is r, by default R. Smaller images are means over squares of pixels. Raises
    ValueError if R is not a multiple of r.

    >>> to_images(np.full((1, 2, 2, 3), 255, np.uint8), resolution=1).flatten()
    tensor([1., 1., 1.])
    """
    side = faces.shape[1]
    images = torch.as_tensor(faces, device=device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if resolution in (None, side):
        return images
    if side % resolution:
        raise ValueError(f"faces of {side} pixels cannot be averaged to {resolution}")
    return F.avg_pool2d(images, side // resolution)


def to_faces(images: Tensor) -> np.ndarray:
    """Turn images [B, 3, r, r] into faces u8 [B, r, r, 3]; what lies outside of [-1, 1] is clipped.

    >>> to_faces(torch.tensor([-1.0, 0.0, 1.5]).view(1, 3, 1, 1)).tolist()
    [[[[0, 128, 255]]]]
    """
    scaled = (images.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte().permute(0, 2, 3, 1).cpu().numpy()
