"""Faces to 49 landmarks each: a detector's, or the source's own carried through the crop."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from distfacegan.core import faces
from distfacegan.core.detectors import make_detector, trusted
from distfacegan.core.landmarks import distance, five_points, nme
from distfacegan.errors import SourceError, SpecError, UnreadablePhotoError
from distfacegan.sources import Source
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster, ingest
from distfacegan.stages.outcome import Outcome
from distfacegan.stages.sharded import run_stage
from distfacegan.store import files, latents, shards
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status


class LandmarkWorker:
    """Finds the landmarks of shards of faces. A plain class: tests use it without Ray.

    `run` may be called from two threads at once: one computes, the other reads or writes.
    """

    def __init__(
        self,
        store: Location,
        markers: Location,
        *,
        detector: Literal["face_alignment", "onnx", "annotations"],
        model: Path | None = None,
        min_score: float | None = None,
        source: Source | None = None,
        device: str = "cpu",
    ) -> None:
        cv2.setNumThreads(1)  # workers share the cores already
        self._photos = latents.open_group(store, "photos")
        self._landmarks = latents.open_group(store, "landmarks")
        self._markers, self._source = markers, source
        self._detector = None
        self._min_score = min_score or 0.0
        if detector != "annotations":
            self._detector = make_detector(detector, model=model, device=device)
            self._min_score = self._detector.min_score if min_score is None else min_score
        self._computing = threading.Lock()

    def run(self, shard: Shard) -> ShardStats:
        """Find the landmarks of one shard and commit them to the store."""
        started = time.time()
        arrays = latents.blank(self._landmarks, len(shard))
        arrays["status"][:] = Status.NOTHING_UPSTREAM
        upstream = latents.read(self._photos, "status", shard)
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
            image = latents.read(self._photos, "image", shard)[with_face]
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
        return latents.commit(self._landmarks, self._markers, shard, arrays, started)

    def _own_points(self, shard: Shard, i: int) -> np.ndarray | None:
        """Return the source's own points of a face [P, 2], in units of the face."""
        points = None if self._source is None else self._source.annotation(shard.start + int(i))
        if points is None:
            return None
        box = latents.read(self._photos, "box", slice(shard.start + i, shard.start + i + 1))[0]
        return faces.points_in_face(points, box)


def deviation(points: np.ndarray, own: np.ndarray) -> float:
    """Return how far detected landmarks [49, 2] are from the source's own [49 or 5, 2].

    Mean distance over the distance of the eyes: outer corners for 49 points, centres for
    CelebA's 5.
    """
    if len(own) == 49:
        return float(nme(points, own))
    return float(distance(five_points(points), own).mean() / distance(own[0], own[1]))


def settings(spec: JobSpec) -> dict[str, Any]:
    """Return what decides the landmarks: compared when a run is resumed."""
    section = spec.landmarks
    assert section is not None
    if section.detector == "annotations":
        _check_annotations(spec)
    else:
        make_detector(section.detector, model=section.model)  # a missing model is said here
    return {
        "seed": spec.seed,
        "detector": section.detector,
        "model": section.model and files.file_digest(section.model),
        "min_score": section.min_score,
    }


def inputs(spec: JobSpec, run: RunDirectory) -> dict[str, str]:
    """Return the identities of what the stage reads."""
    if spec.ingest is not None:
        run.check("ingest", ingest.settings(spec))  # points of these photos and no others
    return {"photos": run.identity("ingest")}


def execute(spec: JobSpec, run: RunDirectory) -> Outcome:
    """Finish the stage."""
    section = spec.landmarks
    assert section is not None
    photos = latents.open_group(run.latents, "photos")
    plan = latents.plan(photos)
    latents.create_group_of(photos, run.latents, "landmarks")
    source = None
    if spec.ingest is not None:
        source = ingest.open_source_of(spec.ingest.source, spec.seed)
    if section.detector == "face_alignment":
        workers, in_flight = cluster.gpu_workers(section.workers, spec.device), 2
    else:
        workers, in_flight = cluster.cpu_workers(section.workers), 1
    return run_stage(
        run,
        "landmarks",
        plan,
        LandmarkWorker,
        {
            "store": run.latents,
            "markers": run.markers("landmarks"),
            "detector": section.detector,
            "model": section.model,
            "min_score": section.min_score,
            "source": source,
            "device": cluster.device(spec.device),
        },
        workers=workers,
        unit="faces",
        upstream=[shards.done(run.markers("ingest"))],
        in_flight=in_flight,  # one is read or written while the other is computed
    )


def _check_annotations(spec: JobSpec) -> None:
    """Refuse a source that does not annotate the 49 landmarks."""
    if spec.ingest is None:
        raise SpecError("landmarks.detector annotations needs the section ingest: its source")
    source = ingest.open_source_of(spec.ingest.source, spec.seed)
    num_points = next(filter(None, (_num_points(source, i) for i in range(len(source.keys)))), 0)
    if num_points != 49:
        raise SourceError(
            f"landmarks.detector annotations: the source {spec.ingest.source.kind} has "
            f"{num_points or 'no'} points of a face, 49 are needed; "
            "use the detector face_alignment or onnx"
        )


def _num_points(source: Source, row: int) -> int:
    try:
        points = source.annotation(row)
    except UnreadablePhotoError:
        return 0  # data, never a reason to stop
    return 0 if points is None else len(points)
