"""The report of a run: one HTML page and its numbers, made from the run directory alone."""

from __future__ import annotations

from distfacegan.report import browser, figures
from distfacegan.report.contents import Contents
from distfacegan.report.page import render
from distfacegan.report.summary import summarize
from distfacegan.store import files
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory

__all__ = ["write"]


def write(run: RunDirectory) -> Location:
    """Write report/index.html and report/summary.json; return the page's path.

    The page names every stage that has not run. Raises a DistfaceganError that names a damaged
    file.
    """
    contents = Contents(run)
    pictures = figures.draw(contents)
    summary = summarize(contents) | {"figures": figures.numbers(pictures)}
    pages = browser.write(run)
    html = render(contents, summary, pictures | {"browser": pages.name if pages else None})
    path = run.report / "index.html"
    files.write_bytes(path, html.encode())
    sealed = files.seal(summary | {"digests": {path.name: files.digest(html.encode())}})
    files.write_json(run.report / "summary.json", sealed)
    return path
