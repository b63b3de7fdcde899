"""The Zarr group latents.zarr: one row per photo, the same row in every array (store/schema.py).

A shard of rows is one Zarr shard of every array. A worker always writes a whole shard, so that
workers at different shards never write to the same file. Chunks carry checksums: reading damaged
data raises an error and never returns wrong values.

A group keeps the arrays that it was created with. A group that an earlier version created may lack
arrays of the schema. Such arrays read as their fill and are not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.sync import sync
from zarr.storage import LocalStore, ObjectStore

from distfacegan import __version__
from distfacegan.errors import RunDirectoryError
from distfacegan.store import files, formats, shards
from distfacegan.store.location import Location, object_store
from distfacegan.store.schema import GROUPS, WRITTEN_BY, ArraySchema
from distfacegan.store.shards import Shard, ShardStats

_ADVICE = "`distfacegan verify` names every damaged shard, and `run` makes it again."

CHUNK_BYTES = 512 * 1024  # the largest chunk; a chunk holds one row at least


class _UrlStore(ObjectStore):
    """Zarr's object store with its URL as text: obstore 0.12 gives Azure's stores no text."""

    url = ""

    def __str__(self) -> str:
        return self.url


def create_group(
    store: Location, name: str, *, num_rows: int, shard_rows: int, **lengths: int
) -> zarr.Group:
    """Create the arrays of group `name`, or open existing ones.

    `lengths` gives the lengths that the letters of the schema (R, Z) stand for. Raises
    RunDirectoryError if the arrays on disk have other lengths, or if this version does not know
    some of them.
    """
    root = zarr.open_group(_zarr_store(store), mode="a")
    if name in root and "shard_rows" in root[name].attrs:
        group = open_group(store, name)
        found = shape_differences(group, num_rows=num_rows, shard_rows=shard_rows, **lengths)
        if found:
            raise RunDirectoryError("\n".join([f"{store}/{name} has another shape:", *found]))
        _refuse_unknown_arrays(group)
        return group
    group = root.create_group(name, overwrite=True)
    for array, schema in GROUPS[name].items():
        _create_array(group, array, schema, num_rows, shard_rows, lengths)
    # The attribute is written last: a group without the attribute is unfinished and is made again.
    group.attrs.update({"shard_rows": shard_rows, **formats.stamp()})
    return open_group(store, name)


def create_group_of(photos: zarr.Group, store: Location, name: str, **lengths: int) -> zarr.Group:
    """Create a group with the rows and shards of the group `photos`, as `create_group` does."""
    rows, of_shard = num_rows(photos), shard_rows(photos)
    return create_group(store, name, num_rows=rows, shard_rows=of_shard, **lengths)


def open_group(store: Location, name: str) -> zarr.Group:
    """Open group `name` for reading and writing.

    Raises RunDirectoryError if the group is missing, NewerFormatError if this version cannot read
    the group.
    """
    try:
        group = zarr.open_group(_zarr_store(store), path=name, mode="r+")
    except (FileNotFoundError, KeyError):
        raise RunDirectoryError(
            f"{store} has no group {name!r}: run the stage {WRITTEN_BY[name]} first"
        ) from None
    formats.check(f"{store}/{name}", group.attrs)
    return group


def blank(group: zarr.Group, rows: int) -> dict[str, np.ndarray]:
    """Return the arrays of a group for `rows` rows, each full of its fill, to write results in."""
    return {name: _filled(group, name, rows) for name in GROUPS[group.basename]}


def num_rows(group: zarr.Group) -> int:
    """Return N, the rows of a group."""
    return int(_array(group, "status").shape[0])


def shard_rows(group: zarr.Group) -> int:
    """Return the rows of a shard of a group."""
    return int(str(group.attrs["shard_rows"]))


def plan(group: zarr.Group) -> shards.Shards:
    """Return the shards of a group."""
    return shards.split(num_rows(group), shard_rows(group))


def read(group: zarr.Group, array: str, rows: Shard | slice = slice(None)) -> np.ndarray:
    """Return rows of an array, or its fill if an earlier version made the group without the array.

    Raises RunDirectoryError, naming the array and the rows, for missing or damaged data.
    """
    where = slice(rows.start, rows.stop) if isinstance(rows, Shard) else rows
    if array not in group and array in GROUPS[group.basename]:
        return _filled(group, array, len(range(*where.indices(num_rows(group)))))
    if isinstance(rows, Shard) and not sync(group.store.exists(_shard_key(group, array, rows))):
        raise RunDirectoryError(f"{group.store_path}/{array}: {rows} is missing. {_ADVICE}")
    try:
        return np.asarray(_array(group, array)[where])
    except (ValueError, RuntimeError) as error:
        raise RunDirectoryError(
            f"{group.store_path}/{array}, rows {where.start} to {where.stop}: {error}\n{_ADVICE}"
        ) from error


def commit(
    group: zarr.Group,
    markers: Location,
    shard: Shard,
    arrays: Mapping[str, np.ndarray],
    started: float,
    sums: Mapping[str, float] | None = None,
) -> ShardStats:
    """Write one shard of every array of the group, then the shard's marker.

    A shard that has a marker is not written again. `arrays` has the rows of the shard for each
    array of the schema; `started` is the time at which the work on the shard began, in seconds
    since the epoch; `sums` holds further counts for the marker.
    """
    schema = GROUPS[group.basename]
    if set(arrays) != set(schema):
        raise KeyError(f"{group.basename} holds {sorted(schema)}, given {sorted(arrays)}")
    made = shards.marker(markers, shard)
    if made is not None:
        return made  # another worker wrote the shard: the marker has the digests of its data
    # By default Zarr stores no shard that is all fill. Such a shard would look like a lost shard.
    stored = [name for name in schema if name in group]
    for name in stored:
        array = _array(group, name).with_config({"write_empty_chunks": True})
        array[shard.start : shard.stop] = arrays[name]
    if isinstance(group.store, LocalStore):
        for name in stored:
            files.flush(group.store.root / _shard_key(group, name, shard))
    digests = {f"{group.basename}/{name}": rows_digest(arrays[name]) for name in stored}
    statuses = shards.count_statuses(arrays["status"])
    return shards.mark_done(
        markers, shard, statuses=statuses, digests=digests, started=started, sums=sums
    )


def rows_digest(values: np.ndarray) -> str:
    """Return the digest of rows for a marker: of their bytes, or of NUL-terminated texts."""
    if values.dtype.kind in "OT":
        return files.digest("".join(f"{text}\0" for text in values).encode())
    return files.digest(np.ascontiguousarray(values).data.cast("B"))


def discard(group: zarr.Group, shard: Shard) -> None:
    """Delete the files of a shard, so that no damaged file is left when the shard is made again."""
    for name in group.array_keys():
        sync(group.store.delete(_shard_key(group, name, shard)))


def lengths(group: zarr.Group) -> dict[str, int]:
    """Return the lengths a group was created with, as `create_group` takes them."""
    found = {"num_rows": num_rows(group), "shard_rows": shard_rows(group)}
    for name, schema in GROUPS[group.basename].items():
        for axis, length in enumerate(schema.shape, start=1):
            if isinstance(length, str) and name in group:
                found[length] = int(_array(group, name).shape[axis])
    return found


def schema_differences(group: zarr.Group) -> list[str]:
    """Return one line for every array that only the group or only this version's schema has."""
    stored, known = set(group.array_keys()), set(GROUPS[group.basename])
    return [
        *(f"no array {name}, which this version would write" for name in sorted(known - stored)),
        *(f"an array {name}, which this version does not know" for name in sorted(stored - known)),
    ]


def shape_differences(
    group: zarr.Group, *, num_rows: int, shard_rows: int, **lengths: int
) -> list[str]:
    """Return one line for every array of a group whose type or shape is not the schema's."""
    lines = []
    for name, schema in GROUPS[group.basename].items():
        if name not in group:
            continue
        shape = _shape(schema, num_rows, lengths)
        expected = f"{schema.dtype} {list(shape)} in shards of {shard_rows} rows"
        array = _array(group, name)
        kind = "str" if array.dtype.kind in "OT" else str(array.dtype)
        rows = array.shards[0] if array.shards else 0
        found = f"{kind} {list(array.shape)} in shards of {rows} rows"
        if found != expected:
            lines.append(f"  {name}: {found} on disk, {expected} expected")
    return lines


def _refuse_unknown_arrays(group: zarr.Group) -> None:
    """Refuse to write to a group with arrays of a later version, which would miss the new rows."""
    unknown = sorted(set(group.array_keys()) - set(GROUPS[group.basename]))
    if unknown:
        raise RunDirectoryError(
            f"{group.store_path} has arrays that distfacegan {__version__} does not know: "
            f"{', '.join(unknown)}. It was begun by {formats.origin(group.attrs)}: "
            "finish the stage with that version, or with a later one"
        )


def _filled(group: zarr.Group, name: str, rows: int) -> np.ndarray:
    """Return rows of an array of the schema, full of the array's fill."""
    schema = GROUPS[group.basename][name]
    known = lengths(group)
    shape = (known[length] if isinstance(length, str) else length for length in schema.shape)
    dtype = object if schema.dtype == "str" else schema.dtype
    return np.full((rows, *shape), schema.fill, dtype=dtype)


def _create_array(
    group: zarr.Group,
    name: str,
    schema: ArraySchema,
    num_rows: int,
    shard_rows: int,
    lengths: Mapping[str, int],
) -> None:
    shape = _shape(schema, num_rows, lengths)
    row_bytes = 64 if schema.dtype == "str" else np.dtype(schema.dtype).itemsize
    row_bytes *= int(np.prod(shape[1:]))
    group.create_array(
        name,
        shape=shape,
        chunks=(_chunk_rows(shard_rows, row_bytes), *shape[1:]),
        shards=(shard_rows, *shape[1:]),
        dtype=schema.dtype,
        compressors=[ZstdCodec(level=1, checksum=True)],
        fill_value=schema.fill,
        overwrite=True,
    )


def _chunk_rows(shard_rows: int, row_bytes: int) -> int:
    """Return the largest divisor of the shard that keeps a chunk within CHUNK_BYTES."""
    limit = max(1, CHUNK_BYTES // row_bytes)
    return max(n for n in range(1, min(shard_rows, limit) + 1) if shard_rows % n == 0)


def _shape(schema: ArraySchema, num_rows: int, lengths: Mapping[str, int]) -> tuple[int, ...]:
    inner = (lengths[length] if isinstance(length, str) else length for length in schema.shape)
    return (num_rows, *inner)


def _shard_key(group: zarr.Group, name: str, shard: Shard) -> str:
    """Return the key in the group's store of the object that holds a shard of an array."""
    array = _array(group, name)
    key = array.metadata.encode_chunk_key((shard.index,) + (0,) * (array.ndim - 1))
    return f"{array.path}/{key}"


def _zarr_store(location: Location) -> Location | ObjectStore:
    """Return a location in the form that Zarr opens: a local path, or an object store."""
    if isinstance(location, Path):
        return location
    store = _UrlStore(object_store(location))
    store.url = str(location)
    return store


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise RunDirectoryError(f"{group.store_path}/{name} is not an array")
    return array
