"""The inverse of a generator: for each face the latent that makes it (section III, equation 3).

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distfacegan.core.networks import Generator
from distfacegan.core.seeding import uniform_latents
from distfacegan.errors import CheckpointError

# What each recipe asks of `invert`, where it differs from the defaults.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},  # Adam as in section III; it gives no start, no length and no bound
    "clip": {"radius": 1.0},  # the same inside the prior's box, where L-Gen and the synthesis live
}


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The best latent found for each face, on the CPU."""

    z: Tensor  # f32 [B, Z]
    loss: Tensor  # f32 [B], equation 3 at z; inf where it was never finite
    steps: Tensor  # i32 [B], updates of z that led to it; 0 is the start


def reconstruction_error(faces: Tensor, generated: Tensor) -> Tensor:
    """err = |x_s - G(z_r)| (equation 3): the mean over each image, [B, 3, R, R] -> [B]."""
    return (faces - generated).abs().flatten(1).mean(1)


def invert(
    generator: Generator,
    faces: Tensor,
    *,
    seed: int,
    rows: Sequence[int] | np.ndarray,
    steps: int = 500,
    learning_rate: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.999),
    radius: float | None = None,
) -> Inversion:
    """Minimise equation 3 over the latents of faces [B, 3, R, R], starting at uniform random ones.

    Every face is inverted as if it were alone: its start is a function of (seed, row), and what is
    not finite in one stays there. `radius` keeps latents in the box [-radius, radius]^Z. The best
    latent of the `steps` + 1 evaluated is kept. Computes on the generator's device and in its
    precision; the generator itself is not touched. No device sync before the end.

    Raises CheckpointError where faces and generator differ in resolution.
    """
    _check_faces(generator, faces, rows)
    frozen = copy.deepcopy(generator).requires_grad_(False).eval()
    frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = frozen.stem.weight
    faces = faces.to(weights, memory_format=torch.channels_last)
    start = uniform_latents(seed, rows, generator.latent_dim, stream="inversion")
    bound = torch.inf if radius is None else radius
    z = torch.from_numpy(start).to(weights).clamp_(-bound, bound).requires_grad_()
    adam = torch.optim.Adam([z], lr=learning_rate, betas=betas, fused=True)
    best_z, best_loss = z.detach().clone(), z.new_full((len(z),), torch.inf)
    best_step = torch.zeros_like(best_loss, dtype=torch.int32)

    for step in range(steps + 1):
        error = reconstruction_error(faces, frozen(z))
        with torch.no_grad():
            improved = error < best_loss  # never where the error is nan or inf
            best_z = torch.where(improved[:, None], z, best_z)
            best_loss = torch.where(improved, error, best_loss)
            best_step = torch.where(improved, step, best_step)
        if step == steps:
            break
        # Sum, not mean: each z then gets the gradient it would get alone.
        (z.grad,) = torch.autograd.grad(error.sum(), z)
        adam.step()
        z.data.clamp_(-bound, bound)

    return Inversion(best_z.float().cpu(), best_loss.float().cpu(), best_step.cpu())


def _check_faces(generator: Generator, faces: Tensor, rows: Sequence[int] | np.ndarray) -> None:
    side = generator.resolution
    if not faces.is_floating_point() or faces.ndim != 4 or faces.shape[1] != 3:
        raise ValueError(
            f"faces must be floats [B, 3, R, R], found {faces.dtype} {list(faces.shape)}"
        )
    if tuple(faces.shape[2:]) != (side, side):
        raise CheckpointError(
            f"faces are {faces.shape[2]}x{faces.shape[3]} pixels, the generator makes "
            f"{side}x{side}: use faces of its resolution or another generator"
        )
    if len(rows) != len(faces):
        raise ValueError(f"{len(faces)} faces need as many rows, found {len(rows)}")
