"""The groups of arrays of a run, of which the report reads a few rows only."""

from __future__ import annotations

import dataclasses

import numpy as np
import zarr

from distfacegan.store import groups, shards
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

SAMPLED_SHARDS = 8  # the number of shards from which the rows to show are drawn


@dataclasses.dataclass(frozen=True)
class Table:
    """A group of arrays, and the numbers of its finished shards."""

    group: zarr.Group
    done: set[int]

    @property
    def num_rows(self) -> int:
        """All rows of the group, done or not."""
        return groups.num_rows(self.group)

    def row_shape(self, array: str) -> tuple[int, ...]:
        """Return the shape of one row of an array."""
        found = self.group[array]
        assert isinstance(found, zarr.Array)
        return found.shape[1:]

    def sample(self, count: int) -> np.ndarray:
        """Return at most `count` random rows with status ok, sorted, in every call the same."""
        good = self._good_rows(SAMPLED_SHARDS)
        return choose(np.concatenate(good) if good else np.empty(0, int), count)

    def stretches(self, count: int) -> np.ndarray:
        """Return at most `count` rows with status ok, sorted, in stretches that are fast to read.

        A stretch is the first rows with status ok of a random finished shard.
        """
        shard_rows = groups.shard_rows(self.group)
        good = self._good_rows(max(SAMPLED_SHARDS, -(-count // shard_rows)))
        each = -(-count // max(len(good), 1))
        return np.sort(np.concatenate([rows[:each] for rows in good] or [np.empty(0, int)]))[:count]

    def _good_rows(self, num_shards: int) -> list[np.ndarray]:
        """Return the rows with status ok of `num_shards` random finished shards."""
        done = [shard for shard in groups.plan(self.group) if shard.index in self.done]
        order = np.random.default_rng(0).permutation(len(done))[:num_shards]
        return [
            done[i].rows[groups.read(self.group, "status", done[i]) == Status.OK] for i in order
        ]

    def read(self, array: str, rows: np.ndarray) -> np.ndarray:
        """Return some rows of an array, in the order given; each chunk is read once."""
        found = self.group[array]
        assert isinstance(found, zarr.Array)
        length = found.chunks[0]
        values = np.empty((len(rows), *found.shape[1:]), found.dtype)
        for chunk in np.unique(rows // length):
            here = rows // length == chunk
            start = int(chunk) * length
            block = groups.read(self.group, array, slice(start, start + length))
            values[here] = block[rows[here] - start]
        return values


def choose(rows: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Return at most `count` random rows of `rows`, sorted, in every call the same."""
    random = np.random.default_rng(seed)
    return np.sort(random.choice(rows, size=min(count, len(rows)), replace=False))


def open_table(run: RunDirectory, stage: str, name: str) -> Table | None:
    """Return the group that a stage writes; None if the group is missing or unfinished."""
    if not (run.latents / name / "zarr.json").exists():
        return None
    group = groups.open_group(run.latents, name)
    if "shard_rows" not in group.attrs:
        return None  # the creation of the group was interrupted
    return Table(group, shards.done(run.markers(stage)))
