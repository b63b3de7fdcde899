"""The key `filter` of the section `synthesize`: which generated faces are written."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat

from distfacegan.settings import Section


class Filter(Section):
    """Generated faces that do not keep these bounds are left out and counted.

    Their indices are missing from the data set.
    """

    keep: Annotated[float, Field(gt=0, le=1)] = 1.0
    """A face is kept if its landmarks are as certain as those of this share of fresh faces: by the
    expected error, of which lgen keeps a curve. 1: all are kept. It needs a detector."""
    max_disagreement: PositiveFloat | None = None
    """Largest mean distance of L-Gen's landmarks from the detector's, over the distance of the
    eyes. It needs labels other than lgen."""
    min_contrast: Annotated[float, Field(ge=0, le=0.5)] = 0.04
    """Least standard deviation of the grey levels, of which black is 0 and white 1."""
    max_saturation: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Largest share of the pixels' channels that are 0 or 255."""
    min_distance: NonNegativeFloat = 1.0
    """Least distance to the earlier faces of the same hundred, in grey levels of 0 to 255: the root
    mean square difference of pictures of 16 x 16 pixels."""
    min_photo_distance: NonNegativeFloat = 0.0
    """Least distance to the nearest photo of the run, in the same unit. 0: it is not looked for."""
