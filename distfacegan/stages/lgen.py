"""Latents and landmarks to L-Gen: the best of many variants, trained on all rows."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import ray
import torch

from distfacegan import weights
from distfacegan.core import lgen
from distfacegan.core.detectors import trusted
from distfacegan.core.landmarks import nme
from distfacegan.core.lgen import Evaluation, Trial
from distfacegan.core.networks import Generator
from distfacegan.core.pixels import to_faces
from distfacegan.core.seeding import uniform_latents
from distfacegan.errors import CheckpointError, RunDirectoryError
from distfacegan.stages import cluster, rates, sizes
from distfacegan.stages.lgen_search import GPU_SHARE, Rows, choose, fit, gpu_share, own_variant
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import files, groups, shards, weight_files
from distfacegan.store.location import remove_tree
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status
from distfacegan.store.verification import Finding, check_networks, check_present

log = logging.getLogger(__name__)

MIN_ROWS = 50
STEP_S = 5e-4  # of a training step on a GPU, for the plan: a guess
MEASURED_ROWS = 2000
NUM_GENERATED = 200  # faces on which L-Gen is held against the detector


def load_rows(
    run: RunDirectory, without_shards: Collection[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return z [n, Z] and landmarks [n, 49, 2] of the rows that have both."""
    z_group = groups.open_group(run.latents, "latents")
    points_group = groups.open_group(run.latents, "landmarks")
    good = (groups.read(z_group, "status") == Status.OK) & (
        groups.read(points_group, "status") == Status.OK
    )
    for shard in groups.plan(z_group):
        if shard.index in without_shards:
            good[shard.rows] = False
    if good.sum() < MIN_ROWS:
        raise RunDirectoryError(
            f"{run.latents}: {good.sum()} rows have both a latent and landmarks that are trusted; "
            f"L-Gen needs {MIN_ROWS} at least (`distfacegan status` counts every status)"
        )
    return groups.read(z_group, "z")[good], groups.read(points_group, "points")[good]


class LGenStage(Stage):
    """Latents and landmarks to a landmark generator."""

    name = "lgen"
    unit = "trials"
    reads = ("landmarks", "invert")
    writes = ("lgen",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return what decides L-Gen."""
        assert job.spec.lgen is not None
        return {"seed": job.spec.seed, **job.spec.lgen.model_dump()}

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identities of landmarks and latents, and the shards that lacked either."""
        run = job.run
        record = run.record(self.name)
        without = _shards_missing(run) if record is None else record.inputs["without_shards"]
        return {
            "landmarks": run.identity("landmarks"),
            "latents": run.identity("invert"),
            "without_shards": without,
        }

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        spec, run, section = job.spec, job.run, job.spec.lgen
        assert section is not None
        started = time.time()
        without = self.inputs(job)["without_shards"]
        if without:
            log.warning("lgen: learns without the shards %s, which are not done", without)
        if spec.device == "cuda":
            cluster.require(1, self.name, spec.device)
        device = cluster.device(spec.device)
        generator = _inverted_generator(job)
        rows = ray.put(Rows(*load_rows(run, without), section, spec.seed))
        trials = choose(run, section, spec.seed, rows, device)
        best = trials[0].variant
        task: Any = ray.remote(fit)  # type: ignore[arg-type]
        task = task.options(num_cpus=1, num_gpus=gpu_share(device))
        chosen, final = ray.get(
            [
                task.remote(best, section.epochs, spec.seed, rows, on=on, device=device)
                for on in ("train", "all")
            ]
        )
        data = ray.get(rows)
        evaluation = _evaluate(data, chosen, trials)
        if generator is not None:
            evaluation = _against_detector(evaluation, job, data, final, generator)
        meta = {
            "stage": "lgen",
            "seed": spec.seed,
            "variant": dataclasses.asdict(best),
            "evaluation": dataclasses.asdict(evaluation),
            "generator": _inverted_digest(run),
        }
        for name, network in (("held_out", chosen), ("final", final)):
            weight_files.save(run.lgen / name, {weights.LGEN: network.state_dict()}, meta)
        files.write_json(run.lgen / "trials.json", list(map(dataclasses.asdict, trials)))
        files.write_json(run.lgen / "evaluation.json", dataclasses.asdict(evaluation))
        remove_tree(run.lgen / "tune")
        run.end(self.name, finished=True, started=started, rows=len(data.z))
        said = f"NME {evaluation.nme:.4f} on test rows, mean shape {evaluation.nme_mean_shape:.4f}"
        return Outcome(said)

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        section, rows = job.spec.lgen, job.photos.count
        assert section is not None
        work = f"{section.trials} trials of {section.epochs} epochs, then two trainings of the best"
        if rows is None:
            return Plan(work, section.trials)
        steps = -(-rows // section.batch) * section.epochs * (section.trials + 2)
        return Plan(work, section.trials, steps * STEP_S * GPU_SHARE)

    def measure(self, job: Job, device: str) -> float | None:
        """Time epochs of the section's own variant, on latents and points of zeros."""
        section, rows = job.spec.lgen, job.photos.count
        assert section is not None
        if rows is None:
            return None
        shown = min(rows, MEASURED_ROWS)
        z = torch.zeros(shown, sizes.latent_dim(job))
        points = torch.zeros(shown, 49, 2)

        def one_epoch() -> int:
            lgen.train(z, points, own_variant(section), epochs=1, seed=0, device=device)
            return shown

        return rates.rate(one_epoch) / (rows * section.epochs)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the networks, and that what goes with them is there."""
        folders = [run.lgen / "final", run.lgen / "held_out"]
        yield from check_networks(folders, expected=record.finished)
        if record.finished:
            yield from check_present([run.lgen / "evaluation.json", run.lgen / "trials.json"])


def _shards_missing(run: RunDirectory) -> list[int]:
    plan = groups.plan(groups.open_group(run.latents, "latents"))
    done = shards.done(run.markers("landmarks")) & shards.done(run.markers("invert"))
    return [shard.index for shard in plan if shard.index not in done]


def _evaluate(rows: Rows, chosen: lgen.LandmarkGenerator, trials: list[Trial]) -> Evaluation:
    """Return errors on the test rows, which neither training nor the choice has seen."""
    _, test_points = rows.tensors(rows.test)
    mean_shape = lgen.mean_shape(rows.tensors(rows.train)[1]).expand_as(test_points)
    table_one = [trial.nme for trial in trials if trial.table_one]
    return Evaluation(
        nme=rows.error(chosen, rows.test),
        nme_mean_shape=lgen.score(mean_shape, test_points)["nme"],
        nme_validation=trials[0].nme,
        nme_validation_table_one=table_one[0] if table_one else None,
        rows_train=len(rows.train),
        rows_validation=len(rows.validation),
        rows_test=len(rows.test),
    )


def _inverted_digest(run: RunDirectory) -> str:
    """Return the digest of the generator whose latents L-Gen learns."""
    record = run.record("invert")
    assert record is not None
    return record.inputs["generator"]


def _inverted_generator(job: Job) -> Generator | None:
    """Return the generator whose latents L-Gen learns, to hold L-Gen against the detector.

    None where the landmarks are the source's annotations: nobody annotates a generated face.
    Raises CheckpointError if another generator stands in its place.
    """
    section = job.spec.landmarks
    if section is None or not section.detector.finds:
        return None
    given = job.spec.invert.generator if job.spec.invert else None
    found = job.generator(weights.generator_path(job.run, given))
    if found.digest != _inverted_digest(job.run):
        raise CheckpointError(
            f"{found.path} is not the generator that was inverted:\n"
            f"  generator: {_inverted_digest(job.run)} was inverted, {found.digest} is there\n"
            "Name the one that was inverted (`invert: {generator: FILE}`), or invert this one anew."
        )
    return found.network


def _against_detector(
    found: Evaluation, job: Job, rows: Rows, final: lgen.LandmarkGenerator, generator: Generator
) -> Evaluation:
    """Add the errors of L-Gen and of the mean shape against the detector, on generated faces."""
    spec, section = job.spec, job.spec.landmarks
    assert section is not None
    drawn = uniform_latents(
        spec.seed, range(NUM_GENERATED), generator.latent_dim, stream="evaluation"
    )
    z = torch.from_numpy(drawn)
    with torch.inference_mode():
        faces, points = to_faces(generator(z)), final(z).numpy()
    detected, score = section.detector.make().detect(faces)
    good = trusted(detected, score, section.least_score)
    found = dataclasses.replace(found, generated=NUM_GENERATED, generated_trusted=int(good.sum()))
    if not good.any():
        return found
    mean_shape = rows.points.mean(axis=0, keepdims=True)
    return dataclasses.replace(
        found,
        nme_generated=float(nme(points[good], detected[good]).mean()),
        nme_generated_mean_shape=float(nme(mean_shape, detected[good]).mean()),
    )


STAGE = LGenStage()
