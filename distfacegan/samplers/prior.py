"""Latents of the prior, the distribution that the generator was trained with."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from distfacegan.core.priors import Prior
from distfacegan.samplers.sampler import Drawn, Photos, Sampler, SamplerSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfPrior(SamplerSettings):
    """Latents of the generator's prior: new faces."""

    kind: Literal["prior"] = "prior"

    def make(self, seed: int, latent_dim: int, prior: Prior, photos: Photos | None) -> Sampler:
        """Create the sampler."""
        return PriorSampler(seed, latent_dim, prior)


class PriorSampler(Sampler):
    """Draws from the prior."""

    def __init__(self, seed: int, latent_dim: int, prior: Prior) -> None:
        self._seed, self._latent_dim, self._prior = seed, latent_dim, prior

    def draw(self, indices: np.ndarray) -> Drawn:
        """Return the latents of samples i64 [n]."""
        z = self._prior.draw(self._seed, indices, self._latent_dim, stream="synthesis")
        return Drawn(z, [None] * len(indices))
