"""The interface of a photo source, and of its section in a spec.

A module of this package with a section class (`kind: Literal["name"]`) is a source that specs can
name.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol

import numpy as np

from distfacegan.settings import Section, SpecPath


class Source(Protocol):
    """A fixed, ordered list of photos. Row i is `keys[i]` in every process and on every machine.

    A source can be pickled. It is opened once and sent to the workers.
    """

    @property
    def keys(self) -> Sequence[str]:
        """The names of the photos, sorted."""
        ...

    def read(self, row: int) -> np.ndarray:
        """Return the photo, u8 [H, W, 3], RGB, upright; raises UnreadablePhotoError."""
        ...

    def annotation(self, row: int) -> np.ndarray | None:
        """Return the source's own points, f32 [P, 2], pixels of `read(row)`; None without points.

        P is 49, or CelebA's 5: left eye, right eye, nose, left and right corner of the mouth, where
        left is the image's left. The centre of the first pixel is at (0, 0).
        """
        ...

    def fingerprint(self) -> str:
        """Return a digest of the photos. A run stores the digest, to notice other photos later."""
        ...


class SourceSection(Section):
    """The section of one kind of source."""

    kind: str
    assumed_count: ClassVar[int | None] = None
    """The number of photos that a plan assumes if the photos are not on this machine."""

    def open(self, seed: int) -> Source:
        """List the photos without reading any of them.

        Raises SourceError if something is missing, malformed or dangerous to read.
        """
        raise NotImplementedError

    def num_photos(self, seed: int) -> int:
        """Return how many photos there are; raises SourceError as `open` does."""
        return len(self.open(seed).keys)

    def is_here(self) -> bool:
        """Tell whether the photos are on this machine."""
        return True

    def describe(self, count: int) -> str:
        """Return a few words for a plan that say what the photos are."""
        raise NotImplementedError


class PathSection(SourceSection):
    """The section of a source whose photos are at a path."""

    path: SpecPath

    def is_here(self) -> bool:
        """Tell whether there is anything at the path."""
        return self.path.exists()

    def describe(self, count: int) -> str:
        """Return the number and the place of the photos."""
        return f"{count:,} at {self.path}"


def listing_fingerprint(kind: str, keys: Iterable[str], sizes: Iterable[int]) -> str:
    """Return a digest of the kind of source, and of the key and the size in bytes of each photo.

    The place of the photos is left out, because a folder may move between two runs. The content of
    the photos is left out, because reading all photos would take too long.
    """
    digest = hashlib.sha256(kind.encode())
    for key, size in zip(keys, sizes, strict=True):
        digest.update(f"\0{key}\0{size}".encode())
    return digest.hexdigest()
