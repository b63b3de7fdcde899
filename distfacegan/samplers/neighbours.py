"""Latents around those of photos."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from distfacegan.core.priors import Prior
from distfacegan.core.seeding import uniform_latents
from distfacegan.samplers.sampler import Drawn, Photos, Sampler, SamplerSettings, choose_photos
from distfacegan.store.exports.export import Origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbours(SamplerSettings):
    """Latents around those of random photos: faces like those of the photos."""

    kind: Literal["neighbours"] = "neighbours"
    radius: Annotated[float, Field(gt=0, le=2)] = 0.25
    """How far each number of a latent may lie from the photo's: uniform in [-radius, radius]. The
    sum stays within the prior."""

    uses = ("latents",)

    def make(self, seed: int, latent_dim: int, prior: Prior, photos: Photos | None) -> Sampler:
        """Create the sampler."""
        assert photos is not None
        return NeighboursSampler(seed, photos, self.radius, prior.half_width)


class NeighboursSampler(Sampler):
    """Draws photos, and moves their latents at random."""

    def __init__(self, seed: int, photos: Photos, radius: float, bound: float) -> None:
        self._seed, self._photos, self._radius, self._bound = seed, photos, radius, bound

    def draw(self, indices: np.ndarray) -> Drawn:
        """Return the latents of samples i64 [n]."""
        parents = choose_photos(self._seed, indices, len(self._photos.rows), each=1)[:, 0]
        dim = self._photos.z.shape[1]
        move = uniform_latents(self._seed, indices, dim, stream="synthesis/neighbours")
        z = (self._photos.z[parents] + np.float32(self._radius) * move).clip(
            -self._bound, self._bound
        )
        rows = self._photos.rows[parents].tolist()
        return Drawn(z, [Origin("neighbours", (row,), (1.0,)) for row in rows])
