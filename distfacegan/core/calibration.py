"""What a detector's landmarks are off by on average, measured on annotated photos.

N faces, P points of an annotation: 49, or CelebA's 5.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from distfacegan.core.landmarks import (
    LEFT_EYE,
    MIRRORED,
    RIGHT_EYE,
    distance,
    eye_distance,
    five_points,
    nme,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """A detector's mean offset from annotations, and its error with and without it."""

    detector: str  # what was calibrated: its kind and the digest of its weights
    offset: list[list[float]]  # [49, 2], in distances of the outer eye corners
    num_points: int  # of an annotation
    num_faces: int
    nme: float  # of the detector as it is; with five points their mean distance over the eyes'
    nme_calibrated: float  # of each half of the faces, without the offset of the other half


def calibrate(points: np.ndarray, own: np.ndarray, detector: str) -> Calibration:
    """Measure a detector's landmarks f32 [N, 49, 2] against annotations [N, P, 2], N >= 2."""
    even, odd = slice(0, None, 2), slice(1, None, 2)
    crossed = [
        errors(without_offset(points[there], mean_offset(points[here], own[here])), own[there])
        for here, there in ((even, odd), (odd, even))
    ]
    return Calibration(
        detector=detector,
        offset=mean_offset(points, own).tolist(),
        num_points=own.shape[1],
        num_faces=len(points),
        nme=float(errors(points, own).mean()),
        nme_calibrated=float(np.concatenate(crossed).mean()),
    )


def mean_offset(points: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the mean offset of landmarks [N, 49, 2] from annotations [N, P, 2]: f32 [49, 2].

    In distances of the outer eye corners. The offset is the same for a face and its mirror image.
    Of five points each stands for its part of the face: eye and brow, nose, mouth.
    """
    apart = (points if own.shape[1] == 49 else five_points(points)) - own
    offset = (apart / eye_distance(points)[:, None, None]).mean(axis=0)
    if len(offset) == 5:
        left, right, nose, *mouth = offset
        offset = np.empty((49, 2), np.float32)
        offset[:5], offset[5:10], offset[10:19] = left, right, nose
        offset[LEFT_EYE], offset[RIGHT_EYE] = left, right
        offset[31:] = np.mean(mouth, axis=0)
    mirrored = offset[MIRRORED] * (-1, 1)
    return ((offset + mirrored) / 2).astype(np.float32)


def without_offset(points: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Take an offset [49, 2] off the landmarks [N, 49, 2] of faces."""
    return points - offset * eye_distance(points)[:, None, None]


def errors(points: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the error of landmarks [N, 49, 2] against annotations [N, P, 2]: f32 [N].

    The mean distance over the distance of the eyes: of their outer corners for 49 points, of their
    centres for five.
    """
    if own.shape[1] == 49:
        return nme(points, own)
    return distance(five_points(points), own).mean(-1) / distance(own[:, 0], own[:, 1])
