"""landmarks/calibration.json: what a detector is off by, measured on a run's annotated photos."""

from __future__ import annotations

import dataclasses

from distfacegan.core.calibration import Calibration
from distfacegan.errors import MENDED, RunDirectoryError
from distfacegan.store import files, formats
from distfacegan.store.location import Location

NAME = "calibration.json"


def path_in(folder: Location) -> Location:
    """Return the path of the calibration that a run directory, or a path itself, means."""
    return folder if folder.name.endswith(".json") else folder / "landmarks" / NAME


def save(path: Location, calibration: Calibration) -> None:
    """Write a calibration."""
    files.write_json(path, files.seal({**dataclasses.asdict(calibration), **formats.stamp()}))


def load(path: Location) -> Calibration:
    """Read a calibration; raises RunDirectoryError if there is none, or if it is damaged."""
    path = path_in(path)
    if not path.exists():
        raise RunDirectoryError(
            f"no calibration of a detector at {path}: the stage landmarks writes one in a run "
            "whose photos are annotated and whose detector looks at the picture"
        )
    found = files.read_json(path)
    formats.check(path, found)
    try:
        calibration = Calibration(**formats.known_fields(Calibration, found))
    except TypeError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}; {MENDED}") from None
    if [len(row) for row in calibration.offset] != [2] * 49:
        raise RunDirectoryError(
            f"{path} is damaged: its offset is not 49 pairs of numbers; {MENDED}"
        )
    return calibration
