"""What every photo source is, and what its section of a spec is.

A module of this package with a section (`kind: Literal["name"]`) is a source that specs can name.
"""

import hashlib
from collections.abc import Iterable
from typing import ClassVar, Protocol

import numpy as np

from distfacegan.settings import Section, SpecPath


class Source(Protocol):
    """A fixed, ordered list of photos. Row i is `keys[i]`, whoever opens the source, and wherever.

    A source can be pickled: open it once, and send it to the workers.
    """

    @property
    def keys(self) -> list[str]:
        """The names of the photos, sorted."""
        ...

    def read(self, row: int) -> np.ndarray:
        """Return the photo, u8 [H, W, 3], RGB, upright; raises UnreadablePhotoError."""
        ...

    def annotation(self, row: int) -> np.ndarray | None:
        """Return the points [P, 2] that the source itself knows, f32, pixels of `read(row)`.

        P is 49, or CelebA's 5: left eye, right eye, nose, left and right corner of the mouth, where
        left is the image's left. The centre of the first pixel is at (0, 0). None: no points.
        """
        ...

    def fingerprint(self) -> str:
        """Return a digest that differs where the photos do: it tells what a run was begun with."""
        ...


class SourceSection(Section):
    """The section of one kind of source."""

    kind: str
    assumed_count: ClassVar[int | None] = None
    """How many photos a plan assumes where the photos are not here."""

    def open(self, seed: int) -> Source:
        """Open and list the photos; no photo is read yet.

        Raises SourceError for what is missing, malformed or dangerous to read.
        """
        raise NotImplementedError

    def num_photos(self, seed: int) -> int:
        """Return how many photos there are; raises SourceError as `open` does."""
        return len(self.open(seed).keys)

    def is_here(self) -> bool:
        """Tell whether there is anything at the place that the section names."""
        return True

    def describe(self, count: int) -> str:
        """Say in a few words what the photos of a plan are."""
        raise NotImplementedError


class PathSection(SourceSection):
    """The section of a source that lies at a path."""

    path: SpecPath

    def is_here(self) -> bool:
        """Tell whether there is anything at the path."""
        return self.path.exists()

    def describe(self, count: int) -> str:
        """Say where the photos are."""
        return f"{count:,} at {self.path}"


def listing_fingerprint(kind: str, keys: Iterable[str], sizes: Iterable[int]) -> str:
    """Digest a listing: the kind of source, and the key and the size in bytes of each photo.

    Not where they lie: a folder may move between two runs. Not what they hold: that would take as
    long as the run.
    """
    digest = hashlib.sha256(kind.encode())
    for key, size in zip(keys, sizes, strict=True):
        digest.update(f"\0{key}\0{size}".encode())
    return digest.hexdigest()
