"""The faces and latents of each training step, as functions of the seed and the step alone.

Faces that fit into memory are shuffled as a whole. More faces are read in lanes. A lane fills fixed
places of every batch. In each epoch the shards, in random order, are dealt to the lanes. A lane
goes through its shards one by one, each in a random order of its own. So a worker holds few shards
at a time, those of its own lanes, and every face is seen once an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from distfacegan.core.seeding import permutation, uniform_latents


def part_of_batch(batch: int, rank: int, world: int) -> slice:
    """Return the part of a batch that one rank computes; parts differ by one place at most.

    >>> [part_of_batch(batch=5, rank=rank, world=2) for rank in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return slice(batch * rank // world, batch * (rank + 1) // world)


def rows_of_step(seed: int, step: int, batch: int, num_rows: int) -> np.ndarray:
    """Return the rows of the whole batch of a step: i64 [batch].

    The batches follow each other through epochs, each of which is a permutation of all rows.

    >>> first, second = (rows_of_step(seed=0, step=step, batch=2, num_rows=4) for step in (0, 1))
    >>> sorted([*first.tolist(), *second.tolist()])
    [0, 1, 2, 3]
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // num_rows
    rows = [
        permutation(seed, int(epoch), num_rows)[positions[epochs == epoch] % num_rows]
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(rows)


def latents_of_step(seed: int, step: int, count: int, dim: int) -> np.ndarray:
    """Return the latents of the whole batch of a step: f32 [count, dim]."""
    return uniform_latents(seed, range(step * count, (step + 1) * count), dim, stream="began")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some faces of one shard, by their places in it, i64 [n]."""

    shard: int
    places: np.ndarray


class Lane:
    """The endless sequence of one lane's faces.

    Reading on is free. Reading what lies before the present shard starts again from the beginning.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int, lane: int, lanes: int) -> None:
        """`sizes` are the numbers of faces of the shards, of which `lanes` at least must have some.

        Raises ValueError otherwise.
        """
        if not 0 <= lane < lanes <= sum(size > 0 for size in sizes):
            raise ValueError(f"lane {lane} of {lanes} needs a shard with faces: sizes {sizes}")
        self._sizes, self._seed, self._lane, self._lanes = sizes, seed, lane, lanes
        self._restart()

    def take(self, start: int, count: int) -> list[Piece]:
        """Return the faces from `start` to `start + count` of the sequence."""
        if start < self._start:
            self._restart()
        pieces = []
        while count > 0:
            while start >= self._start + len(self._order):
                self._start += len(self._order)
                self._go_on()
            places = self._order[start - self._start :][:count]
            pieces.append(Piece(self.shard, places))
            start, count = start + len(places), count - len(places)
        return pieces

    def _restart(self) -> None:
        self._walk = self._shards()
        self._start = 0  # where the present shard begins in the sequence
        self.following, self._epoch = next(self._walk)
        self._go_on()

    def _go_on(self) -> None:
        self.shard = self.following
        size = self._sizes[self.shard]
        self._order = permutation(self._seed, self._epoch, size, of=f"/{self.shard}")
        self.following, self._epoch = next(self._walk)

    def _shards(self) -> Iterator[tuple[int, int]]:
        """Yield shards with faces, and their epochs, for ever."""
        filled = np.flatnonzero(self._sizes)
        epoch = 0
        while True:
            order = filled[permutation(self._seed, epoch, len(filled), of="/shards")]
            for shard in order[self._lane :: self._lanes]:
                yield int(shard), epoch
            epoch += 1
