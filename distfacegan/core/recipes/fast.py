"""The quasi-Newton method on what a surrogate of G tells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from distfacegan.core import quasi_newton
from distfacegan.core.latent_model import LatentModel
from distfacegan.core.recipes.recipe import Recipe
from distfacegan.core.search import Search
from distfacegan.core.surrogate import Surrogate
from distfacegan.core.thumbnail import gauss_newton, thumbnails


class Fast(Recipe):
    """Like bfgs; but a small network, trained on the generator first, replaces the linear model."""

    kind: Literal["fast"] = "fast"
    steps = 12
    needs_surrogate = True

    def __init__(self, model: LatentModel, search: Search, surrogate: Surrogate | None) -> None:
        """Keep the surrogate."""
        super().__init__(model, search, surrogate)
        assert surrogate is not None
        self.surrogate = surrogate

    def guess(self, faces: Tensor) -> Tensor:
        """Return the latents whose thumbnails fit best, as far out as the surrogate has learnt."""
        half_width = min(self.bound.half_width, self.prior.wide_half_width)
        return self.surrogate.solve(thumbnails(faces), half_width)

    def iterate(
        self, model: LatentModel, faces: Tensor, z: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Take quasi-Newton steps; the surrogate gives a new Hessian before each of them."""
        target = thumbnails(faces)
        loss, gradient, images = model.step(z, faces)
        best = thumbnails(images.to(z.dtype))  # of G at the best z

        def evaluate(z: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal images
            loss, gradient, images = model.step(z, faces)
            return loss, gradient

        def hessian_at(z: Tensor) -> Tensor:
            return gauss_newton(self.surrogate.jacobian_at(z), target - best)

        state = quasi_newton.begin(z, loss, gradient, hessian_at(z))
        yield state.z, state.loss
        for step in itertools.count(2):
            state = quasi_newton.advance(state, evaluate, step=step, bound=self.bound)
            yield state.z, state.loss
            improved = (state.steps == step)[:, None]
            best = torch.where(improved, thumbnails(images.to(z.dtype)), best)
            state = quasi_newton.rebase(state, hessian_at(state.z))
