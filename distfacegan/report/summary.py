"""The numbers of a run: summary.json."""

from __future__ import annotations

from typing import Any

from distfacegan.store.run_directory import RunDirectory


def summarize(run: RunDirectory) -> dict[str, Any]:
    """Return every number that the page shows."""
    return {}
