"""300-W: folders of pictures, each with a `.pts` file of 49 points."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from distfacegan.store.exports.export import Sample
from distfacegan.store.exports.folders import Folders


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pts(Folders):
    """Folders of .png pictures with 300-W's .pts files."""

    kind: Literal["pts"] = "pts"

    files: ClassVar[str] = "folders (`00000/` and on) of `.png` pictures with 300-W's `.pts` files"
    how_to_read: ClassVar[str] = """\
    from pathlib import Path
    import numpy as np
    for path in sorted(Path(".").glob("*/*.pts")):
        landmarks = np.loadtxt(path, skiprows=3, max_rows=49) - 1  # the first pixel's centre at 0
        picture = path.with_suffix(".png")
"""

    def text_of(self, sample: Sample) -> tuple[str, str]:
        """Return a .pts file: pixels, the centre of the first at (1, 1), as in Matlab."""
        points = sample.landmarks * sample.face.shape[0] + 0.5
        lines = [f"{x:.3f} {y:.3f}" for x, y in points]
        return ".pts", "\n".join(["version: 1", f"n_points: {len(lines)}", "{", *lines, "}", ""])
