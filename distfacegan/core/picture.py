"""What G's small picture, pooled to 16x16, tells of z before G is asked: where the search starts.

Legend: B batch, Z latent dimension, P numbers of a picture, 3 * 16 * 16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from distfacegan.core import quasi_newton
from distfacegan.core.frozen import FrozenGenerator

SIDE = 16  # pixels of a picture
ROUNDING = 0.2  # of |.| at zero, in units of the mean |r|: so it vanishes with the error
STEP = 0.05  # of the central differences


def pool(images: Tensor) -> Tensor:
    """Shrink images [B, 3, R, R] to pictures [B, P] by averaging."""
    return F.adaptive_avg_pool2d(images, min(SIDE, images.shape[-1])).flatten(1)


def gauss_newton(jacobian: Tensor, residual: Tensor) -> Tensor:
    """Return J diag(1 / (|r| + epsilon)) J^T / P: the curvature of mean |r| as if r were far off 0.

    J is [B, Z, P] or [Z, P], r [B, P]; the result is [B, Z, Z].
    """
    weighted = jacobian * weights(residual)[:, None, :]
    return weighted @ jacobian.transpose(-1, -2) / residual.shape[1]


def weights(residual: Tensor) -> Tensor:
    """Return 1 / (|r| + epsilon) for residuals [B, P], epsilon a share of their mean."""
    size = residual.abs()
    epsilon = ROUNDING * size.mean(1, keepdim=True) + torch.finfo(size.dtype).eps
    return 1 / (size + epsilon)


class Linearisation:
    """G's picture to first order round z = 0: picture(z) = picture(0) + J^T z."""

    known_radius = 1.0  # of the box in which it says where to start

    def __init__(self, generator: FrozenGenerator, dtype: torch.dtype = torch.float32) -> None:
        """Measure J by central differences: 2 Z + 1 forward passes."""
        unit = STEP * torch.eye(generator.latent_dim, device=generator.device, dtype=dtype)
        with torch.no_grad():
            self.picture = pool(generator(torch.zeros_like(unit[:1]))).to(dtype)  # [1, P]
            above, below = pool(generator(unit)).to(dtype), pool(generator(-unit)).to(dtype)
        self.jacobian = (above - below) / (2 * STEP)  # [Z, P]

    def solve(self, target: Tensor, radius: float) -> Tensor:
        """Return the z [B, Z] in a box whose pictures come closest to `target` [B, P]."""
        residual = target - self.picture
        hessian = gauss_newton(self.jacobian, residual)
        gradient = -(residual * weights(residual)) @ self.jacobian.T / residual.shape[1]
        bound = torch.full_like(gradient, radius)
        return quasi_newton.box_solve(quasi_newton.damped(hessian), gradient, -bound, bound)

    def jacobian_at(self, z: Tensor, picture: Tensor) -> Tensor:
        """Return J [B, Z, P] after Broyden's update: it then leads from 0 to `picture` at z."""
        error = picture - self.picture - z @ self.jacobian
        length = z.square().sum(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
        return self.jacobian + (z / length)[:, :, None] * error[:, None, :]
