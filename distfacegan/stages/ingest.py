"""Photos to faces: each photo is read, its face found, cropped and resized, and stored."""

from __future__ import annotations

import dataclasses
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

MEASURED = 512  # `measure` times about this many different photos
NAMED = 10  # the log names this many unreadable photos at most; `photos/status` marks all
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)


class IngestWorker:
    """Crops the photos of shards. A plain class: tests use it without Ray."""

    def __init__(self, source: Source, store: Location, markers: Location, resolution: int) -> None:
        self._source, self._markers, self._resolution = source, markers, resolution
        self._photos = groups.open_group(store, "photos")
        cv2.setNumThreads(1)  # each core has a worker, so more threads would not be faster

    def run(self, shard: Shard) -> ShardStats:
        """Read and crop the photos of one shard and commit the faces to the store."""
        started = time.time()
        arrays = groups.blank(self._photos, len(shard))
        arrays["key"][:] = self._source.keys[shard.start : shard.stop]
        for i, row in enumerate(shard.rows):
            found = crop(self._source, int(row), self._resolution)
            arrays["status"][i], arrays["brightness"][i] = found.status, found.brightness
            if found.face is not None:
                arrays["image"][i], arrays["box"][i] = found.face, found.box
        return groups.commit(self._photos, self._markers, shard, arrays, started)


@dataclasses.dataclass(frozen=True)
class Cropped:
    """The result of one photo."""

    status: Status
    brightness: float = np.nan  # of the middle half, in [0, 1]; NaN for an unreadable photo
    face: np.ndarray | None = None  # u8 [R, R, 3]
    box: np.ndarray | None = None  # f32 [4], of the face, in pixels of the photo


def crop(source: Source, row: int, resolution: int) -> Cropped:
    """Read a photo, find its face and cut it out."""
    try:
        photo = source.read(row)
    except UnreadablePhotoError as error:
        log.info("%s: unreadable: %s", source.keys[row], error)
        return Cropped(Status.UNREADABLE)
    light = brightness(photo)
    box = faces.find_face(photo)
    if box is None:
        return Cropped(Status.NO_FACE, light)
    return Cropped(Status.OK, light, faces.crop_face(photo, box, resolution), box)


def brightness(photo: np.ndarray) -> float:
    """Return the mean luma of the middle half of a photo u8 [H, W, 3], in [0, 1]."""
    height, width = photo.shape[:2]
    middle = photo[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return float(middle.mean(axis=(0, 1)) @ LUMA) / 255


class IngestStage(Stage):
    """Photos to faces."""

    name = "ingest"
    unit = "photos"
    writes = ("latents.zarr/photos",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return the settings that decide the faces, and the identity of the photos."""
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
        """Return nothing: the settings include the identity of the photos."""
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
        """Time the reading and cropping of photos from all parts of the source."""
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
        log.warning("ingest: photos that cannot be read: %s%s", names, more)


STAGE = IngestStage()
