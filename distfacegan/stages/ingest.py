"""Photos to faces: read, find the face, crop, resize; into photos/ of the store."""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from distfacegan.core import faces
from distfacegan.errors import UnreadablePhotoError
from distfacegan.sources import Source
from distfacegan.stages import cluster, rates, sizes
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import groups
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_group

log = logging.getLogger(__name__)

MEASURED = 512  # photos that are timed, at most
NAMED = 10  # photos that cannot be read; `photos/status` knows all of them


class IngestWorker:
    """Crops the photos of shards. A plain class: tests use it without Ray."""

    def __init__(self, source: Source, store: Location, markers: Location, resolution: int) -> None:
        self._source, self._markers, self._resolution = source, markers, resolution
        self._photos = groups.open_group(store, "photos")
        cv2.setNumThreads(1)  # one worker a core: more threads would only wait for each other

    def run(self, shard: Shard) -> ShardStats:
        """Read and crop the photos of one shard and commit the faces to the store."""
        started = time.time()
        arrays = groups.blank(self._photos, len(shard))
        arrays["key"][:] = self._source.keys[shard.start : shard.stop]
        for i, row in enumerate(shard.rows):
            arrays["status"][i], found = crop(self._source, int(row), self._resolution)
            if found is not None:
                arrays["image"][i], arrays["box"][i] = found
        return groups.commit(self._photos, self._markers, shard, arrays, started)


def crop(
    source: Source, row: int, resolution: int
) -> tuple[Status, tuple[np.ndarray, np.ndarray] | None]:
    """Return what became of a photo, and where that is OK its face and the face's box.

    The face is u8 [R, R, 3], the box f32 [4] in pixels of the photo.
    """
    try:
        photo = source.read(row)
    except UnreadablePhotoError as error:
        log.info("%s: unreadable: %s", source.keys[row], error)
        return Status.UNREADABLE, None
    box = faces.find_face(photo)
    if box is None:
        return Status.NO_FACE, None
    return Status.OK, (faces.crop_face(photo, box, resolution), box)


class IngestStage(Stage):
    """Photos to faces."""

    name = "ingest"
    unit = "photos"
    writes = ("latents.zarr/photos",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return what decides the faces."""
        section = job.spec.ingest
        assert section is not None
        return {
            "seed": job.spec.seed,
            "resolution": section.resolution,
            "shard_rows": section.shard_rows,
            "source": {
                "kind": section.source.kind,
                "photos": len(job.source.keys),
                "fingerprint": job.source.fingerprint(),
            },
        }

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return nothing: the photos are among the settings."""
        return {}

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section = job.spec.ingest
        assert section is not None
        photos = groups.create_group(
            job.run.latents,
            "photos",
            num_rows=len(job.source.keys),
            shard_rows=section.shard_rows,
            R=section.resolution,
        )
        worker = functools.partial(
            IngestWorker,
            source=job.source,
            store=job.run.latents,
            markers=job.run.markers(self.name),
            resolution=section.resolution,
        )
        outcome = finish_shards(
            self, job, groups.plan(photos), worker, workers=cluster.cpu_workers(section.workers)
        )
        _name_unreadable(job.source, groups.read(photos, "status"))
        return outcome

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        photos = job.photos
        side = photos.resolution
        assert side is not None
        work = sizes.in_shards(photos.count, photos.shard_rows, side * side * 3)
        return Plan(f"{work} at {side}x{side}", photos.count)

    def measure(self, job: Job, device: str) -> float | None:
        """Time reading and cropping of photos all over the source."""
        section = job.spec.ingest
        assert section is not None
        if not job.photos.here:
            return None
        count = len(job.source.keys)
        rows = itertools.cycle(range(0, count, max(1, count // MEASURED)))
        cv2.setNumThreads(1)

        def some() -> int:
            for row in itertools.islice(rows, 16):
                crop(job.source, row, section.resolution)
            return 16

        return rates.rate(some)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the faces."""
        yield from check_group(run, self.name, "photos")


def _name_unreadable(source: Source, status: np.ndarray) -> None:
    unreadable = np.flatnonzero(status == Status.UNREADABLE)
    if len(unreadable):
        names = ", ".join(source.keys[row] for row in unreadable[:NAMED])
        more = f" and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        log.warning("ingest: cannot be read: %s%s", names, more)


STAGE = IngestStage()
