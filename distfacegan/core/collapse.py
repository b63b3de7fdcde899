"""Signs that a GAN's training has gone wrong, or stalls.

Legend: N and M numbers of faces, Z latent dimension.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


def encoder_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Return the distance between the codes of generated faces [N, Z] and of real ones [M, Z].

    This is the Frechet distance of two normal distributions with means m and covariances S,
    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) (Dowson and Landau, 1982), divided by tr(S2) of the
    real ones. Codes are of D's encoder, so the result is no FID. It is 0 where the distributions
    agree, 1 if every generated face is the mean of the real ones, NaN if a code is not finite.
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
class CollapseMonitor:
    """Says whether a training has collapsed, from what is measured every so many steps.

    It has if generated faces are too much alike, unless the training is young and they have never
    differed more; or if k does not leave 0 or 1.
    """

    min_diversity: float  # below this diversity ratio faces are too much alike
    grace: int  # steps in which a young training's faces may be alike
    patience: int  # measurements in a row that may find k at 0 or 1
    varied: bool = False  # whether faces have ever differed enough
    pinned: int = 0  # measurements in a row that have found k at 0 or 1

    def judge(self, step: int, diversity_ratio: float, k: float) -> str | None:
        """Take one measurement and return what is wrong; None if nothing is."""
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
        """Return what a resumed training must give to the constructor."""
        return {"varied": self.varied, "pinned": self.pinned}


@dataclasses.dataclass
class Plateau:
    """Halves the learning rate when m_global stalls (BEGAN, arXiv:1703.10717, section 4.1)."""

    stall: int | None  # steps without a better mean of m_global; None: never halve
    best: float = math.inf
    best_step: int = 0

    def factor(self, step: int, m_global: float) -> float:
        """Return the factor for the learning rate, 1 or 0.5, after a new mean of m_global.

        >>> plateau = Plateau(stall=100)
        >>> [plateau.factor(step, m_global=0.3) for step in (50, 100, 150)]
        [1.0, 1.0, 0.5]
        """
        if m_global < self.best:
            self.best, self.best_step = m_global, step
        if self.stall is None or step - self.best_step < self.stall:
            return 1.0
        self.best_step = step
        return 0.5

    def memory(self) -> dict[str, float | int]:
        """Return what a resumed training must give to the constructor."""
        return {"best": self.best, "best_step": self.best_step}
