"""metrics.jsonl: one sealed JSON object a line, each with its `step`, in the order of the steps."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distfacegan.errors import MENDED, RunDirectoryError
from distfacegan.store import files, formats
from distfacegan.store.location import Location


@dataclasses.dataclass(frozen=True)
class MetricsLine:
    """The measurements of a training at one step."""

    step: int
    loss_real: float  # L(x), of the step's last batch
    loss_fake: float  # L(G(z))
    m_global: float  # BEGAN's measure of convergence
    k: float  # the weight of L(G(z)) in D's loss
    learning_rate: float
    images_per_s: float  # since the line before
    m_global_mean: float = math.nan  # over the steps since the line before
    workers: int = 1
    time: float = math.nan  # seconds since 1970

    # These have values only at steps where generated faces are compared with real faces.
    diversity_ratio: float | None = None  # diversity of generated faces over that of real faces
    encoder_distance: float | None = None  # between codes of generated and of real faces
    nearest_ratio: float | None = None  # of distances: generated to real, over real to real

    def to_json(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if value is not None}


# The fields that a look (a comparison of generated with real faces) measures.
LOOK = ("diversity_ratio", "encoder_distance", "nearest_ratio")


def append(path: Location, line: MetricsLine) -> None:
    """Add one line."""
    content = (json.dumps(files.seal(line.to_json())) + "\n").encode()
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content)
    else:  # an object store cannot append
        files.write_bytes(path, (path.read_bytes() if path.exists() else b"") + content)


def read(path: Location) -> list[MetricsLine]:
    """Return the lines, without a last line that is still being written.

    Raises RunDirectoryError if the file is damaged.
    """
    try:
        known = [formats.known_fields(MetricsLine, found) for found in _read(path)]
        return [MetricsLine(**fields) for fields in known]
    except (TypeError, AttributeError) as error:  # fields are missing, or a line is no object
        raise RunDirectoryError(f"{path} is damaged ({error}); {MENDED}") from None


def mend(path: Location) -> int:
    """Drop the damaged lines, and return their number."""
    lines = _lines(path)
    whole = [line for line in lines if _parse(line) is not None]
    if len(whole) < len(lines):
        files.write_bytes(path, b"".join(whole))
    return len(lines) - len(whole)


def with_last_look(lines: Sequence[MetricsLine]) -> MetricsLine:
    """Return the last of the lines, with the most recent values of the LOOK fields."""
    found = {
        name: value for line in lines for name in LOOK if (value := getattr(line, name)) is not None
    }
    return dataclasses.replace(lines[-1], **found)


def truncate(path: Location, step: int) -> None:
    """Drop the lines after `step`, which a training that continues at `step` writes again."""
    kept = [line for line in _read(path) if line["step"] <= step]
    files.write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def _read(path: Location) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(_lines(path), start=1):
        parsed = _parse(line)
        if parsed is None:
            raise RunDirectoryError(f"{path} is damaged (line {number}); {MENDED}")
        found.append(parsed)
    return found


def _lines(path: Location) -> list[bytes]:
    """Return the lines, without a last one that is still being written."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the object in a line; None if the line is damaged."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "step" in found and files.is_whole(found) else None
