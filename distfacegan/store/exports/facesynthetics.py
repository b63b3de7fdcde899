"""The layout of the FaceSynthetics data set: `{id}.png` and `{id}_ldmks.txt`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from distfacegan.store.exports.export import Sample
from distfacegan.store.exports.folders import Folders


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceSynthetics(Folders):
    """Folders of .png pictures with _ldmks.txt files, as FaceSynthetics has them."""

    kind: Literal["facesynthetics"] = "facesynthetics"

    files: ClassVar[str] = "folders (`00000/` and on) of `.png` pictures with `_ldmks.txt` files"
    how_to_read: ClassVar[str] = """\
    from pathlib import Path
    import numpy as np
    for path in sorted(Path(".").glob("*/*_ldmks.txt")):
        landmarks = np.loadtxt(path)  # [49, 2] pixels from the top left edge of the picture
        picture = path.with_name(path.name.replace("_ldmks.txt", ".png"))
"""

    def text_of(self, sample: Sample) -> tuple[str, str]:
        """Return a line `x y` for each landmark, in pixels from the top left edge."""
        points = sample.landmarks * sample.face.shape[0]
        return "_ldmks.txt", "".join(f"{x:.3f} {y:.3f}\n" for x, y in points)
