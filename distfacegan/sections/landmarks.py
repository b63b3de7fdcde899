"""The section `landmarks`: the detector, and which of its landmarks are trusted."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, PositiveFloat

from distfacegan.core.detectors import DETECTORS, DetectorSettings
from distfacegan.core.detectors.fan import FaceAlignment
from distfacegan.core.labelling import Labelling
from distfacegan.settings import Before, Choosing, OneOf, StorePath, Workers


class Landmarks(Choosing):
    """Faces to 49 landmarks each."""

    chooses: ClassVar[str] = "detector"

    detector: Annotated[DetectorSettings, OneOf(DETECTORS)] = FaceAlignment()
    """Where the landmarks come from."""
    flip: bool = True
    """Take the mean of the landmarks on a face and on its mirror image: a single detection has a
    sideways bias."""
    calibration: StorePath | None = None
    """A run directory, or its landmarks/calibration.json: the detector's mean offset, measured
    there on annotated photos, is taken off."""
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    """Faces whose mean score is lower are not trusted (low score); default: the detector's own."""
    max_disagreement: Annotated[PositiveFloat | None, Before(None)] = 0.05
    """Faces are not trusted (views disagree) if the landmarks on the face and on its mirror image
    differ by more: mean distance over the distance of the eyes. Null: by any amount."""
    workers: Workers = None

    def labelling(self, offset: np.ndarray | None = None) -> Labelling:
        """Return how faces get their landmarks, and which of them are trusted."""
        least, most = self.min_score, self.max_disagreement
        return Labelling(
            detector=self.detector,
            flip=self.flip,
            offset=offset,
            min_score=self.detector.min_score if least is None else least,
            max_disagreement=np.inf if most is None else most,
        )
