"""No detector: the points that the source of the photos itself has."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from distfacegan.core.detectors.detector import AnnotatedPhotos, DetectorSettings
from distfacegan.errors import SourceError, SpecError, UnreadablePhotoError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations(DetectorSettings):
    """The source's own points, carried through the crop."""

    kind: Literal["annotations"] = "annotations"

    finds: ClassVar[bool] = False
    min_score: ClassVar[float] = 0.0

    def check(self, photos: AnnotatedPhotos | None, source: str) -> None:
        """Refuse a source that does not annotate the 49 landmarks."""
        if photos is None:
            raise SpecError("landmarks.detector annotations needs the section ingest: its source")
        numbers = (_num_points(photos, row) for row in range(len(photos.keys)))
        num_points = next(filter(None, numbers), 0)
        if num_points != 49:
            raise SourceError(
                f"landmarks.detector annotations: the source {source} has "
                f"{num_points or 'no'} points of a face, 49 are needed; "
                "use a detector that finds them in the picture, like face_alignment or onnx"
            )


def _num_points(photos: AnnotatedPhotos, row: int) -> int:
    try:
        points = photos.annotation(row)
    except UnreadablePhotoError:
        return 0  # data, never a reason to stop
    return 0 if points is None else len(points)
