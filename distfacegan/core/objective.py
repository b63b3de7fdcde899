"""What an inversion minimises (section III, equation 3).

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor


def reconstruction_error(faces: Tensor, generated: Tensor) -> Tensor:
    """err = |x_s - G(z_r)| (equation 3): the mean over each image, [B, 3, R, R] -> [B].

    >>> faces = torch.zeros(1, 3, 2, 2)
    >>> reconstruction_error(faces, faces + 0.5)
    tensor([0.5000])
    """
    return (faces - generated).abs().mean((1, 2, 3))


def error_and_gradient(
    generator: Callable[[Tensor], Tensor], z: Tensor, faces: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate equation 3 and its gradient by z [B, Z] for faces [B, 3, R, R], by autograd.

    Returns the error [B], in the type of the faces, its gradient [B, Z], and G(z).
    """
    z = z.detach().requires_grad_()
    images = generator(z)
    error = reconstruction_error(faces, images.to(faces.dtype))
    # Sum, not mean: each z then gets the gradient it would get alone in the batch.
    (gradient,) = torch.autograd.grad(error.sum(), z)
    return error.detach(), gradient, images.detach()


@torch.no_grad()
def error_at(generator: Callable[[Tensor], Tensor], z: Tensor, faces: Tensor) -> Tensor:
    """Evaluate equation 3 alone, [B], for latents [B, Z] and faces [B, 3, R, R]."""
    return reconstruction_error(faces, generator(z).to(faces.dtype))
