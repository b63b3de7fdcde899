"""Shards of rows and the markers that say which of them are done.

A marker ``shards/<stage>/00042.json`` is written after all data of its shard, and holds the digests
of the data, and of the settings and inputs that the data was made with. Only the markers say which
shards are done.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import enum
import logging
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from distfacegan.errors import MENDED, RunDirectoryError
from distfacegan.store import files, formats
from distfacegan.store.location import Location

log = logging.getLogger(__name__)

NAMED = 10  # the log names this many shards at most
READ_TOGETHER = 1000  # markers that are in memory at once


class Status(enum.IntEnum):
    """The result of one row in one stage."""

    PENDING = 0
    OK = 1
    UNREADABLE = 2
    NO_FACE = 3
    LANDMARKS_NOT_TRUSTED = 4  # version 0.1.0 wrote this for any of the last four
    NOTHING_UPSTREAM = 5
    FAILED = 6
    POINTS_OUTSIDE = 7
    IMPOSSIBLE_SHAPE = 8
    LOW_SCORE = 9
    VIEWS_DISAGREE = 10
    FLAT = 11
    SATURATED = 12
    UNCERTAIN = 13
    LABELS_DISAGREE = 14
    DUPLICATE = 15
    NEAR_PHOTO = 16

    @property
    def label(self) -> str:
        """The status in words, as reports and markers spell it."""
        return self.name.lower().replace("_", " ")


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """Rows start to stop - 1: the unit of work, retry, storage and commit."""

    index: int
    start: int
    stop: int
    # The digest of the settings and inputs that the shard is made with (RunDirectory.identity).
    made_of: str | None = dataclasses.field(default=None, compare=False)

    @property
    def rows(self) -> np.ndarray:
        """The row numbers, i64 [rows]."""
        return np.arange(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"shard {self.index} (rows {self.start} to {self.stop - 1})"


@dataclasses.dataclass(frozen=True)
class ShardStats:
    """The content of a shard's marker."""

    shard: int
    start: int
    stop: int
    statuses: dict[str, int]  # the number of rows by the label of their status
    digests: dict[str, str]  # by array, of its rows; or by file, of its content
    seconds: float
    worker: str  # host:pid
    written: float  # seconds since the epoch
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # further counts of a stage
    made_of: str | None = None  # of the Shard; None: an earlier version wrote it
    format: int = 0  # store/formats.py
    version: str = "0.1.0"

    def is_of(self, made_of: str | None) -> bool:
        """Tell whether the shard was made with settings and inputs of this digest, if known."""
        return self.made_of is None or self.made_of == made_of


class Shards(Sequence[Shard]):
    """The shards of rows, or some of them. Each is made when it is asked for, and is not kept."""

    def __init__(
        self, num_rows: int, shard_rows: int, which: Sequence[int], made_of: str | None = None
    ) -> None:
        self._num_rows, self._shard_rows = num_rows, shard_rows
        self._which, self._made_of = which, made_of

    def __len__(self) -> int:
        return len(self._which)

    @overload
    def __getitem__(self, place: int) -> Shard: ...

    @overload
    def __getitem__(self, place: slice) -> Shards: ...

    def __getitem__(self, place: int | slice) -> Shard | Shards:
        if isinstance(place, slice):
            return self.only(self._which[place], self._made_of)
        index = self._which[place]
        start = index * self._shard_rows
        stop = min(start + self._shard_rows, self._num_rows)
        return Shard(index, start, stop, self._made_of)

    def only(self, which: Sequence[int], made_of: str | None) -> Shards:
        """Return the shards of these numbers, to be made with the settings of a digest."""
        return Shards(self._num_rows, self._shard_rows, which, made_of)


def split(num_rows: int, shard_rows: int) -> Shards:
    """Return the shards of `num_rows` rows; the last one may be short."""
    return Shards(num_rows, shard_rows, range(-(-num_rows // shard_rows)))


def count_statuses(status: np.ndarray) -> dict[str, int]:
    """Return the number of rows by the label of their status, without statuses of no row."""
    values, counts = np.unique(status, return_counts=True)
    known = {int(status): status.label for status in Status}
    return {
        known.get(int(value), f"status {value}"): int(count)  # later versions may add statuses
        for value, count in zip(values, counts, strict=True)
    }


def in_words(statuses: Mapping[str, int], sums: Mapping[str, float] | None = None) -> str:
    """Return counts as a text: `480 ok, 20 no face; 10 retried, 7 improved`."""
    words = ", ".join(f"{count} {label}" for label, count in statuses.items()) or "no rows"
    if sums:
        counts = (
            f"{count:.4g} {label}" if isinstance(count, float) else f"{count} {label}"
            for label, count in sums.items()
        )
        words += "; " + ", ".join(counts).replace("_", " ")
    return words


def marker_path(folder: Location, shard: int) -> Location:
    """Return the path of a shard's marker in the folder of a stage's markers."""
    return folder / f"{shard:05d}.json"


def mark_done(
    folder: Location,
    shard: Shard,
    *,
    statuses: Mapping[str, int],
    digests: Mapping[str, str],
    started: float,
    sums: Mapping[str, float] | None = None,
) -> ShardStats:
    """Write the marker of a shard whose data is written, and return the marker's content."""
    now = time.time()
    stats = ShardStats(
        shard=shard.index,
        start=shard.start,
        stop=shard.stop,
        statuses=dict(statuses),
        digests=dict(digests),
        seconds=round(now - started, 3),
        worker=f"{socket.gethostname()}:{os.getpid()}",
        written=now,
        sums=dict(sums or {}),
        made_of=shard.made_of,
        **formats.stamp(),
    )
    files.write_json(marker_path(folder, shard.index), files.seal(dataclasses.asdict(stats)))
    return stats


def marker(folder: Location, shard: Shard) -> ShardStats | None:
    """Return the content of a shard's marker; None if the shard is not done.

    Raises RunDirectoryError if a job of other settings or inputs wrote the marker.
    """
    path = marker_path(folder, shard.index)
    try:
        found = parse(path, files.read_json(path))
    except FileNotFoundError:
        return None
    if not found.is_of(shard.made_of):
        raise RunDirectoryError(
            f"{path}: {found.worker} made {shard} with other settings or inputs (digest "
            f"{found.made_of}, not {shard.made_of}); the next `run` makes it again"
        )
    return found


def done(folder: Location) -> set[int]:
    """Return the numbers of the shards that have a marker."""
    return set(_numbers(folder))


def read_markers(folder: Location) -> Iterator[ShardStats]:
    """Yield the content of every marker of a stage, in the order of the shards.

    Reads READ_TOGETHER markers at once and keeps none.
    """
    numbers = _numbers(folder)
    for start in range(0, len(numbers), READ_TOGETHER):
        paths = [marker_path(folder, n) for n in numbers[start : start + READ_TOGETHER]]
        for path, found in zip(paths, files.read_all_json(paths), strict=True):
            yield parse(path, found)


def _numbers(folder: Location) -> array.array[int]:
    """Return the numbers of the shards that have a marker, in order, 8 bytes each."""
    try:
        names = (path.name for path in folder.iterdir())
        found = array.array("q", (int(n[:-5]) for n in names if re.fullmatch(r"\d+\.json", n)))
    except FileNotFoundError:
        return array.array("q")
    return array.array("q", np.sort(np.frombuffer(found, np.int64)).tobytes())


def own(folder: Location, made_of: str) -> Iterator[ShardStats]:
    """Yield the markers of a stage, and delete those of other settings or inputs.

    `made_of` is the digest of the stage's own. A worker of an earlier job that was cut off, or a
    copied folder, may leave other markers.
    """
    foreign = []
    for marker in read_markers(folder):
        if marker.is_of(made_of):
            yield marker
        else:
            marker_path(folder, marker.shard).unlink(missing_ok=True)
            foreign.append(str(marker.shard))
    if foreign:
        log.warning(
            "%s: shards that were made with other settings or inputs are made again: %s%s",
            folder.name,
            ", ".join(foreign[:NAMED]),
            f" and {len(foreign) - NAMED} more" if len(foreign) > NAMED else "",
        )


def parse(path: Location, found: Any) -> ShardStats:
    """Return the content of a marker from its JSON; fields of later versions are ignored.

    Raises RunDirectoryError if the JSON is no marker, NewerFormatError if this version cannot read
    the marker's format.
    """
    try:
        formats.check(path, found)
        return ShardStats(**formats.known_fields(ShardStats, found))
    except (TypeError, AttributeError) as error:
        raise RunDirectoryError(f"{path} is no marker ({error}); {MENDED}") from None


def totals(markers: Iterable[ShardStats]) -> dict[str, Any]:
    """Return sums over all markers: rows, worker seconds, rows of each status, further counts."""
    statuses: collections.Counter[str] = collections.Counter()
    sums: collections.Counter[str] = collections.Counter()
    rows, seconds = 0, 0.0
    for marker in markers:
        rows += marker.stop - marker.start
        seconds += marker.seconds
        statuses.update(marker.statuses)
        sums.update(marker.sums)
    return {
        "rows": rows,
        "worker_seconds": round(seconds, 3),
        "statuses": dict(statuses),
        "sums": dict(sums),
    }
