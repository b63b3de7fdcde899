"""Where photos come from: a CelebA archive, a folder, the built-in procedural faces."""

from pathlib import Path

from distfacegan.errors import SourceError
from distfacegan.sources.celeba import CelebASource
from distfacegan.sources.folder import FolderSource
from distfacegan.sources.procedural import ProceduralFaces
from distfacegan.sources.source import Source

__all__ = ["CelebASource", "FolderSource", "ProceduralFaces", "Source", "open_source"]


def open_source(
    kind: str, *, path: str | Path | None = None, count: int | None = None, seed: int = 0
) -> Source:
    """Open and list a source: `celeba` or `folder` of a `path`, or `procedural` with a `count`.

    Raises SourceError for what is missing, malformed or dangerous to read; no photo is read yet.
    """
    if kind == "procedural":
        if count is None:
            raise SourceError("source procedural: give the count of faces")
        return ProceduralFaces(count, seed)
    if kind not in ("celeba", "folder"):
        raise SourceError(f"source {kind!r} is not known; use celeba, folder or procedural")
    if path is None:
        raise SourceError(f"source {kind}: give the path of the photos")
    return CelebASource(path) if kind == "celeba" else FolderSource(path)
