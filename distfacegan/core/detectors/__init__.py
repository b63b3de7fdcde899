"""Landmark detectors: from cropped faces to the 49 points, each with a score.

The face *is* the crop, so no detector here looks for a face first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from distfacegan.core.detectors.fan import FaceAlignmentDetector
from distfacegan.core.detectors.onnx import OnnxDetector
from distfacegan.core.landmarks import plausible

__all__ = ["Detector", "FaceAlignmentDetector", "OnnxDetector", "make_detector", "trusted"]


class Detector(Protocol):
    """Finds landmarks; the result for a face does not depend on the others in the batch."""

    min_score: float  # a face whose mean score is lower is not to be trusted

    def detect(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points f32 [B, 49, 2] and scores f32 [B, 49] of RGB faces u8 [B, R, R, 3].

        Points are (x, y) in units of the face's side from its top left edge: the centre of
        pixel i is at (i + 0.5) / R. Scores are about 0 for a guess and 1 for a certain point.
        """


def make_detector(
    kind: Literal["face_alignment", "onnx"],
    *,
    model: str | Path | None = None,
    device: str = "cpu",
) -> Detector:
    """Create the detector of that name; `model` is the file of its weights.

    Raises CheckpointError where the weights are missing, damaged or of another network.
    """
    if kind == "face_alignment":
        return FaceAlignmentDetector(model, device=device)
    if kind == "onnx":
        if model is None:
            raise ValueError("the detector onnx needs a model: the path of a 68-point network")
        return OnnxDetector(model)
    raise ValueError(f"unknown detector {kind!r}: face_alignment and onnx are known")


def trusted(points: np.ndarray, score: np.ndarray, min_score: float) -> np.ndarray:
    """Say for each face, bool [B], whether its landmarks [B, 49, 2] and scores [B, 49] can be used.

    They must make a plausible face and be certain enough on average.
    """
    return plausible(points) & (score.mean(axis=1) >= min_score)
