"""`distfacegan export`: a run's generated faces, or its photos' faces, in another format.

Nothing is generated again. Each shard of the run becomes a shard of the export. A marker in
.shards/ of the target says that a shard is written, so an export that was interrupted goes on.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from distfacegan.errors import RunDirectoryError
from distfacegan.stages import cluster, dataset_facts
from distfacegan.stages.pool import run_shards
from distfacegan.stages.progress import Progress
from distfacegan.store import dataset, files, groups, shards
from distfacegan.store.exports import ExportFormat, Sample, recorded_format
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status

log = logging.getLogger(__name__)

What = Literal["synthetic", "photos"]
MARKERS = ".shards"
ON_RAY = 20_000  # an export of more faces is done by Ray actors


class ExportWorker:
    """Writes shards in another format. A plain class: small exports use it without Ray."""

    def __init__(self, root: Location, folder: Location, what: What, export: ExportFormat) -> None:
        self._run, self._folder, self._export = RunDirectory(root), folder, export
        self._read = photos_of if what == "photos" else generated_of

    def run(self, shard: Shard) -> ShardStats:
        """Write the files of one shard, and its marker."""
        started = time.time()
        samples = list(self._read(self._run, shard))
        packed = dict(self._export.pack(shard.index, samples)) if samples else {}
        for name, data in packed.items():
            files.write_bytes(self._folder / name, data)
        return shards.mark_done(
            self._folder / MARKERS,
            shard,
            statuses={Status.OK.label: len(samples)},
            digests={name: files.digest(data) for name, data in packed.items()},
            started=started,
        )


def generated_of(run: RunDirectory, shard: Shard) -> list[Sample]:
    """Return the samples of a shard of the generated faces."""
    record = run.record("synthesize")
    assert record is not None
    return recorded_format(record.settings).read_first(run.synthetic, shard.index, len(shard))


def photos_of(run: RunDirectory, shard: Shard) -> Iterator[Sample]:
    """Yield the photos' faces of a shard that have trusted landmarks, with z where it is known."""
    photos, landmarks = (groups.open_group(run.latents, name) for name in ("photos", "landmarks"))
    good = groups.read(landmarks, "status", shard) == Status.OK
    images, points = groups.read(photos, "image", shard), groups.read(landmarks, "points", shard)
    keys = groups.read(photos, "key", shard)
    z = _latents_of(run, shard)
    for i in np.flatnonzero(good).tolist():
        known = z is not None and bool(np.isfinite(z[i]).all())
        yield Sample(
            shard.start + i,
            None,
            z[i] if z is not None and known else None,
            images[i],
            points[i],
            key=str(keys[i]),
        )


def _latents_of(run: RunDirectory, shard: Shard) -> np.ndarray | None:
    """Return the latents of the photos of a shard, f32 [rows, Z], NaN of a photo without one."""
    if not run.finished("invert"):
        return None
    group = groups.open_group(run.latents, "latents")
    z = groups.read(group, "z", shard)
    z[groups.read(group, "status", shard) != Status.OK] = np.nan
    return z


def export(run: RunDirectory, export: ExportFormat, folder: Location, what: What) -> str:
    """Write a run's faces into a folder; return what was done, in words.

    Raises RunDirectoryError if the run does not have the faces, if the folder holds something else,
    or if shards could not be written.
    """
    manifest, plan = _manifest(run, export, what)
    _refuse_other_content(folder, manifest)
    files.write_json(dataset.manifest_path(folder), files.seal(manifest))
    done = shards.done(folder / MARKERS)
    todo = [shard for shard in plan if shard.index not in done]
    worker = functools.partial(ExportWorker, run.root, folder, what, export)
    failed = _run_all(worker, todo, sum(map(len, plan)) > ON_RAY)
    if failed:
        raise RunDirectoryError(
            f"{len(failed)} of {len(plan)} shards are not exported: {failed[0]}. "
            "The same command goes on from there"
        )
    totals = shards.totals(shards.read_markers(folder / MARKERS))
    manifest["kept"] = totals["statuses"].get(Status.OK.label, 0)
    if what == "photos":
        dataset.write_photo_manifest(folder, manifest, export)
        _write_latents(run, folder)
    else:
        dataset.write_manifest(folder, manifest, export)
    return f"{manifest['kept']} faces in {len(plan)} shards in {folder}"


def _run_all(worker: functools.partial[ExportWorker], todo: list[Shard], on_ray: bool) -> list[str]:
    """Write all shards; return the reasons of those that failed."""
    if not todo:
        return []
    with Progress("export", sum(map(len, todo)), "faces") as progress:

        def advance(stats: ShardStats) -> None:
            progress.advance(stats.stop - stats.start)

        if on_ray:
            workers, resources = cluster.cpu_workers(None)
            with cluster.connect():
                failed = run_shards(
                    worker, todo, num_workers=workers, resources=resources, on_done=advance
                )
            return [f"{failure.shard}: {failure.reason}" for failure in failed]
        here = worker()
        for shard in todo:
            advance(here.run(shard))
    return []


def _manifest(
    run: RunDirectory, export: ExportFormat, what: What
) -> tuple[dict[str, Any], Sequence[Shard]]:
    """Return the manifest of an export and its shards."""
    stage = "synthesize" if what == "synthetic" else "landmarks"
    if not run.finished(stage):
        raise RunDirectoryError(
            f"{run.root}: the stage {stage} is not finished, so there is nothing whole to export; "
            "finish it with `distfacegan run`"
        )
    made_of = {"what": what, "of": run.identity(stage), "export_format": export.kind}
    if what == "synthetic":
        record = run.record(stage)
        assert record is not None
        plan = shards.split(record.settings["count"], record.settings["shard_rows"])
        manifest = files.read_json(dataset.manifest_path(run.synthetic))
        manifest.pop("digests", None)  # of the run's own files
        return {**manifest, **made_of}, plan
    plan = groups.plan(groups.open_group(run.latents, "photos"))
    about = dataset_facts.about_photos(run)
    return {"name": run.root.name, "count": sum(map(len, plan)), **about, **made_of}, plan


def _refuse_other_content(folder: Location, manifest: dict[str, Any]) -> None:
    """Raise RunDirectoryError if a folder holds something else than a part of this export."""
    path = dataset.manifest_path(folder)
    if path.exists():
        found = files.read_json(path)
        for name in ("what", "of", "export_format"):
            if found.get(name) != manifest[name]:
                raise RunDirectoryError(
                    f"{folder} holds another data set: its {name} is {found.get(name)}, this "
                    f"export's is {manifest[name]}. Choose an empty folder"
                )
    elif folder.is_dir() and any(True for _ in folder.iterdir()):
        raise RunDirectoryError(
            f"{folder} is not empty and holds no export. Choose an empty folder, so that nothing "
            "of yours is mixed with the data set"
        )


def _write_latents(run: RunDirectory, folder: Location) -> None:
    """Write the latents of all rows, NaN where there is none, and the keys of the photos."""
    photos = groups.open_group(run.latents, "photos")
    keys = [str(key) for key in groups.read(photos, "key")]
    files.write_bytes(folder / "keys.txt", "".join(f"{key}\n" for key in keys).encode())
    if run.finished("invert"):
        z = [_latents_of(run, shard) for shard in groups.plan(photos)]
        with contextlib.closing(io.BytesIO()) as buffer:
            np.save(buffer, np.concatenate([each for each in z if each is not None]))
            files.write_bytes(folder / "latents.npy", buffer.getvalue())
