"""Which generated faces are fit for a data set.

Legend: B faces, r side of a face.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np

from distfacegan.core import neighbours


class Fault(enum.IntEnum):
    """Why a face is left out of a data set; the first that applies."""

    NONE = 0
    FLAT = 1  # too little contrast
    SATURATED = 2  # too many pixels that are black or white
    UNCERTAIN = 3  # the landmarks have too large an expected error
    LABELS_DISAGREE = 4  # L-Gen and the detector
    DUPLICATE = 5  # too like an earlier face of its block
    NEAR_PHOTO = 6  # too like a real face


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds that a face has to keep; the defaults let every face pass."""

    min_contrast: float = 0.0  # standard deviation of the grey levels, black 0 and white 1
    max_saturation: float = 1.0  # share of the channels of all pixels that are 0 or 255
    max_error: float = np.inf  # expected error of the landmarks, mean, in eye distances
    max_disagreement: float = np.inf  # of L-Gen and the detector, mean, in eye distances
    min_distance: float = 0.0  # to the earlier faces, in grey levels of 0 to 255
    min_photo_distance: float = 0.0  # to the nearest real face, in grey levels


def contrast(faces: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the grey levels of faces u8 [B, r, r, 3], in [0, 0.5]."""
    return faces.mean(axis=3, dtype=np.float32).std(axis=(1, 2)) / 255


def saturation(faces: np.ndarray) -> np.ndarray:
    """Return the share of the numbers of faces u8 [B, r, r, 3] that are 0 or 255."""
    return ((faces == 0) | (faces == 255)).mean(axis=(1, 2, 3))


def find_faults(
    faces: np.ndarray,
    bounds: Bounds,
    *,
    error: np.ndarray | None = None,
    disagreement: np.ndarray | None = None,
    photo_distance: np.ndarray | None = None,
) -> np.ndarray:
    """Return the Fault of each of faces u8 [B, r, r, 3]: u8 [B].

    `error`, `disagreement` and `photo_distance` are those of Bounds, f32 [B], where known.
    """
    found = np.full(len(faces), Fault.NONE, np.uint8)
    # The first that applies is written last.
    if photo_distance is not None:
        found[photo_distance < bounds.min_photo_distance] = Fault.NEAR_PHOTO
    if bounds.min_distance > 0:
        found[neighbours.to_earlier(faces) < bounds.min_distance] = Fault.DUPLICATE
    if disagreement is not None:
        found[disagreement > bounds.max_disagreement] = Fault.LABELS_DISAGREE
    if error is not None:
        found[error > bounds.max_error] = Fault.UNCERTAIN
    found[saturation(faces) > bounds.max_saturation] = Fault.SATURATED
    found[contrast(faces) < bounds.min_contrast] = Fault.FLAT
    return found
