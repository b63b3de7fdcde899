"""Landmarks of faces, and how far they can be trusted.

A single detection has a sideways bias: small networks see a blurred face and its mirror image
differently. So a face is looked at twice, as it is and mirrored, and the landmarks are the mean of
both views. The difference of the views says how sure the detector is.

B batch, R side of a face.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np

from distfacegan.core.calibration import without_offset
from distfacegan.core.detectors.detector import Detector, DetectorSettings
from distfacegan.core.landmarks import distance, eye_distance, inside, possible_shape

# A difference between the two views of a point, in sides of the face, that brings its score down
# to 1/e. Photos of faces have about 0.006, pictures of no face 0.04.
SCORE_SCALE = 0.025


class Doubt(enum.IntEnum):
    """Why the landmarks of a face are not to be trusted; the first that applies."""

    NONE = 0
    POINTS_OUTSIDE = 1
    IMPOSSIBLE_SHAPE = 2
    LOW_SCORE = 3
    VIEWS_DISAGREE = 4


@dataclasses.dataclass(frozen=True)
class Labels:
    """The landmarks of B faces."""

    points: np.ndarray  # f32 [B, 49, 2], in units of the face
    score: np.ndarray  # f32 [B, 49], about 0 for a guess and 1 for a certain point
    disagreement: np.ndarray  # f32 [B], of the two views (`compare_views`); NaN of one view
    doubt: np.ndarray  # u8 [B], a Doubt each

    @property
    def trusted(self) -> np.ndarray:
        """Whether the landmarks of each face can be used: bool [B]."""
        return self.doubt == Doubt.NONE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelling:
    """How faces get their landmarks, and which of them are trusted."""

    detector: DetectorSettings
    flip: bool = True  # the mean of a face and its mirror image
    offset: np.ndarray | None = None  # f32 [49, 2] in eye distances, which is taken off
    min_score: float = 0.0  # of the mean over the points
    max_disagreement: float = np.inf

    def make(self, device: str = "cpu") -> Labeller:
        """Load the detector; raises CheckpointError."""
        return Labeller(self, self.detector.make(device))

    def doubts(self, points: np.ndarray, score: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
        """Return a Doubt for each face, u8 [B]."""
        found = np.full(len(points), Doubt.NONE, np.uint8)
        # The first that applies is written last.
        found[disagreement > self.max_disagreement] = Doubt.VIEWS_DISAGREE  # never of NaN
        found[score.mean(axis=1) < self.min_score] = Doubt.LOW_SCORE
        found[~possible_shape(points)] = Doubt.IMPOSSIBLE_SHAPE
        found[~inside(points)] = Doubt.POINTS_OUTSIDE
        return found


class Labeller:
    """Holds one detector on one device."""

    def __init__(self, labelling: Labelling, detector: Detector) -> None:
        self._labelling, self._detector = labelling, detector

    def __call__(self, faces: np.ndarray) -> Labels:
        """Return the landmarks of RGB faces u8 [B, R, R, 3]."""
        if self._labelling.flip:
            found = self._detector.detect_twice(faces)
            points, score = found.points, found.score
            disagreement, agreement = compare_views(found.direct, found.mirrored)
            if not self._labelling.detector.gives_scores:
                score = agreement
        else:
            points, score = self._detector.detect(faces)
            disagreement = np.full(len(faces), np.nan, np.float32)
        if self._labelling.offset is not None:
            points = without_offset(points, self._labelling.offset)
        return Labels(
            points, score, disagreement, self._labelling.doubts(points, score, disagreement)
        )


def compare_views(points: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare two views' landmarks of faces, [B, 49, 2] each.

    Returns their disagreement f32 [B], the mean distance over the distance of the eyes, and the
    agreement of each point f32 [B, 49], in (0, 1]. A shift that all points share is the detector's
    bias, which the mean of both views cancels: it counts in neither.
    """
    shift = (points - other).mean(axis=1, keepdims=True)
    apart = distance(points, other + shift)
    eyes = eye_distance((points + other) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):  # where both eyes are in one place
        return apart.mean(axis=1) / eyes, np.exp(-apart / SCORE_SCALE)
