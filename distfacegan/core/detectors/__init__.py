"""Landmark detectors: from cropped faces to the 49 points, each with a score.

The face *is* the crop, so no detector here looks for a face first. Each module with settings is one
kind of detector.
"""

from __future__ import annotations

import numpy as np

from distfacegan.core.detectors.detector import Detector, DetectorSettings
from distfacegan.core.landmarks import plausible
from distfacegan.registry import find_kinds

__all__ = ["DETECTORS", "Detector", "DetectorSettings", "trusted"]

DETECTORS: dict[str, type[DetectorSettings]] = find_kinds(__name__)


def trusted(points: np.ndarray, score: np.ndarray, min_score: float) -> np.ndarray:
    """Say for each face, bool [B], whether its landmarks [B, 49, 2] and scores [B, 49] can be used.

    They must make a plausible face and be certain enough on average.
    """
    return plausible(points) & (score.mean(axis=1) >= min_score)
