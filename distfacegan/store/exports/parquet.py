"""Parquet, with the columns and the metadata by which Hugging Face's `datasets` knows pictures."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet

from distfacegan.store.exports import parts
from distfacegan.store.exports.export import ExportFormat, Sample
from distfacegan.store.location import Location

PAIRS = pa.list_(pa.list_(pa.float32()))
SCHEMA = {
    "index": pa.int64(),
    "key": pa.string(),
    "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    "landmarks": PAIRS,
    "landmarks_px": PAIRS,
    "z": pa.list_(pa.float32()),
    "uncertainty": pa.list_(pa.float32()),
    "seed": pa.int64(),
    "origin": pa.string(),  # JSON
    "photo_distance": pa.float32(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(ExportFormat):
    """Parquet files, which Hugging Face's datasets library loads with pictures."""

    kind: Literal["parquet"] = "parquet"

    files: ClassVar[str] = "Parquet files (`00000.parquet` and on)"
    data_files: ClassVar[str | None] = "*.parquet"
    how_to_read: ClassVar[str] = """\
    from datasets import load_dataset
    faces = load_dataset("parquet", data_files="*.parquet", split="train")
    for row in faces:
        landmarks = row["landmarks"]  # 49 pairs (x, y) in units of the face's side
        picture = row["image"]  # a Pillow picture
"""

    def sample_bytes(self, resolution: int) -> float:
        """Return the approximate size of a sample in bytes."""
        return resolution**2 * parts.PNG_BITS_PER_PIXEL / 8 + parts.LABEL_BYTES

    def pack(self, shard: int, samples: Iterable[Sample]) -> Iterator[tuple[str, bytes]]:
        """Yield the Parquet file of a shard."""
        rows = [_row(sample) for sample in samples]
        schema = pa.schema(SCHEMA, metadata={"huggingface": json.dumps(_features())})
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), buffer)
        yield _name(shard), buffer.getvalue()

    def read_first(self, folder: Location, shard: int, count: int) -> list[Sample]:
        """Return the first samples of a shard, at most `count`."""
        path = folder / _name(shard)
        try:
            table = pyarrow.parquet.read_table(io.BytesIO(path.read_bytes()))
        except pa.ArrowException as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        return [_sample(row) for row in table.slice(0, count).to_pylist()]


def _name(shard: int) -> str:
    return f"{shard:05d}.parquet"


def _row(sample: Sample) -> dict[str, Any]:
    labels = parts.labels_of(sample)
    origin = labels.pop("origin", None)
    image = {"bytes": parts.png(sample.face), "path": f"{sample.index:09d}.png"}
    return {**labels, "image": image, "origin": json.dumps(origin) if origin else None}


def _sample(row: dict[str, Any]) -> Sample:
    face = parts.decode(row["image"]["bytes"], row["image"]["path"])
    origin = json.loads(row["origin"]) if row["origin"] else None
    return parts.sample_of(face, {**row, "origin": origin})


def _features() -> dict[str, Any]:
    """Return the description of the columns that the library `datasets` reads."""
    return {"info": {"features": {name: _feature(kind) for name, kind in SCHEMA.items()}}}


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"_type": "Sequence", "feature": _feature(kind.value_type)}
    names = {pa.string(): "string", pa.int64(): "int64", pa.float32(): "float32"}
    return {"_type": "Value", "dtype": names[kind]}
