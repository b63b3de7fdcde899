"""What every part of a spec is built from: a strict section, paths, common fields."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    ValidationInfo,
    WithJsonSchema,
)

from distfacegan.store.location import LIKE_A_URL, Location, ObjectPath, locate


def _resolve(path: Path, info: ValidationInfo) -> Path:
    """Take relative paths from the folder of the spec, so that a job means the same anywhere."""
    folder = (info.context or {}).get("folder", Path())
    try:
        return Path(os.path.normpath(Path(folder, path.expanduser()).absolute()))
    except RuntimeError as error:  # no such user
        raise ValueError(f"{path}: {error}") from None


def _locate(value: Any, info: ValidationInfo) -> Location:
    """Take a URL of an object store as it is, and a path as `_resolve` does."""
    if isinstance(value, ObjectPath) or (isinstance(value, str) and LIKE_A_URL.match(value)):
        return locate(value)
    if not isinstance(value, str | Path):
        raise ValueError("a path or a URL is needed")
    return _resolve(Path(value), info)


SpecPath = Annotated[Path, AfterValidator(_resolve)]
StorePath = Annotated[
    Location,
    PlainValidator(_locate),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "path"}),
]
Share = Annotated[float, Field(gt=0, lt=0.5)]
Workers = Annotated[
    PositiveInt | None,
    Field(description="Ray workers; default: one per GPU, or what the cores allow."),
]


class Section(BaseModel):
    """A part of a spec: unknown keys are errors, values do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
