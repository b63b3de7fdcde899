"""Images shrunk to 16 x 16 pixels: with so few numbers, what G does near a z is cheap to model.

Legend: B batch, R resolution, Z latent dimension, P numbers of a thumbnail, 3 * 16 * 16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from distfacegan.core import quasi_newton
from distfacegan.core.latent_model import LatentModel

SIDE = 16  # pixels
ROUNDING = 0.2  # epsilon of `weights`, relative to the mean |r|: it vanishes with the error
STEP = 0.05  # of the central differences, in each z_i


def thumbnails(images: Tensor) -> Tensor:
    """Shrink images [B, 3, R, R] to thumbnails [B, P] by averaging.

    >>> thumbnails(torch.ones(2, 3, 64, 64)).shape
    torch.Size([2, 768])
    """
    return F.adaptive_avg_pool2d(images, min(SIDE, images.shape[-1])).flatten(1)


def gauss_newton(jacobian: Tensor, residual: Tensor) -> Tensor:
    """Return the Hessian of the mean |r|, about: J diag(1 / (|r| + epsilon)) J^T / P.

    J is [B, Z, P] or [Z, P], r [B, P]; the result is [B, Z, Z].
    """
    weighted = jacobian * weights(residual)[:, None, :]
    return weighted @ jacobian.transpose(-1, -2) / residual.shape[1]


def weights(residual: Tensor) -> Tensor:
    """Return 1 / (|r| + epsilon) for residuals [B, P], epsilon being a share of their mean."""
    size = residual.abs()
    epsilon = ROUNDING * size.mean(1, keepdim=True) + torch.finfo(size.dtype).eps
    return 1 / (size + epsilon)


class Linearisation:
    """G's thumbnail to first order round z = 0: thumbnail(z) = thumbnail(0) + J^T z."""

    def __init__(self, model: LatentModel, dtype: torch.dtype = torch.float32) -> None:
        """Measure J by central differences: 2 Z + 1 evaluations of G."""
        unit = STEP * torch.eye(model.latent_dim, device=model.device, dtype=dtype)
        with torch.no_grad():
            at_zero = model(torch.zeros_like(unit[:1]))
            above, below = (thumbnails(model(z)).to(dtype) for z in (unit, -unit))
        self.thumbnail = thumbnails(at_zero).to(dtype)  # [1, P]
        self.jacobian = (above - below) / (2 * STEP)  # [Z, P]

    def solve(self, target: Tensor, half_width: float) -> Tensor:
        """Return the z [B, Z] in a box round 0 whose thumbnails come closest to target [B, P]."""
        residual = target - self.thumbnail
        hessian = gauss_newton(self.jacobian, residual)
        gradient = -(residual * weights(residual)) @ self.jacobian.T / residual.shape[1]
        bound = torch.full_like(gradient, half_width)
        return quasi_newton.box_solve(quasi_newton.damped(hessian), gradient, -bound, bound)

    def jacobian_at(self, z: Tensor, thumbnail: Tensor) -> Tensor:
        """Return J [B, Z, P] after Broyden's update.

        The updated J agrees with the thumbnails [B, P] that G was seen to have at z [B, Z].
        """
        error = thumbnail - self.thumbnail - z @ self.jacobian
        length = z.square().sum(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
        return self.jacobian + (z / length)[:, :, None] * error[:, None, :]
