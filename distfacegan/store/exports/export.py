"""What every export format is, and the sample that it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from distfacegan.store.location import Location


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generated face, its landmarks, and what it was made of."""

    index: int
    seed: int  # z is a function of seed and index
    z: np.ndarray  # f32 [Z]
    face: np.ndarray  # u8 [r, r, 3] RGB
    landmarks: np.ndarray  # f32 [49, 2], (x, y) in units of the face's side
    uncertainty: np.ndarray | None = None  # f32 [49], each one's expected error, in sides


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """The settings of one format: the base of a frozen dataclass with a `kind`.

    A module of this package with such a class is a format that specs can name. The same samples
    are the same bytes: nothing of the time or the machine goes into a file.
    """

    # Read by pydantic, which checks the settings of a spec.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "use_attribute_docstrings": True}

    kind: str
    files: ClassVar[str]
    """What a dataset consists of, in the words of its card."""
    how_to_read: ClassVar[str]
    """Python that reads it, for the card."""

    def sample_bytes(self, resolution: int) -> float:
        """Return about how many bytes a sample takes."""
        raise NotImplementedError

    def pack(self, shard: int, samples: Iterable[Sample]) -> Iterator[tuple[str, bytes]]:
        """Yield the name in the dataset's folder, and the content, of every file of a shard."""
        raise NotImplementedError

    def read_first(self, folder: Location, shard: int, count: int) -> list[Sample]:
        """Return the first samples of a shard, at most `count`.

        Raises OSError or ValueError where a file is missing or damaged.
        """
        raise NotImplementedError
