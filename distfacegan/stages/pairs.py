"""Latents to labelled faces: the faces G(z) are generated, and the detector finds their landmarks.

There are two reasons to let L-Gen learn from these faces and not from photos. The landmarks of a
photo are not those of its reconstruction. The latents of photos lie elsewhere in the box of all z
than the latents of new faces.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from distfacegan import weights
from distfacegan.core.labelling import Labelling
from distfacegan.core.landmarks import nme
from distfacegan.core.latent_model import latent_model
from distfacegan.core.pixels import to_faces
from distfacegan.errors import RunDirectoryError
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster, landmarks, pair_rows, rates, sizes
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import groups, shards
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_group

SHARD_ROWS = 100
NUM_SHIFTED = 200  # fresh faces that are labelled a second time, shifted by a pixel
ROW_BYTES = 49 * 12 + 9  # bytes of the labels of a face, without its z


class PairWorker:
    """Holds G and a detector on one device. A plain class: tests use it without Ray."""

    def __init__(
        self,
        store: Location,
        markers: Location,
        generator: Location,
        *,
        seed: int,
        layout: pair_rows.Layout,
        labelling: Labelling,
        judge: Labelling | None = None,
        device: str = "cpu",
    ) -> None:
        torch.set_num_threads(1)  # the number of threads changes how sums are rounded
        self._pairs, self._markers = groups.open_group(store, "pairs"), markers
        self._latents = groups.open_group(store, "latents") if layout.num_photos else None
        self._model = latent_model(weights.load_generator(generator).to(device))
        self._seed, self._layout, self._device = seed, layout, device
        self._labeller = labelling.make(device)
        self._judge = judge.make(device) if judge else None

    def run(self, shard: Shard) -> ShardStats:
        """Generate and label the faces of one shard, and commit them to the store."""
        started = time.time()
        arrays = groups.blank(self._pairs, len(shard))
        arrays["status"][:] = Status.NOTHING_UPSTREAM
        z = self._latents_of(shard.rows)
        there = np.flatnonzero(np.isfinite(z).all(axis=1))
        if len(there):
            self._label(arrays, z, there, shard.rows[there])
        return groups.commit(self._pairs, self._markers, shard, arrays, started)

    def _label(
        self, arrays: dict[str, np.ndarray], z: np.ndarray, there: np.ndarray, rows: np.ndarray
    ) -> None:
        """Label the faces of the rows that have a latent.

        `there` are the numbers of these rows in the shard, `rows` their numbers in the group.
        """
        faces = self._faces(z[there])
        found = self._labeller(faces)
        arrays["z"][there] = z[there]
        # A point beyond the crop is moved to its edge: L-Gen's sigmoid cannot give other points.
        arrays["points"][there], arrays["score"][there] = found.points.clip(0, 1), found.score
        arrays["disagreement"][there] = found.disagreement
        arrays["status"][there] = landmarks.statuses(found.doubt)
        fresh = (rows >= self._layout.fresh.start) & (rows < self._layout.fresh.stop)
        shifted = fresh & found.trusted & (rows < self._layout.fresh.start + NUM_SHIFTED)
        if shifted.any():
            arrays["shift"][there[shifted]] = self._moved(faces[shifted], found.points[shifted])
        if fresh.any() and self._judge is not None:
            arrays["judged"][there[fresh]] = self._judge(faces[fresh]).points

    def _latents_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the z of some rows, f32 [n, Z]; NaN for a photo without a latent."""
        layout, dim = self._layout, self._model.latent_dim
        z = np.empty((len(rows), dim), np.float32)
        for part, stream in ((layout.prior, "pairs"), (layout.fresh, "audit")):
            own = (rows >= part.start) & (rows < part.stop)
            z[own] = self._model.prior.draw(self._seed, rows[own] - part.start, dim, stream=stream)
        of_photos = np.flatnonzero(rows >= layout.photos.start)
        if len(of_photos):
            z[of_photos] = self._latents_of_photos(rows[of_photos])
        return z

    def _latents_of_photos(self, rows: np.ndarray) -> np.ndarray:
        assert self._latents is not None
        photos = pair_rows.photo_rows(self._layout, rows, groups.num_rows(self._latents))
        if photos[-1] - photos[0] == len(photos) - 1:  # next to each other
            return groups.read(self._latents, "z", slice(photos[0], photos[-1] + 1))
        parts = [groups.read(self._latents, "z", slice(row, row + 1)) for row in photos]
        return np.concatenate(parts)

    def _faces(self, z: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return to_faces(self._model(torch.from_numpy(z).to(self._device)))

    def _moved(self, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Shift faces a pixel to the right, and return the movement of their landmarks, [B].

        The shift itself is subtracted first. The unit is the distance of the eyes.
        """
        moved = np.concatenate([faces[:, :, :1], faces[:, :, :-1]], axis=2)
        back = self._labeller(moved).points - np.array([1 / faces.shape[1], 0], np.float32)
        return nme(back, points)


class PairsStage(Stage):
    """Latents to generated faces with landmarks, for L-Gen to learn from and to be judged by."""

    name = "pairs"
    section = "lgen"
    unit = "faces"
    reads = ("began", "invert")
    writes = ("latents.zarr/pairs",)

    def wanted(self, spec: JobSpec) -> bool:
        """Tell whether the job labels generated faces. A job without a detector cannot."""
        if spec.lgen is None or not spec.has_detector:
            return False
        return spec.pairs != "photos" or spec.lgen.num_fresh > 0

    def settings(self, job: Job) -> dict[str, Any]:
        """Return the settings that decide the pairs."""
        section, detector = job.spec.lgen, job.spec.landmarks
        assert section is not None
        assert detector is not None
        judge = section.judge
        return {
            "seed": job.spec.seed,
            "pairs": job.spec.pairs,
            "num_pairs": 0 if job.spec.pairs == "photos" else section.num_pairs,
            "num_fresh": section.num_fresh,
            "judge": None if judge is None else landmarks.labelling_settings(judge),
            "labelling": landmarks.labelling_settings(detector),
        }

    def unrecorded(self, spec: JobSpec) -> dict[str, Any]:
        """Return, for settings that old records lack, the values that old versions worked with."""
        assert spec.lgen is not None
        assert spec.landmarks is not None
        detectors = {"labelling": spec.landmarks, "judge": spec.lgen.judge}
        of_detectors = {name: each.unrecorded() for name, each in detectors.items() if each}
        return super().unrecorded(spec) | of_detectors

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identities of the generator and of the photos' latents, if these are used."""
        digest, run = labelled_generator(job).digest, job.run
        begun, inverted = run.record(self.name), run.record("invert")
        if begun is not None:
            uses_photos = begun.inputs["latents"] is not None
        else:
            mine = inverted is not None and inverted.inputs["generator"] == digest
            uses_photos = job.spec.pairs != "photos" and mine
        if job.spec.pairs == "both" and not uses_photos:
            raise RunDirectoryError(
                f"{run.root}: lgen.pairs is both, but no photos are inverted with the generator "
                f"{digest}: run the stage invert first, or set lgen.pairs to prior"
            )
        return {"generator": digest, "latents": run.identity("invert") if uses_photos else None}

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section, run, detector = job.spec.lgen, job.run, job.spec.landmarks
        assert section is not None
        assert detector is not None
        record, generator = run.record(self.name), labelled_generator(job)
        assert record is not None
        layout = pair_rows.layout_of(run, record)
        groups.create_group(
            run.latents,
            "pairs",
            num_rows=layout.num_rows,
            shard_rows=SHARD_ROWS,
            Z=generator.network.latent_dim,
        )
        judge = section.judge
        worker = functools.partial(
            PairWorker,
            store=run.latents,
            markers=run.markers(self.name),
            generator=generator.path,
            seed=job.spec.seed,
            layout=layout,
            labelling=landmarks.labelling(detector),
            judge=None if judge is None else landmarks.labelling(judge),
            device=cluster.device(job.spec.device),
        )
        workers = cluster.gpu_workers(section.workers, job.spec.device)
        outcome = finish_shards(
            self, job, shards.split(layout.num_rows, SHARD_ROWS), worker, workers=workers
        )
        if not outcome.left and layout.num_pairs:
            pair_rows.load_pairs(run)  # raises if too few pairs are trusted
        return outcome

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        section, detector = job.spec.lgen, job.spec.landmarks
        assert section is not None
        assert detector is not None
        count = section.num_fresh + (0 if job.spec.pairs == "photos" else section.num_pairs)
        if job.spec.pairs != "photos" and job.spec.invert is not None:
            count += pair_rows.num_photos_labelled(job.spec.pairs, job.photos.count or 0)
        row_bytes = ROW_BYTES + 4 * sizes.latent_dim(job)
        work = f"{sizes.in_shards(count, SHARD_ROWS, row_bytes)}, detector {detector.detector.kind}"
        if not detector.detector.needs_gpu:
            return Plan(work, count)
        views = 2 if detector.flip else 1
        seconds = count * views * detector.detector.flops / landmarks.DETECTION_FLOPS
        return Plan(work, count, seconds)

    def measure(self, job: Job, device: str) -> float | None:
        """Time the detector, which takes longer than G."""
        assert job.spec.landmarks is not None
        network = sizes.generator(job, _given_generator(job.spec))
        if network is None:
            return None
        on = device if job.spec.landmarks.detector.needs_gpu else "cpu"
        labeller = landmarks.labelling(job.spec.landmarks).make(on)
        side = network.resolution
        shown = np.zeros((64 if on == "cuda" else 4, side, side, 3), np.uint8)

        def some() -> int:
            labeller(shown)
            return len(shown)

        return rates.rate(some)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the pairs."""
        yield from check_group(run, self.name, "pairs")


def labelled_generator(job: Job) -> weights.LoadedGenerator:
    """Return the generator whose faces are labelled; raises DistfaceganError without one."""
    return job.generator(weights.generator_path(job.run, _given_generator(job.spec)))


def _given_generator(spec: JobSpec) -> Location | None:
    """Return the path of the generator that the spec names; None if the spec names no generator."""
    if spec.invert is not None:
        return spec.invert.generator
    return spec.synthesize.generator if spec.synthesize is not None else None


STAGE = PairsStage()
