"""Landmark detectors: from cropped faces to the 49 points, each with a score.

The face *is* the crop, so no detector here looks for a face first. Each module with settings is one
kind of detector.
"""

from __future__ import annotations

from distfacegan.core.detectors.detector import Detector, DetectorSettings
from distfacegan.registry import find_kinds

__all__ = ["DETECTORS", "Detector", "DetectorSettings"]

DETECTORS: dict[str, type[DetectorSettings]] = find_kinds(__name__)
