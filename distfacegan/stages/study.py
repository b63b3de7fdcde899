"""What the generated faces are worth to people who train landmark networks."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from distfacegan.core import lgen, usefulness
from distfacegan.core.detectors.regressor import RegressorDetector
from distfacegan.core.landmarks import nme
from distfacegan.core.seeding import permutation
from distfacegan.core.usefulness import LabelledFaces, Way
from distfacegan.detector_training import labelled_faces
from distfacegan.errors import RunDirectoryError
from distfacegan.stages import cluster
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import files, shards
from distfacegan.store.exports import Sample, recorded_format
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_sealed, check_shard_files

RESULTS = "results.json"


@dataclasses.dataclass(frozen=True)
class Training:
    """One network of the study."""

    way: Way
    amount: int  # real faces that it learns from
    seed: int


def trainings(amounts: list[int], seeds: int) -> list[Training]:
    """Return the networks of a study. The number of a network is its shard."""
    found = [Training("synthetic", 0, seed) for seed in range(seeds)]
    ways: tuple[Way, ...] = ("real", "synthetic first", "both")
    found += [Training(w, n, seed) for n in amounts for w in ways for seed in range(seeds)]
    return found


class StudyWorker:
    """Trains networks. A plain class: tests use it without Ray."""

    def __init__(
        self,
        real: Location,
        run: Location,
        *,
        settings: dict[str, Any],
        device: str = "cpu",
    ) -> None:
        """Load the real faces of a run, and the generated faces of the study's own run."""
        own = RunDirectory(run)
        self._folder, self._markers = own.study, own.markers(StudyStage.name)
        torch.set_num_threads(1)  # the number of threads changes how sums are rounded
        self._device, self._settings = device, settings
        faces = LabelledFaces(*labelled_faces(RunDirectory(real), seed=settings["seed"]))
        rows, test = lgen.split(len(faces), settings["test_share"], settings["seed"])
        self._real, self._test = faces[rows], faces[test]
        made = load_generated(own, settings["faces"])
        self._synthetic = usefulness.crop_alike(made, like=self._real)
        self._trainings = trainings(settings["amounts"], settings["seeds"])

    def run(self, shard: Shard) -> ShardStats:
        """Train and test the network of a shard, and write its NME."""
        started = time.time()
        training = self._trainings[shard.start]
        seed = self._settings["seed"] + training.seed
        chosen = permutation(seed, 0, len(self._real), of="study")[: training.amount]
        network = usefulness.train(
            training.way,
            self._real[chosen],
            self._synthetic,
            self._settings["steps"],
            seed=seed,
            device=self._device,
        )
        found = RegressorDetector(network, device=self._device).detect_twice(self._test.faces)
        error = float(nme(found.points, self._test.points).mean())
        path = _result_path(self._folder, shard)
        written = json.dumps({**dataclasses.asdict(training), "nme": error}).encode()
        files.write_bytes(path, written)
        return shards.mark_done(
            self._markers,
            shard,
            statuses={Status.OK.label: 1},
            digests={path.name: files.digest(written)},
            started=started,
        )


def load_generated(run: RunDirectory, count: int) -> LabelledFaces:
    """Return the first generated faces of a run, at most `count`, with their landmarks."""
    record = run.record("synthesize")
    if record is None or not record.finished:
        raise RunDirectoryError(f"{run.root}: the stage synthesize is not finished")
    export, samples = recorded_format(record.settings), list[Sample]()
    for shard in shards.split(record.settings["count"], record.settings["shard_rows"]):
        if len(samples) < count:
            samples += export.read_first(run.synthetic, shard.index, count - len(samples))
    return LabelledFaces(
        np.stack([sample.face for sample in samples]),
        np.stack([sample.landmarks for sample in samples]).astype(np.float32),
    )


class StudyStage(Stage):
    """Real and generated faces to the errors of networks that have learnt from them."""

    name = "study"
    unit = "networks"
    reads = ("landmarks", "synthesize")
    writes = ("study",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return the settings that decide the study."""
        section = job.spec.study
        assert section is not None
        return {"seed": job.spec.seed, **section.model_dump(exclude={"workers", "real"})}

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identities of the faces."""
        return {
            "real": _real_run(job).identity("landmarks"),
            "synthetic": job.run.identity("synthesize"),
        }

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section, real = job.spec.study, _real_run(job)
        assert section is not None
        faces, _ = labelled_faces(real, seed=job.spec.seed)
        rows, test = lgen.split(len(faces), section.test_share, job.spec.seed)
        if max(section.amounts) > len(rows):
            raise RunDirectoryError(
                f"study.amounts asks for {max(section.amounts)} real faces, but {real.root} has "
                f"{len(faces)} with trusted landmarks, of which {len(test)} are for testing: "
                f"name at most {len(rows)}, or lower study.test_share"
            )
        device = cluster.device(job.spec.device)
        worker = functools.partial(
            StudyWorker,
            real=real.root,
            run=job.run.root,
            settings=job.settings(self),
            device=device,
        )
        plan = shards.split(len(trainings(section.amounts, section.seeds)), 1)
        workers = cluster.gpu_workers(section.workers, job.spec.device)
        outcome = finish_shards(self, job, plan, worker, workers=workers)
        if not outcome.left:
            found = {
                "labels": _labels(real),
                "faces_test": len(test),
                "faces_generated": section.faces,
                "networks": _results(job.run, plan),
            }
            files.write_json(job.run.study / RESULTS, files.seal(found))
        return outcome

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        section = job.spec.study
        assert section is not None
        count = len(trainings(section.amounts, section.seeds))
        return Plan(f"{count} networks of {section.steps} steps", count)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the files of the networks' errors, and that the results exist."""
        count = len(trainings(record.settings["amounts"], record.settings["seeds"]))
        yield from check_shard_files(run, self.name, shards.split(count, 1), run.study)
        yield from check_sealed(run.study / RESULTS, expected=record.finished)


def _results(run: RunDirectory, plan: Sequence[Shard]) -> list[dict[str, Any]]:
    """Return the errors of the networks by way and number of real faces."""
    found: dict[tuple[str, int], list[float]] = {}
    for shard in plan:
        each = files.read_json(_result_path(run.study, shard))
        found.setdefault((each["way"], each["amount"]), []).append(each["nme"])
    return [
        {
            "way": way,
            "real_faces": amount,
            "nme": errors,
            "nme_mean": float(np.mean(errors)),
            "nme_std": float(np.std(errors)),
        }
        for (way, amount), errors in found.items()
    ]


def _result_path(folder: Location, shard: Shard) -> Location:
    return folder / f"{shard.index:05d}.json"


def _labels(run: RunDirectory) -> str:
    """Return who has set the landmarks of a run: its detector, or `annotations`."""
    record = run.record("landmarks")
    assert record is not None
    return record.settings["detector"]


def _real_run(job: Job) -> RunDirectory:
    assert job.spec.study is not None
    return job.run if job.spec.study.real is None else RunDirectory(job.spec.study.real)


STAGE = StudyStage()
