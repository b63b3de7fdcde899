"""How far off the landmarks of a generated face may be.

Two signs are known of each landmark: the spread of several L-Gens, and the disagreement of L-Gen
and the detector. A line maps them to the expected error. It is fitted on generated faces whose
landmarks a judge has found too.

N faces, P = 49 landmarks, S signs, K networks. Signs and errors are in eye distances.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from distfacegan.core.landmarks import distance, eye_distance

BINS = 10  # of the reliability curve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability:
    """The line from signs to the expected error of a landmark, and how well it fares."""

    signs: Sequence[str]  # "spread", "disagreement"
    judge: str  # what the errors were measured against
    offset: list[float]  # [P]
    slope: list[float]  # [S]
    # Of faces that a line fitted on the others judged, in ten parts by the error that it expects:
    expected: list[float]  # the mean expected error
    found: list[float]  # the mean error that was found
    correlation: float  # of both, over the faces

    def bound(self, share: float) -> float:
        """Return the expected error, mean of a face, that a share of all faces does not exceed."""
        if share >= 1:
            return np.inf
        middles = (np.arange(len(self.expected)) + 0.5) / len(self.expected)
        return float(np.interp(share, middles, self.expected))

    def expect(self, signs: np.ndarray) -> np.ndarray:
        """Return the expected error f32 [N, P] of signs [N, P, S]; it is never below 0."""
        found = np.array(self.offset) + signs @ np.array(self.slope)
        return found.clip(0).astype(np.float32)


def spread(points: np.ndarray) -> np.ndarray:
    """Return how far the landmarks of K networks [K, N, P, 2] lie from their mean: [N, P].

    The root of the mean squared distance, in eye distances of the mean shape.
    """
    mean = points.mean(axis=0)
    apart = distance(points, mean[None])
    return np.sqrt((apart**2).mean(axis=0)) / eye_distance(mean)[:, None]


def disagreement(points: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how far landmarks [N, P, 2] lie from others, in eye distances of these: [N, P]."""
    return distance(points, other) / eye_distance(other)[:, None]


def calibrate(signs: dict[str, np.ndarray], errors: np.ndarray, judge: str) -> Reliability:
    """Fit the line for signs [N, P] by name to the errors of landmarks [N, P], N >= 2."""
    known = np.stack(list(signs.values()), axis=-1)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    expected = np.empty(errors.shape)
    for here, there in ((even, odd), (odd, even)):
        offset, slope = _fit(known[here], errors[here])
        expected[there] = (offset + known[there] @ slope).clip(0)
    of_face, found = expected.mean(axis=1), errors.mean(axis=1)
    parts = np.array_split(np.argsort(of_face, kind="stable"), min(BINS, len(of_face)))
    offset, slope = _fit(known, errors)
    return Reliability(
        signs=list(signs),
        judge=judge,
        offset=offset.tolist(),
        slope=slope.tolist(),
        expected=[float(of_face[part].mean()) for part in parts],
        found=[float(found[part].mean()) for part in parts],
        correlation=float(np.corrcoef(of_face, found)[0, 1]),
    )


def _fit(signs: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit errors [N, P] = offset [P] + signs [N, P, S] @ slope [S] by least squares."""
    means = signs.mean(axis=0), errors.mean(axis=0)
    centred = (signs - means[0]).reshape(-1, signs.shape[-1])
    slope, *_ = np.linalg.lstsq(centred, (errors - means[1]).ravel(), rcond=None)
    return means[1] - means[0] @ slope, slope
