"""The faces and latents of every training step for one rank, prepared one step ahead.

If all faces take at most `whole_gb`, they are shuffled as a whole and kept in memory as uint8. They
are kept on the GPU if they take at most half of its free memory, otherwise in the worker's memory.
If all faces take more than `whole_gb`, they are streamed: each of 16 lanes keeps its current shard
and reads its next shard. The order of the faces is a function of the seed, the step, the section
and the stored faces. The order does not depend on the free memory or the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import zarr
from torch import Tensor

from distfacegan.core.order import Lane, latents_of_step, part_of_batch, rows_of_step
from distfacegan.core.pixels import to_faces, to_images
from distfacegan.errors import RunDirectoryError
from distfacegan.sections.began import Began
from distfacegan.store import groups
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

LANES = 16
READERS = 4  # threads that read shards
BLOCK = 64  # the faces that are shrunk at once; as floats they take more than four times the bytes


class StoredFaces:
    """The faces with status ok of the shards that training sees, at the training's resolution."""

    def __init__(self, run: RunDirectory, resolution: int, without_shards: list[int]) -> None:
        self.resolution = resolution
        self._photos: zarr.Group = groups.open_group(run.latents, "photos")
        ok = groups.read(self._photos, "status") == Status.OK
        plan = [s for s in groups.plan(self._photos) if s.index not in without_shards]
        self._places = [np.flatnonzero(ok[shard.start : shard.stop]) for shard in plan]
        self._shards = [s for s, places in zip(plan, self._places, strict=True) if len(places)]
        self._places = [places for places in self._places if len(places)]
        if not self._shards:
            raise RunDirectoryError(f"{run.latents}/photos holds no face to train on")
        self.sizes = [len(places) for places in self._places]
        self.count = sum(self.sizes)
        self.num_bytes = self.count * resolution**2 * 3

    def shard(self, number: int) -> np.ndarray:
        """Return the faces of a shard, u8 [n, r, r, 3]; shards without a face have no number."""
        faces = groups.read(self._photos, "image", self._shards[number])[self._places[number]]
        side = self.resolution
        if faces.shape[1] == side:
            return faces
        blocks = (faces[i : i + BLOCK] for i in range(0, len(faces), BLOCK))
        return np.concatenate([to_faces(to_images(block, side)) for block in blocks])

    def sample(self, count: int, seed: int) -> np.ndarray:
        """Return at most `count` random faces of 16 shards, u8 [n, r, r, 3], fixed by the seed."""
        random = np.random.default_rng(seed)
        some = random.permutation(len(self._shards))[:LANES]
        each = -(-count // len(some))
        return np.concatenate(
            [self.shard(i)[random.permutation(self.sizes[i])[:each]] for i in some.tolist()]
        )[:count]


class Feed:
    """One rank's part of every batch."""

    def __init__(
        self,
        faces: StoredFaces,
        section: Began,
        *,
        seed: int,
        mine: slice,
        device: torch.device,
    ) -> None:
        """`mine` are the rank's places in a batch. Faces that are kept in memory are read here."""
        self._section, self._seed, self._mine, self._device = section, seed, mine, device
        whole = faces.num_bytes <= section.whole_gb * 1e9
        self._kept = _keep(faces, device) if whole else None
        self._stream = None if whole else _Stream(faces, section.batch, seed, mine)
        self._ahead = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[tuple[Tensor, Tensor]]] | None = None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return faces f32 [b, 3, r, r] in [-1, 1] and latents f32 [b, Z] of a step."""
        made = self._next
        if made is None or made[0] != step:
            made = step, self._ahead.submit(self._make, step)
        self._next = step + 1, self._ahead.submit(self._make, step + 1)
        faces, z = (tensor.to(self._device, non_blocking=True) for tensor in made[1].result())
        if self._kept is not None and self._kept.is_cuda:
            faces = self._kept[faces]
        return to_images(faces, device=self._device), z

    def _make(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the faces of a step, u8 [b, r, r, 3], and z.

        If the faces are kept on the GPU, their row numbers are returned instead of the faces.
        """
        section = self._section
        z = latents_of_step(self._seed, step, section.batch, section.latent_dim)[self._mine]
        if self._stream is not None:
            faces = self._stream.faces(step)
        else:
            assert self._kept is not None
            rows = rows_of_step(self._seed, step, section.batch, len(self._kept))[self._mine]
            faces = torch.from_numpy(rows)
            if not self._kept.is_cuda:
                faces = self._kept[faces]
        return self._to_fetch(faces), self._to_fetch(torch.from_numpy(z))

    def _to_fetch(self, tensor: Tensor) -> Tensor:
        """Return the tensor, for a GPU in pinned memory, from where the copy is asynchronous."""
        return tensor.pin_memory() if self._device.type == "cuda" else tensor


class _Stream:
    """The faces of one rank, read shard by shard.

    A batch is divided among lanes, and each lane reads its own shards. This class holds the lanes
    that fill the rank's places of the batch.
    """

    def __init__(self, faces: StoredFaces, batch: int, seed: int, mine: slice) -> None:
        self._stored, self._mine = faces, mine
        lanes = min(LANES, batch, len(faces.sizes))
        self._lanes = []
        for number in range(lanes):
            places = part_of_batch(batch, number, lanes)
            if places.start < mine.stop and mine.start < places.stop:
                lane = Lane(faces.sizes, seed=seed, lane=number, lanes=lanes)
                self._lanes.append((lane, places))
        self._readers = ThreadPoolExecutor(READERS)
        self._read: dict[tuple[Lane, int], Future[np.ndarray]] = {}

    def faces(self, step: int) -> Tensor:
        """Return this rank's faces of a step, u8 [b, r, r, 3]."""
        return torch.from_numpy(np.concatenate(list(self._pieces(step))))

    def _pieces(self, step: int) -> Iterator[np.ndarray]:
        taken = []
        for lane, places in self._lanes:  # request all shards before waiting for any
            length = places.stop - places.start
            pieces = lane.take(step * length, length)
            taken += [(self._future(lane, piece.shard), piece.places) for piece in pieces]
            self._future(lane, lane.following)
            wanted = {piece.shard for piece in pieces} | {lane.following}
            for key in [key for key in self._read if key[0] is lane and key[1] not in wanted]:
                del self._read[key]
        first = self._lanes[0][1].start
        offset, stop = self._mine.start - first, self._mine.stop - first
        for future, found in taken:
            inside = found[max(offset, 0) : max(stop, 0)]
            if len(inside):
                yield future.result()[inside]
            offset, stop = offset - len(found), stop - len(found)

    def _future(self, lane: Lane, shard: int) -> Future[np.ndarray]:
        key = lane, shard
        if key not in self._read:
            self._read[key] = self._readers.submit(self._stored.shard, shard)
        return self._read[key]


def memory_bytes(section: Began, num_faces: int, shard_rows: int) -> tuple[int, bool]:
    """Return the approximate bytes of faces that a worker keeps, and whether it keeps all faces."""
    face = section.resolution**2 * 3
    if num_faces * face <= section.whole_gb * 1e9:
        return num_faces * face, True
    return 2 * min(LANES, section.batch) * shard_rows * face, False


def _keep(faces: StoredFaces, device: torch.device) -> Tensor:
    """Return all faces, u8 [n, r, r, 3], on the device if they fit half of its free memory."""
    fits = device.type == "cpu" or faces.num_bytes <= torch.cuda.mem_get_info(device)[0] / 2
    shape = (faces.count, faces.resolution, faces.resolution, 3)
    kept = torch.empty(shape, dtype=torch.uint8, device=device if fits else "cpu")
    start, numbers = 0, range(len(faces.sizes))
    with ThreadPoolExecutor(READERS) as readers:
        for some in (numbers[i : i + READERS] for i in numbers[::READERS]):
            for shard in readers.map(faces.shard, some):
                kept[start : start + len(shard)] = torch.from_numpy(shard)
                start += len(shard)
    return kept
