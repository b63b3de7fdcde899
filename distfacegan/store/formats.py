"""The format of what is stored, and what to do with what another version wrote.

Records, markers, groups of arrays and checkpoints carry the number FORMAT and the version of the
program that wrote them. A reader ignores what it does not know and gives what is missing its value
of before, so additions do not change FORMAT. It is raised only for a change that an earlier version
would misread. Nothing is ever deleted because of its format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distfacegan import __version__
from distfacegan.errors import RunDirectoryError

FORMAT = 1  # of what this version writes; it reads 0 to FORMAT. 0.1.0 wrote no number: 0


class NewerFormatError(RunDirectoryError):
    """Something was written by a later version in a format that this one cannot read."""


def stamp() -> dict[str, Any]:
    """Return what is added to everything that is stored."""
    return {"format": FORMAT, "version": __version__}


def check(what: object, found: Mapping[str, Any]) -> None:
    """Raise NewerFormatError, naming `what`, if the stamp in `found` is of a later format."""
    number = found.get("format", 0)
    if isinstance(number, int) and number > FORMAT:
        raise NewerFormatError(
            f"{what} was written by distfacegan {found.get('version', '(unknown)')} in format "
            f"{number}; distfacegan {__version__} reads formats up to {FORMAT}. "
            "Use that version or a later one. Nothing was changed."
        )


def origin(found: Mapping[str, Any]) -> str:
    """Say which version wrote something, from its stamp."""
    return f"distfacegan {found.get('version', '0.1.0')} (format {found.get('format', 0)})"


def known_fields(kind: type, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `found` that the dataclass `kind` has a field for."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in found.items() if name in names}
