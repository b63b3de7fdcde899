"""Read the 300-W annotation format: 68 or 49 points in a `.pts` text file.

    version: 1
    n_points: 68
    {
    109.005 155.219
    ...
    }

The 49 points are the 68 without the jaw (0..16) and the inner corners of the mouth (60, 64).
"""

import math
from pathlib import Path

import numpy as np

from distfacegan.errors import SourceError

FROM_68 = np.r_[17:60, 61:64, 65:68]


def read_pts(path: Path) -> np.ndarray:
    """Return the 49 points of a file, f32 [49, 2], pixels, the first pixel's centre at (0, 0).

    300-W was annotated with Matlab, where the first pixel is number 1: so 1 is subtracted.
    Raises SourceError, naming the line, for anything but 68 or 49 points.
    """
    lines = [line.strip() for line in path.read_text("utf-8-sig", "replace").splitlines()]
    while lines and not lines[-1]:
        lines.pop()

    def expect(index: int, wanted: str) -> SourceError:
        found = f"{lines[index]!r}" if index < len(lines) else "the end of the file"
        return SourceError(f"{path}, line {index + 1}: expected {wanted}, found {found}")

    for index, wanted in enumerate(["version: 1", "n_points: 68 or 49", "{"]):
        allowed = ["n_points:68", "n_points:49"] if index == 1 else [wanted.replace(" ", "")]
        if index >= len(lines) or "".join(lines[index].split()) not in allowed:
            raise expect(index, wanted)
    count = int(lines[1].split(":")[1])
    points = []
    for index in range(3, 3 + count):
        try:
            x, y = map(float, lines[index].split())
        except (IndexError, ValueError):
            raise expect(index, f"point {index - 2} of {count}, as `x y`") from None
        if not (math.isfinite(x) and math.isfinite(y)):
            raise expect(index, "finite coordinates")
        points.append((x - 1, y - 1))
    if lines[3 + count :] != ["}"]:
        raise expect(3 + count, "`}` as the last line")
    return np.array(points, np.float32)[FROM_68 if count == 68 else slice(None)]
