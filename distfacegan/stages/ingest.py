"""Photos to faces: read, find the face, crop, resize; into photos/ of the store."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from distfacegan.core import faces
from distfacegan.errors import UnreadablePhotoError
from distfacegan.sources import Source
from distfacegan.stages import cluster, sizes
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import latents
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_group

log = logging.getLogger(__name__)

NAMED = 10  # photos that cannot be read; `photos/status` knows all of them


class IngestWorker:
    """Crops the photos of shards. A plain class: tests use it without Ray."""

    def __init__(self, source: Source, store: Location, markers: Location, resolution: int) -> None:
        self._source, self._markers, self._resolution = source, markers, resolution
        self._photos = latents.open_group(store, "photos")
        cv2.setNumThreads(1)  # one worker a core: more threads would only wait for each other

    def run(self, shard: Shard) -> ShardStats:
        """Read and crop the photos of one shard and commit the faces to the store."""
        started = time.time()
        arrays = latents.blank(self._photos, len(shard))
        arrays["key"][:] = self._source.keys[shard.start : shard.stop]
        for i, row in enumerate(shard.rows):
            arrays["status"][i], found = self._find_face(int(row))
            if found is not None:
                photo, arrays["box"][i] = found
                arrays["image"][i] = faces.crop_face(photo, found[1], self._resolution)
        return latents.commit(self._photos, self._markers, shard, arrays, started)

    def _find_face(self, row: int) -> tuple[Status, tuple[np.ndarray, np.ndarray] | None]:
        """Return a status, and where it is OK the photo and the box of its face."""
        try:
            photo = self._source.read(row)
        except UnreadablePhotoError as error:
            log.info("%s: unreadable: %s", self._source.keys[row], error)
            return Status.UNREADABLE, None
        box = faces.find_face(photo)
        return (Status.NO_FACE, None) if box is None else (Status.OK, (photo, box))


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
        photos = latents.create_group(
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
            self, job, latents.plan(photos), worker, workers=cluster.cpu_workers(section.workers)
        )
        _name_unreadable(job.source, latents.read(photos, "status"))
        return outcome

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        photos = job.photos
        side = photos.resolution
        assert side is not None
        work = sizes.in_shards(photos.count, photos.shard_rows, side * side * 3)
        return Plan(f"{work} at {side}x{side}", photos.count)

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
