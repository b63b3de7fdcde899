"""When a GAN's training has gone wrong: what to measure, and when to say so.

Legend: N and M numbers of faces, Z latent dimension.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


def encoder_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Return how far apart two sets of codes are: [N, Z] of generated, [M, Z] of real faces.

    The Frechet distance of two normal distributions, |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2)
    (Dowson and Landau, 1982), over tr(S2) of the real ones. The codes are those of D's encoder:
    this is ours, and not FID. 0 where the distributions agree; 1 is what a mean face would get.
    NaN where a code is not finite.
    """
    if not (np.isfinite(generated).all() and np.isfinite(real).all()):
        return math.nan
    means = generated.mean(0), real.mean(0)
    spreads = _covariance(generated), _covariance(real)
    # tr (S1 S2)^1/2 = tr (S1^1/2 S2 S1^1/2)^1/2, whose matrix is symmetric.
    values, vectors = np.linalg.eigh(spreads[0])
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ spreads[1] @ root).clip(0)).sum()
    distance = ((means[0] - means[1]) ** 2).sum() + np.trace(sum(spreads)) - 2 * shared
    return float(distance / np.trace(spreads[1]))


def _covariance(codes: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(codes.astype(np.float64), rowvar=False))


@dataclasses.dataclass
class Watchman:
    """Judges what is seen of a training at one step after the other; remembers little.

    Collapse is faces that are too alike, though they were not once or the grace is over, or a k
    that does not leave 0 or 1.
    """

    min_diversity: float  # of generated faces, as a share of that of real ones
    grace: int  # steps in which faces may be alike
    patience: int  # looks in a row with k at 0, or at 1
    varied: bool = False  # whether the faces ever were
    pinned: int = 0  # looks in a row with k at 0 or 1

    def judge(self, step: int, diversity_ratio: float, k: float) -> str | None:
        """Return what is wrong, None where all is well."""
        self.pinned = self.pinned + 1 if k in (0.0, 1.0) else 0
        alike = diversity_ratio < self.min_diversity
        if alike and (self.varied or step >= self.grace):
            return (
                f"generated faces have {diversity_ratio:.3f} of the diversity of real ones, "
                f"less than {self.min_diversity}"
            )
        self.varied = self.varied or not alike
        if self.pinned >= self.patience:
            return f"k has been at {k:.0f} for {self.pinned} looks"
        return None

    def memory(self) -> dict[str, bool | int]:
        """Return what a resumed training must remember, as keyword arguments."""
        return {"varied": self.varied, "pinned": self.pinned}


@dataclasses.dataclass
class Plateau:
    """Halves the learning rate when m_global stalls (BEGAN, arXiv:1703.10717, section 4.1)."""

    stall: int | None  # steps without a better mean of m_global; None: never
    best: float = math.inf
    best_step: int = 0

    def factor(self, step: int, m_global: float) -> float:
        """Return what the learning rate is to be multiplied with, from the mean m_global."""
        if m_global < self.best:
            self.best, self.best_step = m_global, step
        if self.stall is None or step - self.best_step < self.stall:
            return 1.0
        self.best_step = step
        return 0.5

    def memory(self) -> dict[str, float | int]:
        """Return what a resumed training must remember, as keyword arguments."""
        return {"best": self.best, "best_step": self.best_step}
