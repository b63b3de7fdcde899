"""Where photos come from. Each module with a section for specs is one kind of source."""

from distfacegan.registry import find_kinds
from distfacegan.sources.source import Source, SourceSection

__all__ = ["SOURCES", "Source", "SourceSection"]

SOURCES: dict[str, type[SourceSection]] = find_kinds(__name__)
