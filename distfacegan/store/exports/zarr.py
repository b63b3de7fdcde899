"""Zarr: a group for each shard, with the arrays of its samples."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from distfacegan.store.exports import parts
from distfacegan.store.exports.export import ExportFormat, Sample
from distfacegan.store.location import Location

ARRAYS = ("image", "landmarks", "index", "z", "uncertainty", "photo_distance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zarr(ExportFormat):
    """Zarr groups, one for each shard."""

    kind: Literal["zarr"] = "zarr"

    files: ClassVar[str] = "Zarr groups (`00000.zarr` and on)"
    how_to_read: ClassVar[str] = """\
    import zarr
    group = zarr.open_group("00000.zarr", mode="r")
    images = group["image"][:]  # u8 [N, R, R, 3]
    landmarks = group["landmarks"][:]  # f32 [N, 49, 2] in units of the face's side
    labels = group.attrs["labels"]  # everything else that is known of each sample
"""

    def sample_bytes(self, resolution: int) -> float:
        """Return the approximate size of a sample in bytes."""
        return resolution**2 * 3 + parts.LABEL_BYTES

    def pack(self, shard: int, samples: Iterable[Sample]) -> Iterator[tuple[str, bytes]]:
        """Yield the files of the group of a shard."""
        all_of_it = list(samples)
        written: dict[str, Buffer] = {}
        group = zarr.open_group(MemoryStore(written), mode="w")
        for name, values in _arrays(all_of_it).items():
            group.create_array(name, data=values, chunks=values.shape)
        group.attrs["labels"] = [_rest(sample) for sample in all_of_it]
        for name in sorted(written):
            yield f"{_name(shard)}/{name}", written[name].to_bytes()

    def read_first(self, folder: Location, shard: int, count: int) -> list[Sample]:
        """Return the first samples of a shard, at most `count`."""
        own, stored = folder / _name(shard), dict[str, Buffer]()
        buffer = default_buffer_prototype().buffer
        stored["zarr.json"] = buffer.from_bytes((own / "zarr.json").read_bytes())
        rows = json.loads(stored["zarr.json"].to_bytes())["attributes"]["labels"]
        for name in ARRAYS:
            if (own / name / "zarr.json").exists():
                shape = json.loads((own / name / "zarr.json").read_bytes())["shape"]
                for file in ("zarr.json", "/".join(["c", *["0"] * len(shape)])):
                    data = (own / name / file).read_bytes()
                    stored[f"{name}/{file}"] = buffer.from_bytes(data)
        group = zarr.open_group(MemoryStore(stored), mode="r")
        arrays = {name: np.asarray(array)[:count] for name, array in group.arrays()}
        faces = arrays.pop("image")
        found = []
        for i, rest in enumerate(rows[:count]):
            own_values = {name: values[i].tolist() for name, values in arrays.items()}
            found.append(parts.sample_of(faces[i], {**rest, **own_values}))
        return found


def _name(shard: int) -> str:
    return f"{shard:05d}.zarr"


def _arrays(samples: list[Sample]) -> dict[str, np.ndarray]:
    """Return the arrays of the samples, without those that not all samples have."""
    found: dict[str, np.ndarray] = {}
    for name in ARRAYS:
        values: list[Any] = [getattr(s, "face" if name == "image" else name) for s in samples]
        if values and all(value is not None for value in values):
            found[name] = np.stack([np.asarray(value) for value in values])
    return found


def _rest(sample: Sample) -> dict[str, Any]:
    """Return the labels of a sample that no array holds."""
    labels = parts.labels_of(sample)
    return {
        key: value for key, value in labels.items() if key in ("index", "key", "seed", "origin")
    }
