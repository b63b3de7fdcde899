"""metrics.jsonl: one JSON object a line, each with its `step`, in the order of the steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distfacegan.errors import RunDirectoryError
from distfacegan.store import files
from distfacegan.store.location import Location


def append(path: Location, metrics: Mapping[str, Any]) -> None:
    """Add one line."""
    line = (json.dumps(metrics) + "\n").encode()
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(line)
    else:  # an object store cannot append
        files.write_bytes(path, (path.read_bytes() if path.exists() else b"") + line)


def read(path: Location) -> list[dict[str, Any]]:
    """Return the lines; a last one that is still being written is left out.

    Raises RunDirectoryError if the file is damaged.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None


def truncate(path: Location, step: int) -> None:
    """Drop the lines after `step`: training goes on from there and writes them again."""
    kept = [line for line in read(path) if line["step"] <= step]
    files.write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
