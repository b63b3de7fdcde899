"""Adam on equation 3: the recipes `paper` and `clip`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distfacegan.core.latent_model import LatentModel
from distfacegan.core.recipes.recipe import Recipe


class Adam(Recipe):
    """Adam from a random latent (section III, which gives neither the start nor the length)."""

    steps = 500

    def iterate(
        self, model: LatentModel, faces: Tensor, z: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Take steps of Adam, each followed by a return to the bound."""
        adam = torch.optim.Adam([z], lr=self.learning_rate, fused=True)
        while True:
            loss, z.grad, _ = model.step(z, faces)
            yield z, loss
            adam.step()
            z.copy_(self.bound.clamp(z))
