"""The distributions that generators are trained with, and the bounds that keep a search near them.

Legend: B batch, Z latent dimension.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from distfacegan.core.seeding import uniform_latents


class Bound(Protocol):
    """The latents that a search may return."""

    @property
    def half_width(self) -> float:
        """Half the width of the bound if it is a box round 0, else inf."""
        ...

    def clamp(self, z: Tensor) -> Tensor:
        """Return the latents within the bound that are nearest to z [B, Z]."""
        ...


class Prior(Protocol):
    """The distribution of a generator's latents, and what a search must know of it."""

    @property
    def half_width(self) -> float:
        """Half the width of the box round 0 that holds what `draw` returns."""
        ...

    @property
    def wide_half_width(self) -> float:
        """Half the width of the box round 0 that holds what `draw_wide` returns."""
        ...

    def draw(
        self, seed: int, rows: Sequence[int] | np.ndarray, dim: int, *, stream: str
    ) -> np.ndarray:
        """Draw a latent for each row, f32 [len(rows), dim], as a function of its address alone."""
        ...

    def draw_wide(self, seed: int, count: int, dim: int, *, stream: str) -> np.ndarray:
        """Draw latents f32 [count, dim] from the prior and its surroundings.

        The latents of photos may lie outside of the prior.
        """
        ...

    def bound(self, radius: float | None) -> Bound:
        """Return the bound of a radius: 1 is the prior itself, None no bound."""
        ...


@dataclasses.dataclass(frozen=True)
class Box:
    """The latents with |z_i| <= half_width."""

    half_width: float = math.inf

    def clamp(self, z: Tensor) -> Tensor:
        """Return the latents within the box that are nearest to z [B, Z]."""
        return z.clamp(-self.half_width, self.half_width)


@dataclasses.dataclass(frozen=True)
class UniformPrior:
    """Latents uniform in the box [-1, 1]^Z: BEGAN's prior."""

    half_width: float = 1.0
    amplitudes: tuple[float, float] = (0.6, 2.0)  # of `draw_wide`, relative to the prior

    @property
    def wide_half_width(self) -> float:
        """Half the width of the box that holds what `draw_wide` returns."""
        return self.amplitudes[1] * self.half_width

    def draw(
        self, seed: int, rows: Sequence[int] | np.ndarray, dim: int, *, stream: str
    ) -> np.ndarray:
        """Draw a latent for each row, f32 [len(rows), dim], as a function of its address alone."""
        return uniform_latents(seed, rows, dim, stream=stream)

    def draw_wide(self, seed: int, count: int, dim: int, *, stream: str) -> np.ndarray:
        """Draw latents f32 [count, dim], each one of the prior times a random amplitude."""
        drawn = self.draw(seed, range(count), dim + 1, stream=stream)
        low, high = self.amplitudes
        amplitude = low + (high - low) * (drawn[:, -1:] + 1) / 2
        return amplitude * drawn[:, :-1]

    def bound(self, radius: float | None) -> Box:
        """Return the box |z_i| <= radius."""
        return Box(math.inf if radius is None else radius)


UNIFORM = UniformPrior()
