"""Checks everything that a run stored against what its markers and metadata say of it.

What is damaged loses its marker, so that the next run makes it again; nothing else is touched.
"""

from __future__ import annotations

from collections.abc import Iterator

import zarr

from distfacegan.errors import DistfaceganError
from distfacegan.store import dataset, files, latents, networks, shards
from distfacegan.store.location import Location, ObjectStoreError, numbered, remove_tree
from distfacegan.store.run_directory import STAGES, RunDirectory
from distfacegan.store.shards import Shard, ShardStats

GROUP_OF = {stage: group for group, stage in latents.WRITTEN_BY.items()}


def verify(run: RunDirectory) -> list[str]:
    """Check a run and return one line for everything that is wrong with it.

    Raises RunDirectoryError while a job is at the run.
    """
    with run.lock("verify"):
        findings = []
        for stage in STAGES:
            if run.record_path(stage).exists():
                of_stage: list[str] = []
                try:
                    of_stage.extend(_verify_stage(run, stage))
                except DistfaceganError as error:  # the other stages are still to be looked at
                    of_stage.append(str(error))
                if of_stage and run.record_path(stage).exists():
                    run.note(stage, finished=False)
                findings += [f"{stage}: {finding}" for finding in of_stage]
        return findings


def _verify_stage(run: RunDirectory, stage: str) -> Iterator[str]:
    try:
        record = run.record(stage)
        assert record is not None
    except DistfaceganError as error:
        run.clear(stage)  # without it nobody knows what the stage was made with
        yield f"{error}; the stage is to be done again"
        return
    if stage == "invert":
        fast = record["settings"].get("recipe") == "fast"
        yield from _verify_networks([run.surrogate], expected=fast and record["finished"])
    if stage in GROUP_OF:
        yield from _verify_group(run, stage)
    if stage == "synthesize":
        yield from _verify_files(
            run, stage, record["settings"]["count"], record["settings"]["shard_rows"]
        )
        if record["finished"] and not (run.synthetic / "manifest.json").exists():
            yield f"{run.synthetic / 'manifest.json'} is missing; to be made again"
    if stage == "began":
        yield from _verify_networks(numbered(run.began / "checkpoints"))
        yield from _verify_networks([run.began / "generator"], expected=record["finished"])
    if stage == "lgen":
        folders = [run.lgen / "final", run.lgen / "held_out"]
        yield from _verify_networks(folders, expected=record["finished"])
        for name in ("evaluation.json", "trials.json"):
            if record["finished"] and not (run.lgen / name).exists():
                yield f"{run.lgen / name} is missing; to be made again"
    if stage == "report" and record["finished"] and not (run.report / "index.html").exists():
        yield f"{run.report / 'index.html'} is missing"


def _verify_group(run: RunDirectory, stage: str) -> Iterator[str]:
    name = GROUP_OF[stage]
    if not (run.latents / name).exists() and not shards.done(run.markers(stage)):
        return  # it stopped before it made anything
    try:
        group = latents.open_group(run.latents, name)
        plan = latents.plan(group)
        wrong = latents.schema_differences(group, **latents.lengths(group))
    except Exception as error:  # a damaged zarr.json can raise anything
        _raise_if_unknown(error)
        wrong = [f"  cannot be opened: {error}"]
    if wrong:
        remove_tree(run.markers(stage))
        remove_tree(run.latents / name)
        yield "\n".join(
            [f"{run.latents / name} is not what it should be; to be done again", *wrong]
        )
        return
    markers, wrong_markers = _checked_markers(run, stage, plan)
    yield from (f"{wrong}; to be done again" for wrong in wrong_markers.values())
    damaged = set(wrong_markers)
    for shard, marker in markers:
        damage = list(_shard_damage(group, shard, marker))
        if damage:
            damaged.add(shard.index)
            shards.marker_path(run.markers(stage), shard.index).unlink()
            latents.discard(group, shard)
            yield f"{shard}: {', '.join(damage)}; to be done again"
    yield from _missing(run, stage, plan, damaged)


def _shard_damage(group: zarr.Group, shard: Shard, marker: ShardStats) -> Iterator[str]:
    for array, expected in marker.digests.items():
        name = array.partition("/")[2]
        try:
            rows = latents.read(group, name, shard)
        except Exception as error:  # whatever a codec makes of damaged bytes
            _raise_if_unknown(error)
            yield f"{array} cannot be read ({str(error).splitlines()[0]})"
            continue
        if latents.rows_digest(rows) != expected:
            yield f"{array} is not what was written"
        elif name == "status" and shards.count_statuses(rows) != marker.statuses:
            yield f"{array} has other counts than the marker"


def _verify_files(run: RunDirectory, stage: str, rows: int, shard_rows: int) -> Iterator[str]:
    plan = shards.split(rows, shard_rows)
    markers, wrong_markers = _checked_markers(run, stage, plan)
    yield from (f"{wrong}; to be done again" for wrong in wrong_markers.values())
    damaged = set(wrong_markers)
    for shard, marker in markers:
        path = dataset.shard_path(run.synthetic, shard.index)
        if not path.exists():
            damage = "is missing"
        elif files.file_digest(path) != marker.digests.get(path.name):
            damage = "is not what was written"
        else:
            continue
        damaged.add(shard.index)
        shards.marker_path(run.markers(stage), shard.index).unlink()
        yield f"{shard}: {path} {damage}; to be done again"
    yield from _missing(run, stage, plan, damaged)


def _checked_markers(
    run: RunDirectory, stage: str, plan: list[Shard]
) -> tuple[list[tuple[Shard, ShardStats]], dict[int, str]]:
    """Return the good markers with their shards, and what is wrong with the others, by number.

    The others are deleted.
    """
    good, damage = [], {}
    for path in numbered(run.markers(stage), ".json"):
        index = int(path.stem)
        shard = plan[index] if index < len(plan) else None
        try:
            marker = ShardStats(**files.read_json(path))
        except (DistfaceganError, TypeError) as error:
            damage[index] = f"{shard or path}: its marker is damaged ({error})"
            path.unlink()
            continue
        told = Shard(marker.shard, marker.start, marker.stop)
        if told == shard:
            good.append((shard, marker))
        else:
            damage[index] = f"{shard or path}: its marker tells of {told}"
            path.unlink()
    return good, damage


def _missing(run: RunDirectory, stage: str, plan: list[Shard], damaged: set[int]) -> Iterator[str]:
    """Name the shards without a marker, if the stage says it is finished; not the damaged again."""
    record = run.record(stage)
    done = shards.done(run.markers(stage)) | damaged
    if record is not None and record["finished"]:
        yield from (
            f"{shard}: no marker; to be done again" for shard in plan if shard.index not in done
        )


def _verify_networks(folders: list[Location], expected: bool = False) -> Iterator[str]:
    for folder in folders:
        if not folder.exists():
            if expected:
                yield f"{folder} is missing; to be made again"
            continue
        try:
            damage = networks.damaged(folder)
        except Exception as error:  # a damaged meta.json, or none
            _raise_if_unknown(error)
            damage = [str(error)]
        if damage:
            networks.remove(folder)
            yield f"{', '.join(damage)}; to be made again"


def _raise_if_unknown(error: Exception) -> None:
    """Raise an error that says nothing of what is stored: what cannot be read is not deleted."""
    unknown = isinstance(error, ObjectStoreError | OSError | MemoryError)
    if unknown and not isinstance(error, FileNotFoundError):
        raise error
