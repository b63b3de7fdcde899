"""The number of the storage format, and how data of other versions is read.

Records, markers, groups of arrays and checkpoints carry the number FORMAT and the version of the
program that wrote them. A reader ignores fields that it does not know. A reader gives a missing
field the value that held before the field existed. Added fields therefore do not change FORMAT.
FORMAT is raised only for a change that an earlier version would misread. Nothing is ever deleted
because of its format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distfacegan import __version__
from distfacegan.errors import MENDED, RunDirectoryError

# This version writes FORMAT and reads 0 to FORMAT. Data of 0.1.0, without a number, counts as 0.
FORMAT = 1


class NewerFormatError(RunDirectoryError):
    """A later version wrote the data in a format that this version cannot read."""


def stamp() -> dict[str, Any]:
    """Return the format and the version, which are added to everything that is stored."""
    return {"format": FORMAT, "version": __version__}


def check(what: object, found: Mapping[str, Any]) -> None:
    """Raise NewerFormatError, naming `what`, if the stamp in `found` is of a later format.

    Raises RunDirectoryError if `found` is no mapping, and can have no stamp.
    """
    if not isinstance(found, Mapping):
        raise RunDirectoryError(f"{what} is damaged (it holds no fields); {MENDED}")
    number = found.get("format", 0)
    if isinstance(number, int) and number > FORMAT:
        raise NewerFormatError(
            f"{what} was written by distfacegan {found.get('version', '(unknown)')} in format "
            f"{number}; distfacegan {__version__} reads formats up to {FORMAT}. "
            "Use that version or a later one. Nothing was changed."
        )


def origin(found: Mapping[str, Any]) -> str:
    """Return which version wrote the data with the stamp in `found`."""
    return f"distfacegan {found.get('version', '0.1.0')} (format {found.get('format', 0)})"


def known_fields(kind: type, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `found` that the dataclass `kind` has a field for."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in found.items() if name in names}
