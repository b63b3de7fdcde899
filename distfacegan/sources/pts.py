"""Read the 300-W annotation format: 68 or 49 points in a `.pts` text file.

    version: 1
    n_points: 68
    {
    109.005 155.219
    ...
    }

The 49 points are the 68 without the jaw (0..16) and the inner corners of the mouth (60, 64).
"""

import re
from pathlib import Path

import numpy as np

from distfacegan.errors import SourceError

FROM_68 = np.r_[17:60, 61:64, 65:68]
SHARES = 2  # points that all lie so near to the corner are not in pixels
_NUMBER = r"-?\d+\.?\d*"


def read_pts(path: Path) -> np.ndarray:
    """Return the 49 points of a file, f32 [49, 2], pixels, the first pixel's centre at (0, 0).

    300-W was annotated with Matlab, where the first pixel has the number 1. Therefore 1 is
    subtracted.
    Raises SourceError, naming the line, for anything but 68 or 49 points in pixels.
    """
    lines = [line.strip() for line in path.read_text("utf-8-sig", "replace").splitlines()]
    while lines and not lines[-1]:
        lines.pop()

    def take(number: int, pattern: str, wanted: str) -> re.Match[str]:
        found = lines[number - 1] if number <= len(lines) else None
        if found is not None and (match := re.fullmatch(pattern, found)):
            return match
        found = "the end of the file" if found is None else repr(found)
        raise SourceError(f"{path}, line {number}: expected {wanted}, found {found}")

    take(1, r"version:\s*1", "`version: 1`")
    count = int(take(2, r"n_points:\s*(68|49)", "`n_points: 68` or 49")[1])
    take(3, r"\{", "`{`")
    pattern = rf"({_NUMBER})\s+({_NUMBER})"
    matches = [take(4 + i, pattern, f"point {i + 1} of {count}, as `x y`") for i in range(count)]
    take(4 + count, r"\}", "`}`")
    if len(lines) > 4 + count:
        take(5 + count, "", "the end of the file")
    points = np.array([match.groups() for match in matches], np.float64) - 1
    if np.abs(points + 1).max() <= SHARES:
        raise SourceError(
            f"{path}: all numbers are within [-{SHARES}, {SHARES}]: they look like shares of the "
            "picture; expected pixels, of which the first pixel's centre has the number 1"
        )
    return points[FROM_68 if count == 68 else slice(None)].astype(np.float32)
