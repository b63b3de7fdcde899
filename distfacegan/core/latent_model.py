"""A generator as the inversion sees it: anything that maps latents to images.

Legend: B batch, R resolution, Z latent dimension; images are about in [-1, 1].
"""

import copy
import itertools
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from distfacegan.core.frozen import FrozenGenerator
from distfacegan.core.networks import Generator
from distfacegan.core.objective import error_and_gradient
from distfacegan.core.priors import UNIFORM, Prior
from distfacegan.errors import CheckpointError


class LatentModel(Protocol):
    """A generator with fixed weights, on one device, whose images do not depend on the batch."""

    resolution: int
    latent_dim: int
    prior: Prior
    device: torch.device
    dtype: torch.dtype  # in which it computes

    def __call__(self, z: Tensor) -> Tensor:
        """Map latents [B, Z] to images [B, 3, R, R], by operations that autograd can follow."""
        ...

    def step(self, z: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do one generator step: evaluate equation 3 and its gradient by z for faces [B, 3, R, R].

        Returns the error [B], in the type of the faces, its gradient [B, Z], and G(z).
        """
        ...

    def with_dtype(self, dtype: torch.dtype) -> Self:
        """Return the same generator, computing in another type."""
        ...


class AutogradModel:
    """Any module that maps latents to images, differentiated by autograd."""

    def __init__(self, module: nn.Module, *, latent_dim: int, prior: Prior = UNIFORM) -> None:
        """Copy the module, in evaluation mode.

        Raises CheckpointError where it does not map latents [B, Z] to images [B, 3, R, R].
        """
        self._module = copy.deepcopy(module).eval().requires_grad_(False)
        self.latent_dim, self.prior = latent_dim, prior
        weight = next(itertools.chain(module.parameters(), module.buffers()))
        self.device, self.dtype = weight.device, weight.dtype
        self._autocast: torch.dtype | None = None
        with torch.no_grad():
            shape = self(weight.new_zeros(2, latent_dim)).shape
        self.resolution = shape[-1]
        if shape != (2, 3, self.resolution, self.resolution):
            raise CheckpointError(
                f"a generator maps latents [2, {latent_dim}] to images [2, 3, R, R]; "
                f"this one returns {list(shape)}"
            )

    def __call__(self, z: Tensor) -> Tensor:
        """Map latents [B, Z] to images [B, 3, R, R]."""
        rounds = self._autocast is not None
        with torch.autocast(self.device.type, self._autocast, enabled=rounds):
            return self._module(z if rounds else z.to(self.dtype))

    def step(self, z: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do one generator step, as LatentModel says."""
        return error_and_gradient(self, z, faces)

    def with_dtype(self, dtype: torch.dtype) -> "AutogradModel":
        """Return the same generator under autocast: what needs more precision keeps it."""
        other = copy.copy(self)
        other.dtype, other._autocast = dtype, dtype
        return other


def latent_model(
    module: nn.Module, *, latent_dim: int | None = None, prior: Prior = UNIFORM
) -> LatentModel:
    """Return a module that maps latents to images as a LatentModel, in the fastest form there is.

    `latent_dim` is needed where the module has no attribute of that name. The module is copied.
    """
    if isinstance(module, Generator):
        return FrozenGenerator(module)
    found = getattr(module, "latent_dim", None) if latent_dim is None else latent_dim
    if not isinstance(found, int):
        raise ValueError("latent_dim is needed: the module does not say how long its latents are")
    return AutogradModel(module, latent_dim=found, prior=prior)
