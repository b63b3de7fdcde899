"""The sources of photos. Each module of this package with a section class is one kind of source."""

from distfacegan.registry import find_kinds
from distfacegan.sources.source import Source, SourceSection

__all__ = ["SOURCES", "Source", "SourceSection"]

SOURCES: dict[str, type[SourceSection]] = find_kinds(__name__)
