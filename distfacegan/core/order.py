"""What each step of a training sees, as a function of the seed and the step alone.

Faces are shuffled as a whole, or, where they are too many, walked through in lanes. A lane owns
some places of every batch. In each epoch the shards, in a random order, are dealt to the lanes; a
lane gives the faces of one shard after the other, each shard in an order of its own. So a worker
needs the shards of its own lanes alone, and few at a time, and every face is seen once an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from distfacegan.core.seeding import permutation, uniform_latents


def part_of_batch(batch: int, rank: int, world: int) -> slice:
    """Return the places of a batch that are a rank's: as even as they can be, never none."""
    return slice(batch * rank // world, batch * (rank + 1) // world)


def rows_of_step(seed: int, step: int, batch: int, num_rows: int) -> np.ndarray:
    """Return the rows of a step's batch, whatever the number of ranks: i64 [batch].

    The steps walk through one endless row of epochs, each a permutation of all rows.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // num_rows
    rows = [
        permutation(seed, int(epoch), num_rows)[positions[epochs == epoch] % num_rows]
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(rows)


def latents_of_step(seed: int, step: int, count: int, dim: int) -> np.ndarray:
    """Return the latents of a step's batch, whatever the number of ranks: f32 [count, dim]."""
    return uniform_latents(seed, range(step * count, (step + 1) * count), dim, stream="began")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some faces of one shard: their places in it, i64 [n]."""

    shard: int
    places: np.ndarray


class Lane:
    """One lane's endless walk. Going on from where it is costs nothing; going back begins anew."""

    def __init__(self, sizes: Sequence[int], *, seed: int, lane: int, lanes: int) -> None:
        """Give the number of faces of every shard; raises ValueError where a lane gets none."""
        if not 0 <= lane < lanes <= sum(size > 0 for size in sizes):
            raise ValueError(f"lane {lane} of {lanes} needs a shard with faces: sizes {sizes}")
        self._sizes, self._seed, self._lane, self._lanes = sizes, seed, lane, lanes
        self._restart()

    def take(self, start: int, count: int) -> list[Piece]:
        """Return the faces at `start` to `start + count` of the walk."""
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
        self._start = 0  # of `shard`, in faces of this lane
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
