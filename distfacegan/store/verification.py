"""Checks of a run's data against its markers and metadata.

Only damaged data is discarded: bytes that fail their digest or checksum, and files that are cut
short or missing. The marker of discarded data is deleted too, so that the next run makes the data
again. A difference between versions of the program is no damage: the difference is reported, and
nothing is changed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import zarr

from distfacegan import __version__
from distfacegan.errors import MENDED, DistfaceganError, RunDirectoryError
from distfacegan.store import files, groups, shards, weight_files
from distfacegan.store.formats import NewerFormatError
from distfacegan.store.location import Location, ObjectStoreError, numbered, remove_tree
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check."""

    text: str
    # damaged: the data was discarded and is to be made again. unreadable: this version cannot
    # check the data; nothing was changed. note: nothing is wrong.
    kind: Literal["damaged", "unreadable", "note"] = "damaged"

    def __str__(self) -> str:
        return self.text


def unreadable(what: object, error: Exception) -> Finding:
    """Return the finding for undamaged data that this version cannot read."""
    if isinstance(error, NewerFormatError):
        return Finding(str(error), "unreadable")
    return Finding(
        f"{what} cannot be read by distfacegan {__version__} ({type(error).__name__}: {error}); "
        "nothing was touched",
        "unreadable",
    )


def check_group(run: RunDirectory, stage: str, name: str) -> Iterator[Finding]:
    """Check every shard of a group of arrays that a stage writes."""
    folder, markers = run.latents / name, run.markers(stage)
    if not folder.exists() and not shards.done(markers):
        return  # the stage stopped before it wrote any data
    lost = _lost_arrays(folder, markers)
    if lost:
        remove_tree(markers)
        remove_tree(folder)
        yield Finding(f"{folder} is damaged; to be done again: {', '.join(lost)}")
        return
    try:
        group = groups.open_group(run.latents, name)
        plan = groups.plan(group)
        wrong = groups.shape_differences(group, **groups.lengths(group))
        if wrong:
            raise TypeError("\n".join(["its arrays are not this version's", *wrong]))
    except Exception as error:  # zarr raises many kinds of errors for metadata of other versions
        _raise_if_passing(error)
        yield unreadable(folder, error)
        return
    for difference in groups.schema_differences(group):
        yield Finding(f"{folder} has {difference}; all arrays on disk are checked", "note")

    def damage_of(shard: Shard, marker: ShardStats) -> list[str]:
        damage = list(_array_damage(group, shard, marker))
        if damage:
            groups.discard(group, shard)
        return damage

    yield from _check_shards(run, stage, plan, damage_of)


def check_shard_files(
    run: RunDirectory, stage: str, plan: Sequence[Shard], folder: Location
) -> Iterator[Finding]:
    """Check the files in `folder` that the marker of each shard names."""

    def damage_of(shard: Shard, marker: ShardStats) -> list[str]:
        return files.damaged(folder, marker.digests)

    yield from _check_shards(run, stage, plan, damage_of)


def check_networks(folders: Sequence[Location], *, expected: bool = False) -> Iterator[Finding]:
    """Check the digests of checkpoints; with `expected` an absent checkpoint is a finding too."""
    for folder in folders:
        if not folder.exists():
            if expected:
                yield Finding(f"{folder} is missing; to be made again")
            continue
        try:
            damage = weight_files.damaged(folder)
        except FileNotFoundError:
            damage = [f"{folder / 'meta.json'} is missing"]
        except Exception as error:
            _raise_if_passing(error)
            yield unreadable(folder, error)
            continue
        if damage:
            weight_files.remove(folder)
            yield Finding(f"{', '.join(damage)}; to be made again")


def check_present(paths: Sequence[Location]) -> Iterator[Finding]:
    """Yield a finding for every missing file."""
    for path in paths:
        if not path.exists():
            yield Finding(f"{path} is missing; to be made again")


def check_sealed(path: Location, *, expected: bool = False) -> Iterator[Finding]:
    """Check a sealed JSON file and the files beside it; with `expected` it must be there."""
    try:
        damage = files.damaged(path.parent, files.read_json(path).get("digests", {}))
    except FileNotFoundError:
        damage = [f"{path} is missing"] if expected else []
    except RunDirectoryError as error:
        damage = [_without_advice(error)]
    if damage:
        path.unlink(missing_ok=True)
        yield Finding(f"{', '.join(damage)}; to be made again")


def check_record(run: RunDirectory, stage: str) -> StageRecord | Finding:
    """Return the record of a stage that has begun, or the finding that says what is wrong."""
    try:
        record = run.record(stage)
        assert record is not None
    except NewerFormatError as error:
        return unreadable(run.record_path(stage), error)
    except DistfaceganError as error:
        return Finding(f"{_without_advice(error)}; the stage is to be done again")
    try:
        run.identity(stage)
    except RunDirectoryError as error:
        return Finding(str(error), "unreadable")
    return record


def _without_advice(error: Exception) -> str:
    return str(error).removesuffix(f"; {MENDED}")


def _lost_arrays(folder: Location, markers: Location) -> list[str]:
    """Return a line for each metadata file that is missing or cut short.

    Checked are the files of the group and of every array that the markers name.
    """
    written: set[str] = set()
    for path in numbered(markers, ".json"):
        try:
            written |= set(shards.parse(path, files.read_json(path)).digests)
        except DistfaceganError:
            continue  # _check_shards reports damaged markers
    names = {array.partition("/")[2] for array in written}
    paths = [folder / "zarr.json", *(folder / name / "zarr.json" for name in sorted(names))]
    return [f"{path} is missing or cut short" for path in paths if not _is_json(path)]


def _is_json(path: Location) -> bool:
    try:
        json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True


def _check_shards(
    run: RunDirectory,
    stage: str,
    plan: Sequence[Shard],
    damage_of: Callable[[Shard, ShardStats], list[str]],
) -> Iterator[Finding]:
    """Check the markers of a stage, and with `damage_of` the data of each marked shard."""
    known, made_of = set(), run.identity(stage)
    for path in numbered(run.markers(stage), ".json"):
        index = int(path.stem)
        known.add(index)
        shard = plan[index] if index < len(plan) else None
        try:
            marker = shards.parse(path, files.read_json(path))
        except NewerFormatError as error:
            yield unreadable(path, error)
            continue
        except DistfaceganError as error:
            path.unlink()
            said = _without_advice(error)
            yield Finding(f"{shard or path}: its marker is damaged ({said}); to be done again")
            continue
        told = Shard(marker.shard, marker.start, marker.stop)
        if shard is None or told != shard:
            path.unlink()
            yield Finding(f"{shard or path}: its marker tells of {told}; to be done again")
            continue
        if not marker.is_of(made_of):
            path.unlink()
            yield Finding(
                f"{shard}: made with other settings or inputs (digest {marker.made_of}, the "
                f"stage's is {made_of}); to be done again"
            )
            continue
        damage = damage_of(shard, marker)
        if damage:
            path.unlink()
            yield Finding(f"{shard}: {', '.join(damage)}; to be done again")
    record = run.record(stage)
    if record is not None and record.finished:
        for shard in plan:
            if shard.index not in known:
                yield Finding(f"{shard}: no marker; to be done again")


def _array_damage(group: zarr.Group, shard: Shard, marker: ShardStats) -> Iterator[str]:
    for array, expected in marker.digests.items():
        name = array.partition("/")[2]
        try:
            rows = groups.read(group, name, shard)
        except Exception as error:  # codecs raise many kinds of errors for damaged bytes
            _raise_if_passing(error)
            yield f"{array} cannot be read ({str(error).splitlines()[0]})"
            continue
        if groups.rows_digest(rows) != expected:
            yield f"{array} is not what was written"
        elif name == "status" and shards.count_statuses(rows) != marker.statuses:
            yield f"{array} has other counts than the marker"


def _raise_if_passing(error: Exception) -> None:
    """Raise an error that may be gone at the next try and does not come from damaged data."""
    passing = isinstance(error, ObjectStoreError | OSError | MemoryError)
    if passing and not isinstance(error, FileNotFoundError):
        raise error
