"""Latents on the way from a photo to its mirror image (section VII, Fig. 9)."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from distfacegan.core.priors import Prior
from distfacegan.samplers.sampler import Drawn, Photos, Sampler, SamplerSettings, between, shares
from distfacegan.store.exports.export import Origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirror(SamplerSettings):
    """Latents between that of a photo and that of its mirror image: heads that turn (Fig. 9)."""

    kind: Literal["mirror"] = "mirror"
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 14
    """Samples of one photo, at equal distances between it and its mirror image."""

    uses = ("latents", "mirrored")

    def make(self, seed: int, latent_dim: int, prior: Prior, photos: Photos | None) -> Sampler:
        """Create the sampler."""
        assert photos is not None
        return MirrorSampler(photos, self.steps)


class MirrorSampler(Sampler):
    """Takes `steps` latents of every photo, in the order of the photos."""

    def __init__(self, photos: Photos, steps: int) -> None:
        assert photos.mirrored is not None
        self._photos, self._mirrored, self._steps = photos, photos.mirrored, steps
        self.count = len(photos.rows) * steps

    def draw(self, indices: np.ndarray) -> Drawn:
        """Return the latents of samples i64 [n]."""
        photo, step = np.divmod(indices, self._steps)
        z = between(self._photos.z[photo], self._mirrored[photo], step, self._steps)
        rows, share = self._photos.rows[photo], shares(step, self._steps)
        origins: list[Origin | None] = [
            Origin("mirror", (row, row), (1 - s, s), step=k, steps=self._steps)
            for row, s, k in zip(rows.tolist(), share.tolist(), step.tolist(), strict=True)
        ]
        return Drawn(z, origins)
