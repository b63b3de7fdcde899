"""How true L-Gen's landmarks are, beside what costs nothing: a linear map, and the mean shape.

The rows judged are generated faces of latents that no training has seen, with the detector's
landmarks. N rows, Z latent dimension, P = 49 landmarks. Errors are NMEs (core/landmarks.py).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from distfacegan.core.landmarks import distance, eye_distance, nme


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """Errors against a second detector, and centred: without the mean offset of each landmark."""

    lgen: float
    lgen_centred: float
    detector: float  # of the detector that labelled
    detector_centred: float
    mean: float  # of the mean of L-Gen's and the detector's landmarks
    mean_centred: float
    mean_shape_centred: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """L-Gen's errors on generated faces of fresh latents, against the detector."""

    count: int  # fresh latents
    trusted: int  # of them, those whose detected landmarks are trusted: the errors are theirs
    nme: float | None = None
    nme_linear: float | None = None  # of linear regression on the same training pairs
    nme_mean_shape: float | None = None  # of the mean shape of the fresh faces themselves
    noise: float | None = None  # of a label: half of what the two views of a face differ by
    noise_shift: float | None = None  # what a label moves when its face moves by a pixel
    nme_points: list[float] | None = None  # of each landmark
    judged: Judged | None = None
    reconstructions: int | None = None  # photos' latents, trusted
    nme_reconstructions: float | None = None  # against the detector on G(z) of photos' latents

    @property
    def complaints(self) -> list[str]:
        """What is wrong with L-Gen, in words; empty if nothing is."""
        if self.nme is None or self.nme_mean_shape is None:
            return [f"the detector trusts none of {self.count} generated faces"]
        found = []
        if self.nme_linear is not None and self.nme >= self.nme_linear:
            found.append(
                f"L-Gen is no better than linear regression: {self.nme:.2%} and "
                f"{self.nme_linear:.2%}"
            )
        if self.nme >= self.nme_mean_shape / 2:
            found.append(
                f"L-Gen is not twice as good as the mean shape: {self.nme:.2%} and "
                f"{self.nme_mean_shape:.2%}"
            )
        return found


def linear_map(z: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Fit landmarks [N, P, 2] linearly to latents [N, Z], by least squares: f64 [Z + 1, 2 P]."""
    found, *_ = np.linalg.lstsq(_with_one(z), points.reshape(len(points), -1), rcond=None)
    return found


def apply_linear(linear: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the landmarks [N, P, 2] that a linear map gives for latents [N, Z]."""
    return (_with_one(z) @ linear).reshape(len(z), -1, 2)


def nme_of_points(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the error of each landmark, mean over the faces [N, P, 2]: f64 [P]."""
    return (distance(points, truth) / eye_distance(truth)[:, None]).mean(axis=0)


def centred(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return landmarks [N, P, 2] without each landmark's mean offset, in eye distances."""
    eyes = eye_distance(truth)[:, None, None]
    return points - ((points - truth) / eyes).mean(axis=0) * eyes


def centred_nme(points: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean NME without each landmark's mean offset."""
    return float(nme(centred(points, truth), truth).mean())


def judge(predicted: np.ndarray, detected: np.ndarray, judged: np.ndarray) -> Judged:
    """Hold L-Gen's and the first detector's landmarks [N, P, 2] against the second detector's."""
    shape = np.broadcast_to(judged.mean(axis=0), judged.shape)
    both = (predicted + detected) / 2
    return Judged(
        lgen=float(nme(predicted, judged).mean()),
        lgen_centred=centred_nme(predicted, judged),
        detector=float(nme(detected, judged).mean()),
        detector_centred=centred_nme(detected, judged),
        mean=float(nme(both, judged).mean()),
        mean_centred=centred_nme(both, judged),
        mean_shape_centred=centred_nme(shape, judged),
    )


def _with_one(z: np.ndarray) -> np.ndarray:
    return np.concatenate([z, np.ones((len(z), 1), z.dtype)], axis=1).astype(np.float64)
