"""Export formats: how generated faces with their landmarks are written and read.

Each module of this package with a settings class is one format that a spec can name.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from distfacegan.errors import RunDirectoryError, SpecError
from distfacegan.registry import find_kinds
from distfacegan.store.exports.export import ExportFormat, Sample

__all__ = ["FORMATS", "ExportFormat", "Sample", "named_format", "recorded_format"]

FORMATS: dict[str, type[ExportFormat]] = find_kinds(__name__)


def named_format(kind: str) -> ExportFormat:
    """Return the format of a name, with its default settings; raises SpecError for another name."""
    if kind not in FORMATS:
        near = difflib.get_close_matches(kind, FORMATS, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise SpecError(f"no format {kind!r}{meant}; known: {', '.join(FORMATS)}")
    return FORMATS[kind](kind=kind)


def recorded_format(settings: Mapping[str, Any]) -> ExportFormat:
    """Return the format that the recorded settings of a synthesis name.

    Raises RunDirectoryError if this version does not have it.
    """
    kind = settings["format"]
    if kind not in FORMATS:
        raise RunDirectoryError(
            f"the generated faces have the format {kind!r}; this version reads {', '.join(FORMATS)}"
        )
    names = [field.name for field in dataclasses.fields(FORMATS[kind])]
    return FORMATS[kind](**{name: settings[name] for name in names if name in settings})
