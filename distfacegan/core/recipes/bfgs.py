"""The quasi-Newton method on what G's linearisation tells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from distfacegan.core import quasi_newton
from distfacegan.core.latent_model import LatentModel
from distfacegan.core.recipes.recipe import Recipe, latent_dtype
from distfacegan.core.search import Search
from distfacegan.core.surrogate import Surrogate
from distfacegan.core.thumbnail import Linearisation, gauss_newton, thumbnails


class Bfgs(Recipe):
    """A quasi-Newton method, started by a linear model of the generator's thumbnails."""

    kind: Literal["bfgs"] = "bfgs"
    steps = 20

    def __init__(self, model: LatentModel, search: Search, surrogate: Surrogate | None) -> None:
        """Linearise the generator: 2 Z + 1 evaluations."""
        super().__init__(model, search, surrogate)
        self.linear = Linearisation(model, latent_dtype(model))

    def guess(self, faces: Tensor) -> Tensor:
        """Return the latents whose thumbnails fit best if G were linear, within the prior's box."""
        half_width = min(self.bound.half_width, self.prior.half_width)
        return self.linear.solve(thumbnails(faces), half_width)

    def iterate(
        self, model: LatentModel, faces: Tensor, z: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Take quasi-Newton steps; the linear model gives the Hessian that they start with."""
        loss, gradient, images = model.step(z, faces)
        thumbnail = thumbnails(images.to(z.dtype))
        jacobian = self.linear.jacobian_at(z, thumbnail)
        hessian = gauss_newton(jacobian, thumbnails(faces) - thumbnail)
        state = quasi_newton.begin(z, loss, gradient, hessian)

        for step in itertools.count(2):
            yield state.z, state.loss
            state = quasi_newton.advance(
                state, lambda z: model.step(z, faces)[:2], step=step, bound=self.bound
            )
