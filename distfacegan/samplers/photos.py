"""The latents of the photos themselves: their reconstructions."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from distfacegan.core.priors import Prior
from distfacegan.samplers.sampler import Drawn, Photos, Sampler, SamplerSettings
from distfacegan.store.exports.export import Origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfPhotos(SamplerSettings):
    """The latents of the photos, in their order: the reconstructions of the photos."""

    kind: Literal["photos"] = "photos"

    uses = ("latents",)

    def make(self, seed: int, latent_dim: int, prior: Prior, photos: Photos | None) -> Sampler:
        """Create the sampler."""
        assert photos is not None
        return PhotosSampler(photos)


class PhotosSampler(Sampler):
    """Takes the latents of the photos one after the other."""

    def __init__(self, photos: Photos) -> None:
        self._photos, self.count = photos, len(photos.rows)

    def draw(self, indices: np.ndarray) -> Drawn:
        """Return the latents of samples i64 [n]."""
        rows = self._photos.rows[indices].tolist()
        return Drawn(self._photos.z[indices], [Origin("photos", (row,), (1.0,)) for row in rows])
