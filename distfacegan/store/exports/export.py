"""The base class of every export format, and the sample that a format writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from distfacegan.store.location import Location


@dataclasses.dataclass(frozen=True)
class Origin:
    """What the latent of a sample was made of."""

    sampler: str  # its kind
    parents: tuple[int, ...]  # rows of photos in the store, or of the file of latents
    weights: tuple[float, ...]  # of the parents' latents in that of the sample
    step: int | None = None  # from 0, of `steps` between two parents
    steps: int | None = None

    @classmethod
    def of(cls, written: Mapping[str, Any]) -> Self:
        """Return what `dataclasses.asdict` gave, which JSON has turned into lists."""
        lists = {name: tuple(written[name]) for name in ("parents", "weights")}
        return cls(**{**written, **lists})


@dataclasses.dataclass(frozen=True)
class Sample:
    """One face with its landmarks; if it is generated, the z and the seed that it was made from."""

    index: int  # of a photo: its row in the store
    seed: int | None  # z is a function of seed and index; None of a photo
    z: np.ndarray | None  # f32 [Z]; None of a photo that is not inverted
    face: np.ndarray  # u8 [r, r, 3] RGB
    landmarks: np.ndarray  # f32 [49, 2], (x, y) in units of the face's side
    uncertainty: np.ndarray | None = None  # f32 [49], expected error of each landmark, in sides
    origin: Origin | None = None  # None: z was drawn from the prior
    photo_distance: float | None = None  # to the nearest photo (core/neighbours.py), if looked for
    key: str | None = None  # of a photo


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """The settings and the methods of one format.

    A format is a module of this package with a frozen dataclass that derives from this class and
    has a `kind`, by which specs name the format. The same samples give the same bytes: no file
    holds the time or the name of the machine.
    """

    # pydantic, which checks the settings in a spec, reads this attribute.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "use_attribute_docstrings": True}

    kind: str
    files: ClassVar[str]
    """The kind of files in a dataset, in words for the dataset card."""
    data_files: ClassVar[str | None] = None
    """The files that the Hugging Face library `datasets` loads, as a pattern; None: it cannot."""
    how_to_read: ClassVar[str]
    """Python code that reads the files, for the dataset card."""

    def sample_bytes(self, resolution: int) -> float:
        """Return the approximate size of a sample in bytes."""
        raise NotImplementedError

    def pack(self, shard: int, samples: Iterable[Sample]) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the content of every file of a shard."""
        raise NotImplementedError

    def files_of(self, sample: Sample) -> dict[str, bytes]:
        """Return the name and the content of the files of one sample, as they are in its shard."""
        return dict(self.pack(0, [sample]))

    def read_first(self, folder: Location, shard: int, count: int) -> list[Sample]:
        """Return the first samples of a shard, at most `count`.

        Raises OSError or ValueError if a file is missing or damaged.
        """
        raise NotImplementedError
