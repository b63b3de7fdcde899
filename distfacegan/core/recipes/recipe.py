"""What every recipe of the inversion is.

Legend: B batch, R resolution, Z latent dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from distfacegan.core.latent_model import LatentModel
from distfacegan.core.search import Search
from distfacegan.core.surrogate import Surrogate


class Recipe:
    """A way to search for latents: the base of a class with a `kind`, in a module of its own.

    A module of this package with such a class is a recipe that specs can name; the class's
    docstring describes it to users.
    """

    kind: str
    steps: ClassVar[int]
    """Generator steps for each face where none are asked for."""
    bounded: ClassVar[bool] = True
    """Latents stay within the bound that is asked for."""
    needs_surrogate: ClassVar[bool] = False
    """A surrogate of the generator is trained first."""

    def __init__(self, model: LatentModel, search: Search, surrogate: Surrogate | None) -> None:
        """Prepare what all faces share; `model` computes in full precision.

        `surrogate` is there where the recipe needs one, on the model's device.
        """
        self.prior = model.prior
        self.bound = model.prior.bound(search.radius if self.bounded else None)
        self.learning_rate = search.learning_rate

    def guess(self, faces: Tensor) -> Tensor | None:
        """Return where to start for faces [B, 3, R, R], as [B, Z]; None: at a random latent."""
        return None

    def iterate(
        self, model: LatentModel, faces: Tensor, z: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Search for the latents of faces [B, 3, R, R] from z [B, Z], for ever.

        Yields latents [B, Z] and their errors [B] after every generator step of the `model`,
        which may compute in less precision. No device sync. Every face is treated as if it were
        alone. The caller keeps the best latent of each face and decides when to stop.
        """
        raise NotImplementedError


def latent_dtype(model: LatentModel) -> torch.dtype:
    """Return the type of latents and errors: that of the model, but at least single precision."""
    return torch.promote_types(model.dtype, torch.float32)
