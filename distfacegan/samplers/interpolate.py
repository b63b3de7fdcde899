"""Latents on the way from one photo to another: the paper's intermediate samples (section VI)."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from distfacegan.core.priors import Prior
from distfacegan.samplers.sampler import (
    Drawn,
    Photos,
    Sampler,
    SamplerSettings,
    between,
    choose_photos,
    shares,
)
from distfacegan.store.exports.export import Origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpolate(SamplerSettings):
    """Latents between those of two random photos: faces between two people."""

    kind: Literal["interpolate"] = "interpolate"
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 14
    """Samples of one pair of photos, at equal distances between the two."""

    uses = ("latents",)

    def make(self, seed: int, latent_dim: int, prior: Prior, photos: Photos | None) -> Sampler:
        """Create the sampler."""
        assert photos is not None
        return InterpolateSampler(seed, photos, self.steps)


class InterpolateSampler(Sampler):
    """Draws pairs of photos, and takes `steps` latents between the two."""

    def __init__(self, seed: int, photos: Photos, steps: int) -> None:
        self._seed, self._photos, self._steps = seed, photos, steps

    def draw(self, indices: np.ndarray) -> Drawn:
        """Return the latents of samples i64 [n]."""
        pair, step = np.divmod(indices, self._steps)
        parents = choose_photos(self._seed, pair, len(self._photos.rows), each=2)
        start, end = self._photos.z[parents[:, 0]], self._photos.z[parents[:, 1]]
        rows, share = self._photos.rows[parents], shares(step, self._steps)
        origins: list[Origin | None] = [
            Origin("interpolate", tuple(row), (1 - s, s), step=k, steps=self._steps)
            for row, s, k in zip(rows.tolist(), share.tolist(), step.tolist(), strict=True)
        ]
        return Drawn(between(start, end, step, self._steps), origins)
