"""Faces to 49 landmarks each: those of a detector, or the source's own, moved with the crop."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zarr

from distfacegan import calibrations
from distfacegan.core import faces
from distfacegan.core.calibration import calibrate, errors
from distfacegan.core.detectors import DetectorSettings
from distfacegan.core.labelling import Doubt, Labelling
from distfacegan.errors import RunDirectoryError
from distfacegan.sections.landmarks import Landmarks
from distfacegan.sources import Source
from distfacegan.stages import cluster, ingest, rates, sizes
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import files, groups, shards
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_group, check_sealed

log = logging.getLogger(__name__)

# Operations a second of one H200, a guess for the plan: fp32 in the detector's small layers.
DETECTION_FLOPS = 3e13
ROW_BYTES = 49 * 12 + 9  # landmarks, scores, deviation, disagreement and status of a face
# The detector's offset is measured on annotated faces: on this many at most, and at least.
CALIBRATED_ON = 2000
MIN_CALIBRATED_ON = 20
STATUS_OF = {
    Doubt.NONE: Status.OK,
    Doubt.POINTS_OUTSIDE: Status.POINTS_OUTSIDE,
    Doubt.IMPOSSIBLE_SHAPE: Status.IMPOSSIBLE_SHAPE,
    Doubt.LOW_SCORE: Status.LOW_SCORE,
    Doubt.VIEWS_DISAGREE: Status.VIEWS_DISAGREE,
}


def statuses(doubt: np.ndarray) -> np.ndarray:
    """Return the status of each row, u8 [B], from the Doubt of its landmarks."""
    return np.array([STATUS_OF[each] for each in Doubt], np.uint8)[doubt]


class LandmarkWorker:
    """Finds the landmarks of shards of faces. A plain class: tests use it without Ray.

    `run` may be called from two threads at once: one computes while the other reads or writes.
    """

    def __init__(
        self,
        store: Location,
        markers: Location,
        *,
        labelling: Labelling,
        source: Source | None = None,
        device: str = "cpu",
    ) -> None:
        cv2.setNumThreads(1)  # workers share the cores already
        self._photos = groups.open_group(store, "photos")
        self._landmarks = groups.open_group(store, "landmarks")
        self._markers, self._source = markers, source
        self._labelling = labelling
        self._labeller = labelling.make(device) if labelling.detector.finds else None
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
        if self._labeller is None:
            with_face = np.array(list(own), int)
            points = np.array(list(own.values()), np.float32).reshape(-1, 49, 2)
            score = np.ones(points.shape[:2], np.float32)
            disagreement = np.full(len(points), np.nan, np.float32)
            doubt = self._labelling.doubts(points, score, disagreement)
        else:
            image = groups.read(self._photos, "image", shard)[with_face]
            with self._computing:
                started = time.time()
                found = self._labeller(image)
            points, score, doubt = found.points, found.score, found.doubt
            disagreement = found.disagreement
            for i, detected in zip(with_face.tolist(), points, strict=True):
                if i in own:
                    arrays["deviation"][i] = errors(detected[None], own[i][None])[0]
        # A point beyond the crop is moved to its edge: L-Gen's sigmoid cannot give other points.
        arrays["points"][with_face], arrays["score"][with_face] = points.clip(0, 1), score
        arrays["disagreement"][with_face] = disagreement
        arrays["status"][with_face] = statuses(doubt)
        return groups.commit(self._landmarks, self._markers, shard, arrays, started)

    def _own_points(self, shard: Shard, i: int) -> np.ndarray | None:
        """Return the source's own points of a face [P, 2], in units of the face."""
        return _annotation(self._source, self._photos, shard.start + int(i))


def _annotation(source: Source | None, photos: zarr.Group, row: int) -> np.ndarray | None:
    """Return the source's own points of a row [P, 2], in units of the face; None without any."""
    points = None if source is None else source.annotation(row)
    if points is None:
        return None
    return faces.points_in_face(points, groups.read(photos, "box", slice(row, row + 1))[0])


class LandmarkStage(Stage):
    """Faces to landmarks."""

    name = "landmarks"
    unit = "faces"
    reads = ("ingest",)
    writes = ("latents.zarr/landmarks", "landmarks")

    def settings(self, job: Job) -> dict[str, Any]:
        """Return the settings that decide the landmarks."""
        section = job.spec.landmarks
        assert section is not None
        kind_of_source = job.spec.ingest.source.kind if job.spec.ingest else ""
        section.detector.check(_photos(job), kind_of_source)
        return {"seed": job.spec.seed, **labelling_settings(section)}

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identity of the faces."""
        if job.spec.ingest is not None:  # the points must be those of the stored photos
            job.check(ingest.STAGE)
        return {"photos": job.run.identity("ingest")}

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section, run = job.spec.landmarks, job.run
        assert section is not None
        photos = groups.open_group(run.latents, "photos")
        landmarks = groups.create_group_of(photos, run.latents, "landmarks")
        source = _photos(job)
        worker = functools.partial(
            LandmarkWorker,
            store=run.latents,
            markers=run.markers(self.name),
            labelling=labelling(section),
            source=source,
            device=cluster.device(job.spec.device) if section.detector.needs_gpu else "cpu",
        )
        if section.detector.needs_gpu:
            workers, in_flight = cluster.gpu_workers(section.workers, job.spec.device), 2
        else:
            workers, in_flight = cluster.cpu_workers(section.workers), 1
        outcome = finish_shards(
            self,
            job,
            groups.plan(photos),
            worker,
            workers=workers,
            upstream=[shards.done(run.markers("ingest"))],
            in_flight=in_flight,  # of two shards, one is read or written, the other computed
        )
        if section.detector.finds and source is not None:
            _measure_offset(section, run, source, photos, landmarks)
        return outcome

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
        """Time the detector on black pictures, which take as long as faces."""
        section, side = job.spec.landmarks, job.photos.resolution
        assert section is not None
        if not section.detector.finds or side is None:
            return None
        cv2.setNumThreads(1)
        labeller = labelling(section).make(device if section.detector.needs_gpu else "cpu")
        shown = np.zeros((64 if device == "cuda" else 4, side, side, 3), np.uint8)

        def some() -> int:
            labeller(shown)
            return len(shown)

        return rates.rate(some)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the landmarks and the calibration."""
        yield from check_group(run, self.name, "landmarks")
        yield from check_sealed(run.landmarks / calibrations.NAME)


def _photos(job: Job) -> Source | None:
    """Return the source of the photos, if the spec has one."""
    return job.source if job.spec.ingest else None


def labelling(section: Landmarks) -> Labelling:
    """Return the labelling of a section, with the offset of its calibration.

    Raises RunDirectoryError if the calibration is of another detector.
    """
    if section.calibration is None:
        return section.labelling()
    found = calibrations.load(section.calibration)
    if found.detector != _identity(section.detector):
        raise RunDirectoryError(
            f"{calibrations.path_in(section.calibration)} is of another detector:\n"
            f"  detector: {found.detector} was calibrated, this is {_identity(section.detector)}\n"
            "Name a calibration of this detector, or leave `landmarks.calibration` out."
        )
    return section.labelling(np.array(found.offset, np.float32))


def labelling_settings(section: Landmarks) -> dict[str, Any]:
    """Return the settings that decide the landmarks of a face, in the form that records hold."""
    own = dataclasses.asdict(section.detector)  # type: ignore[call-overload]
    paths = {key: each for key, each in own.items() if isinstance(each, Path)}
    offset = labelling(section).offset
    return {
        "detector": own.pop("kind"),
        "model": None,
        **own,
        **{key: files.file_digest(path) for key, path in paths.items()},
        "flip": section.flip,
        "calibration": None if offset is None else files.digest(offset.tobytes()),
        "min_score": section.min_score,
        "max_disagreement": section.max_disagreement,
    }


def _identity(detector: DetectorSettings) -> str:
    """Return the kind of a detector and the digests of its files."""
    own = dataclasses.asdict(detector)  # type: ignore[call-overload]
    digests = [files.file_digest(each) for each in own.values() if isinstance(each, Path)]
    return " ".join([detector.kind, *digests])


def _measure_offset(
    section: Landmarks, run: RunDirectory, source: Source, photos: zarr.Group, landmarks: zarr.Group
) -> None:
    """Compare the detector with the photos' annotations, if there are any, and keep its offset."""
    trusted = groups.read(landmarks, "status") == Status.OK
    good = np.flatnonzero(trusted & np.isfinite(groups.read(landmarks, "deviation")))
    good = good[:: -(-len(good) // CALIBRATED_ON) or 1]
    own = [_annotation(source, photos, int(row)) for row in good]
    if len(good) < MIN_CALIBRATED_ON or len({len(each) for each in own if each is not None}) != 1:
        return
    points = groups.read(landmarks, "points")[good]
    found = calibrate(points, np.stack(own), _identity(section.detector))  # type: ignore[arg-type]
    used = labelling(section).offset
    if used is not None:  # the stored points are already corrected by `used`
        found = dataclasses.replace(found, offset=(np.array(found.offset) + used).tolist())
    calibrations.save(run.landmarks / calibrations.NAME, found)
    log.info(
        "landmarks: %s differs from the annotations of %d faces by %.4f of the eye distance, by "
        "%.4f once its mean offset is taken off (landmarks.calibration: %s)",
        section.detector.kind,
        found.num_faces,
        found.nme,
        found.nme_calibrated,
        run.root,
    )


STAGE = LandmarkStage()
