"""Photos to faces: read, find the face, crop, resize; into photos/ of the store."""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

import cv2
import numpy as np

from distfacegan.core import faces
from distfacegan.errors import UnreadablePhotoError
from distfacegan.sources import Source, SourceSection
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster
from distfacegan.stages.outcome import Outcome
from distfacegan.stages.sharded import run_stage
from distfacegan.store import latents
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status

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


@functools.lru_cache(maxsize=1)  # listing an archive is slow: a process does it once
def open_source_of(section: SourceSection, seed: int) -> Source:
    """Open the source that a spec names."""
    return section.open(seed)


def settings(spec: JobSpec) -> dict[str, Any]:
    """Return what decides the faces: compared when a run is resumed."""
    assert spec.ingest is not None
    source = open_source_of(spec.ingest.source, spec.seed)
    return {
        "seed": spec.seed,
        "resolution": spec.ingest.resolution,
        "shard_rows": spec.ingest.shard_rows,
        "source": {
            "kind": spec.ingest.source.kind,
            "photos": len(source.keys),
            "fingerprint": source.fingerprint(),
        },
    }


def inputs(spec: JobSpec, run: RunDirectory) -> dict[str, str]:
    """Return the identities of what the stage reads: nothing of the run directory."""
    return {}


def execute(spec: JobSpec, run: RunDirectory) -> Outcome:
    """Finish the stage."""
    assert spec.ingest is not None
    source = open_source_of(spec.ingest.source, spec.seed)
    photos = latents.create_group(
        run.latents,
        "photos",
        num_rows=len(source.keys),
        shard_rows=spec.ingest.shard_rows,
        R=spec.ingest.resolution,
    )
    outcome = run_stage(
        run,
        "ingest",
        latents.plan(photos),
        IngestWorker,
        {
            "source": source,
            "store": run.latents,
            "markers": run.markers("ingest"),
            "resolution": spec.ingest.resolution,
        },
        workers=cluster.cpu_workers(spec.ingest.workers),
        unit="photos",
    )
    unreadable = np.flatnonzero(latents.read(photos, "status") == Status.UNREADABLE)
    if len(unreadable):
        names = ", ".join(source.keys[row] for row in unreadable[:NAMED])
        more = f" and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        log.warning("ingest: cannot be read: %s%s", names, more)
    return outcome
