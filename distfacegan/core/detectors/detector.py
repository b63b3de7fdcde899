"""What every landmark detector is, and what its settings are."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from distfacegan.core.landmarks import MIRRORED, mirror


@dataclasses.dataclass(frozen=True)
class TwoViews:
    """The landmarks of faces, and what each of the two views of a face says."""

    points: np.ndarray  # f32 [B, 49, 2], of both views together
    score: np.ndarray  # f32 [B, 49]
    direct: np.ndarray  # f32 [B, 49, 2], of the face as it is
    mirrored: np.ndarray  # f32 [B, 49, 2], of the mirror image, mirrored back


class Detector(abc.ABC):
    """Finds landmarks; the result for a face does not depend on the others in the batch."""

    @abc.abstractmethod
    def detect(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points f32 [B, 49, 2] and scores f32 [B, 49] of RGB faces u8 [B, R, R, 3].

        Points are (x, y) in units of the face's side from its top left edge: the centre of
        pixel i is at (i + 0.5) / R. Scores are about 0 for a guess and 1 for a certain point.
        """

    def detect_twice(self, faces: np.ndarray) -> TwoViews:
        """Return the landmarks of faces and of their mirror images: the mean of both."""
        direct, score = self.detect(faces)
        mirrored, its_score = self.detect(np.ascontiguousarray(faces[:, :, ::-1]))
        back = mirror(mirrored)
        return TwoViews((direct + back) / 2, (score + its_score[:, MIRRORED]) / 2, direct, back)


class AnnotatedPhotos(Protocol):
    """Photos some of which have points of their own."""

    @property
    def keys(self) -> Sequence[str]:
        """The names of the photos."""
        ...

    def annotation(self, row: int) -> np.ndarray | None:
        """Return the points [P, 2] of a photo, or None; raises UnreadablePhotoError."""
        ...


class DetectorSettings:
    """The settings of one kind of detector: the base of a frozen dataclass with a `kind`.

    A module of this package with such a class is a detector that specs can name.
    """

    # Read by pydantic, which checks the settings of a spec; this package does without it.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "use_attribute_docstrings": True}

    kind: str
    flops: ClassVar[float] = 0.0
    """Floating-point operations for one face, of a detector that needs a GPU."""
    finds: ClassVar[bool] = True
    """The landmarks are found in the picture; else they are the source's own."""
    gives_scores: ClassVar[bool] = True
    """The scores say how certain a point is; else the two views of a face are compared."""
    min_score: ClassVar[float]
    """A face whose mean score is lower is not to be trusted."""

    @property
    def needs_gpu(self) -> bool:
        """Workers get a GPU each where there are any."""
        return False

    def make(self, device: str = "cpu") -> Detector:
        """Create the detector, where it `finds`.

        Raises CheckpointError where the weights are missing, damaged or of another network.
        """
        raise NotImplementedError

    def check(self, photos: AnnotatedPhotos | None, source: str) -> None:
        """Raise a DistfaceganError where landmarks cannot be had.

        `photos` are those of the spec, if it has any; `source` is the kind of their source.
        """
        self.make()
