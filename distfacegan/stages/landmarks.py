"""Faces to 49 landmarks each: a detector's, or the source's own carried through the crop."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from distfacegan.core import faces
from distfacegan.core.detectors import DetectorSettings, trusted
from distfacegan.core.landmarks import distance, five_points, nme
from distfacegan.sources import Source
from distfacegan.stages import cluster, ingest, rates, sizes
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import files, groups, shards
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_group

# Operations a second of one H200, for the plan's guess: fp32 in the detector's small layers.
DETECTION_FLOPS = 3e13
ROW_BYTES = 49 * 12 + 5  # of the landmarks, scores, deviation and status of a face


class LandmarkWorker:
    """Finds the landmarks of shards of faces. A plain class: tests use it without Ray.

    `run` may be called from two threads at once: one computes, the other reads or writes.
    """

    def __init__(
        self,
        store: Location,
        markers: Location,
        *,
        detector: DetectorSettings,
        min_score: float,
        source: Source | None = None,
        device: str = "cpu",
    ) -> None:
        cv2.setNumThreads(1)  # workers share the cores already
        self._photos = groups.open_group(store, "photos")
        self._landmarks = groups.open_group(store, "landmarks")
        self._markers, self._source = markers, source
        self._detector = detector.make(device) if detector.finds else None
        self._min_score = min_score
        self._computing = threading.Lock()

    def run(self, shard: Shard) -> ShardStats:
        """Find the landmarks of one shard and commit them to the store."""
        started = time.time()
        arrays = groups.blank(self._landmarks, len(shard))
        arrays["status"][:] = Status.NOTHING_UPSTREAM
        upstream = groups.read(self._photos, "status", shard)
        with_face = np.flatnonzero(upstream == Status.OK)
        own = {
            i: points
            for i in with_face.tolist()
            if (points := self._own_points(shard, i)) is not None
        }
        if self._detector is None:
            with_face = np.array(list(own), int)
            points = np.array(list(own.values()), np.float32).reshape(-1, 49, 2)
            score = np.ones(points.shape[:2], np.float32)
        else:
            image = groups.read(self._photos, "image", shard)[with_face]
            with self._computing:
                started = time.time()
                points, score = self._detector.detect(image)
            for i, detected in zip(with_face.tolist(), points, strict=True):
                if i in own:
                    arrays["deviation"][i] = deviation(detected, own[i])
        good = trusted(points, score, self._min_score)
        # A point beyond the crop is moved to its edge: L-Gen's sigmoid knows nothing else.
        arrays["points"][with_face], arrays["score"][with_face] = points.clip(0, 1), score
        arrays["status"][with_face] = np.where(good, Status.OK, Status.LANDMARKS_NOT_TRUSTED)
        return groups.commit(self._landmarks, self._markers, shard, arrays, started)

    def _own_points(self, shard: Shard, i: int) -> np.ndarray | None:
        """Return the source's own points of a face [P, 2], in units of the face."""
        points = None if self._source is None else self._source.annotation(shard.start + int(i))
        if points is None:
            return None
        box = groups.read(self._photos, "box", slice(shard.start + i, shard.start + i + 1))[0]
        return faces.points_in_face(points, box)


def deviation(points: np.ndarray, own: np.ndarray) -> float:
    """Return how far detected landmarks [49, 2] are from the source's own [49 or 5, 2].

    Mean distance over the distance of the eyes: outer corners for 49 points, centres for
    CelebA's 5.
    """
    if len(own) == 49:
        return float(nme(points, own))
    return float(distance(five_points(points), own).mean() / distance(own[0], own[1]))


class LandmarkStage(Stage):
    """Faces to landmarks."""

    name = "landmarks"
    unit = "faces"
    reads = ("ingest",)
    writes = ("latents.zarr/landmarks",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return what decides the landmarks."""
        section = job.spec.landmarks
        assert section is not None
        kind_of_source = job.spec.ingest.source.kind if job.spec.ingest else ""
        section.detector.check(_photos(job), kind_of_source)
        own = dataclasses.asdict(section.detector)  # type: ignore[call-overload]
        paths = {key: each for key, each in own.items() if isinstance(each, Path)}
        return {
            "seed": job.spec.seed,
            "detector": own.pop("kind"),
            "model": None,
            **own,
            **{key: files.file_digest(path) for key, path in paths.items()},
            "min_score": section.min_score,
        }

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identity of the faces."""
        if job.spec.ingest is not None:  # points of these photos and no others
            job.check(ingest.STAGE)
        return {"photos": job.run.identity("ingest")}

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section, run = job.spec.landmarks, job.run
        assert section is not None
        photos = groups.open_group(run.latents, "photos")
        groups.create_group_of(photos, run.latents, "landmarks")
        worker = functools.partial(
            LandmarkWorker,
            store=run.latents,
            markers=run.markers(self.name),
            detector=section.detector,
            min_score=section.least_score,
            source=_photos(job),
            device=cluster.device(job.spec.device),
        )
        if section.detector.needs_gpu:
            workers, in_flight = cluster.gpu_workers(section.workers, job.spec.device), 2
        else:
            workers, in_flight = cluster.cpu_workers(section.workers), 1
        return finish_shards(
            self,
            job,
            groups.plan(photos),
            worker,
            workers=workers,
            upstream=[shards.done(run.markers("ingest"))],
            in_flight=in_flight,  # one is read or written while the other is computed
        )

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        assert job.spec.landmarks is not None
        photos = job.photos
        detector = job.spec.landmarks.detector
        work = f"{sizes.in_shards(photos.count, photos.shard_rows, ROW_BYTES)}, detector "
        work += detector.kind
        if photos.count is None or not detector.needs_gpu:
            return Plan(work, photos.count)
        return Plan(work, photos.count, photos.count * detector.flops / DETECTION_FLOPS)

    def measure(self, job: Job, device: str) -> float | None:
        """Time the detector; what a face shows makes no difference."""
        section, side = job.spec.landmarks, job.photos.resolution
        assert section is not None
        if not section.detector.finds or side is None:
            return None
        cv2.setNumThreads(1)
        detector = section.detector.make(device if section.detector.needs_gpu else "cpu")
        shown = np.zeros((64 if device == "cuda" else 4, side, side, 3), np.uint8)

        def some() -> int:
            detector.detect(shown)
            return len(shown)

        return rates.rate(some)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the landmarks."""
        yield from check_group(run, self.name, "landmarks")


def _photos(job: Job) -> Source | None:
    """Return the source of the photos, if the spec has one."""
    return job.source if job.spec.ingest else None


STAGE = LandmarkStage()
