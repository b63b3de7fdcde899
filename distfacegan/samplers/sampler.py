"""The base classes of all samplers.

Legend: n samples, N photos, Z latent dimension.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np

from distfacegan.core.priors import Prior
from distfacegan.core.seeding import uniform_latents
from distfacegan.errors import RunDirectoryError
from distfacegan.store.exports.export import Origin


@dataclasses.dataclass(frozen=True)
class Photos:
    """The inverted photos of a run."""

    rows: np.ndarray  # i64 [N], their rows in the store
    z: np.ndarray  # f32 [N, Z]
    mirrored: np.ndarray | None = None  # f32 [N, Z], of their mirror images


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Latents, and what they were made of."""

    z: np.ndarray  # f32 [n, Z]
    origins: list[Origin | None]  # of each; None for the prior


class Sampler(abc.ABC):
    """Draws latents. A sample is a function of the seed, the photos and its index alone."""

    count: int | None = None
    """The number of samples that there are; None: as many as are asked for."""

    @abc.abstractmethod
    def draw(self, indices: np.ndarray) -> Drawn:
        """Return the latents of samples i64 [n]."""


class SamplerSettings:
    """The settings of one kind of sampler: the base of a frozen dataclass with a `kind`."""

    # pydantic, which checks the settings in a spec, reads this attribute.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "use_attribute_docstrings": True}

    kind: str
    uses: ClassVar[tuple[str, ...]] = ()
    """The groups of the store that hold the latents of photos: `latents`, `mirrored`."""

    def make(self, seed: int, latent_dim: int, prior: Prior, photos: Photos | None) -> Sampler:
        """Create the sampler; `photos` are there if it `uses` any.

        Raises a DistfaceganError if its latents cannot be had.
        """
        raise NotImplementedError

    def inputs(self) -> dict[str, Any]:
        """Return the identities of the files that the sampler reads."""
        return {}


def choose_photos(seed: int, draws: np.ndarray, num_photos: int, each: int) -> np.ndarray:
    """Choose `each` different photos at random for every draw i64 [n]: their numbers i64 [n, each].

    Raises RunDirectoryError if there are fewer photos.
    """
    if num_photos < each:
        raise RunDirectoryError(
            f"synthesize.sampler needs {each} inverted photos at least, found {num_photos}"
        )
    uniform = uniform_latents(seed, draws, each, stream="synthesis/parents").astype(np.float64)
    chosen = np.empty(uniform.shape, np.int64)
    for k in range(each):
        # Of those that are left, in the order of the photos.
        found = ((uniform[:, k] + 1) / 2 * (num_photos - k)).astype(np.int64)
        for taken in np.sort(chosen[:, :k], axis=1).T:
            found += found >= taken
        chosen[:, k] = found
    return chosen


def between(start: np.ndarray, end: np.ndarray, step: np.ndarray, steps: int) -> np.ndarray:
    """Return latents on the straight line from `start` to `end`, f32 [n, Z].

    Of `steps` steps between the ends, step i64 [n] counts from 0.
    """
    share = shares(step, steps)[:, None].astype(np.float32)
    return (1 - share) * start + share * end


def shares(step: np.ndarray, steps: int) -> np.ndarray:
    """Return the share of the way that is behind each step, f64 [n]."""
    return (step + 1) / (steps + 1)
