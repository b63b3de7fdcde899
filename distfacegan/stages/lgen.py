"""Latents and landmarks to L-Gen: the best of many variants is trained on all rows."""

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
from distfacegan.core import lgen, lgen_training
from distfacegan.core.landmarks import nme
from distfacegan.core.lgen import Evaluation, LandmarkGenerator, Trial
from distfacegan.errors import RunDirectoryError
from distfacegan.stages import cluster, lgen_audit, pair_rows, pairs, rates, sizes
from distfacegan.stages.lgen_search import GPU_SHARE, Rows, choose, fit
from distfacegan.stages.lgen_variants import own_variant
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import files, groups, shards, weight_files
from distfacegan.store.location import remove_tree
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status
from distfacegan.store.verification import Finding, check_networks, check_present, check_sealed

log = logging.getLogger(__name__)

MIN_ROWS = 50
STEP_S = 5e-4  # seconds of a training step on a GPU, a guess for the plan
MEASURED_ROWS = 2000


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
            f"L-Gen needs {MIN_ROWS} at least (`distfacegan status` counts the rows of each status)"
        )
    return groups.read(z_group, "z")[good], groups.read(points_group, "points")[good]


class LGenStage(Stage):
    """Latents and landmarks to a landmark generator."""

    name = "lgen"
    unit = "trials"
    reads = ("landmarks", "invert", "pairs")
    writes = ("lgen",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return the settings that decide L-Gen."""
        assert job.spec.lgen is not None
        found = job.spec.lgen.model_dump(exclude={"workers", "num_pairs", "num_fresh", "judge"})
        return {"seed": job.spec.seed, **found, "pairs": job.spec.pairs}

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identities of the data that L-Gen learns from and is judged by."""
        run = job.run
        found: dict[str, Any] = {}
        if pairs.STAGE.wanted(job.spec):
            found["pairs"] = run.identity(pairs.STAGE.name)
        if job.spec.pairs == "photos":
            record = run.record(self.name)
            found |= {
                "landmarks": run.identity("landmarks"),
                "latents": run.identity("invert"),
                "without_shards": (
                    _shards_missing(run) if record is None else record.inputs["without_shards"]
                ),
            }
        return found

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        spec, run, section = job.spec, job.run, job.spec.lgen
        assert section is not None
        started = time.time()
        if spec.device == "cuda":
            cluster.require(1, self.name, spec.device)
        device = cluster.device(spec.device)
        rows = ray.put(Rows(*self._load(job), section, spec.seed))
        trials = choose(run, section, spec.seed, rows, device)
        fresh = lgen_audit.fresh_faces(run) if pairs.STAGE.wanted(spec) else None
        count = section.ensemble if fresh is not None and len(fresh.z) else 1
        variants = [trials[i % len(trials)].variant for i in range(count)]
        chosen, ensemble = fit(variants, section, spec.seed, rows, device)
        final, data = ensemble[0], ray.get(rows)
        evaluation = _evaluate(data, chosen, trials)
        reliability = {}
        if fresh is not None:
            reliability = lgen_audit.reliability(fresh, ensemble)
            evaluation = dataclasses.replace(
                evaluation,
                **self._on_photos(job, final),
                fresh=lgen_audit.audit(fresh, run, data, final),
            )
        meta: dict[str, Any] = {
            "stage": "lgen",
            "seed": spec.seed,
            "variant": dataclasses.asdict(variants[0]),
            "evaluation": dataclasses.asdict(evaluation),
            "generator": _generator_digest(job),
        }
        state = {weights.LGEN: chosen.state_dict()}
        weight_files.save(run.lgen / "held_out", state, meta)
        state = {weights.LGEN: final.state_dict()}
        state |= {f"member{i}": each.state_dict() for i, each in enumerate(ensemble) if i}
        meta["members"] = list(map(dataclasses.asdict, variants[1:]))
        meta["reliability"] = {name: dataclasses.asdict(each) for name, each in reliability.items()}
        weight_files.save(run.lgen / "final", state, meta)
        files.write_json(run.lgen / "trials.json", list(map(dataclasses.asdict, trials)))
        digests = {"trials.json": files.file_digest(run.lgen / "trials.json")}
        sealed = files.seal({**dataclasses.asdict(evaluation), "digests": digests})
        files.write_json(run.lgen / "evaluation.json", sealed)
        remove_tree(run.lgen / "tune")
        run.end(self.name, finished=True, started=started, rows=len(data.z))
        said = f"NME {evaluation.nme:.4f} on test rows, mean shape {evaluation.nme_mean_shape:.4f}"
        found = evaluation.fresh
        complaints = found.complaints if found else []
        run.note(self.name, warnings=[f"{each}, on generated faces" for each in complaints])
        if found is not None and found.nme is not None:
            said += (
                f"; on {found.trusted} generated faces NME {found.nme:.4f}, linear regression "
                f"{found.nme_linear:.4f}, mean shape {found.nme_mean_shape:.4f}"
            )
        for complaint in complaints:
            log.warning("lgen: %s, on generated faces", complaint)
        return Outcome(said)

    def _load(self, job: Job) -> tuple[np.ndarray, np.ndarray]:
        """Return z [n, Z] and landmarks [n, 49, 2] of the rows to learn from."""
        if job.spec.pairs != "photos":
            return pair_rows.load_pairs(job.run)
        without = self.inputs(job)["without_shards"]
        if without:
            log.warning("lgen: learning without the shards %s, which are not done", without)
        return load_rows(job.run, without)

    def _on_photos(self, job: Job, final: LandmarkGenerator) -> dict[str, Any]:
        """Return L-Gen's errors on the photos' latents against the photos' landmarks.

        The keys are fields of Evaluation. The result is empty if L-Gen learnt from photos, or if
        there are too few photos.
        """
        run = job.run
        if job.spec.pairs != "prior" or not (run.finished("invert") and run.finished("landmarks")):
            return {}
        record, learnt = run.record("invert"), _generator_digest(job)
        if record is None or record.inputs["generator"] != learnt:
            return {}
        try:
            z, points = load_rows(run)
        except RunDirectoryError:  # there are too few rows
            return {}
        mean = points.mean(axis=0, keepdims=True)
        return {
            "rows_photos": len(z),
            "nme_photos": float(nme(lgen_audit.predict(final, z), points).mean()),
            "nme_photos_mean_shape": float(nme(np.broadcast_to(mean, points.shape), points).mean()),
        }

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        section, rows = job.spec.lgen, _num_rows(job)
        assert section is not None
        last = 2 + (section.ensemble - 1 if pairs.STAGE.wanted(job.spec) else 0)
        work = f"{section.trials} trials of {section.epochs} epochs, then {last} trainings"
        if rows is None:
            return Plan(work, section.trials)
        steps = -(-rows // section.batch) * section.epochs * (section.trials + last)
        return Plan(work, section.trials, steps * STEP_S * GPU_SHARE)

    def measure(self, job: Job, device: str) -> float | None:
        """Time epochs of the section's own variant, with latents and points that are all 0."""
        section, rows = job.spec.lgen, _num_rows(job)
        assert section is not None
        if rows is None:
            return None
        shown = min(rows, MEASURED_ROWS)
        z = torch.zeros(shown, sizes.latent_dim(job))
        points = torch.zeros(shown, 49, 2)

        def one_epoch() -> int:
            lgen_training.train(z, points, own_variant(section), epochs=1, seed=0, device=device)
            return shown

        return rates.rate(one_epoch) / (rows * section.epochs)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the networks, evaluation.json and trials.json."""
        folders = [run.lgen / "final", run.lgen / "held_out"]
        yield from check_networks(folders, expected=record.finished)
        yield from check_sealed(run.lgen / "evaluation.json", expected=record.finished)
        if record.finished:
            yield from check_present([run.lgen / "trials.json"])


def _num_rows(job: Job) -> int | None:
    """Return the number of rows that L-Gen is to learn from; None if the number is not known."""
    assert job.spec.lgen is not None
    of_prior, photos = job.spec.lgen.num_pairs, job.photos.count
    if job.spec.pairs == "prior":
        return of_prior
    return photos if job.spec.pairs == "photos" or photos is None else of_prior + photos


def _shards_missing(run: RunDirectory) -> list[int]:
    plan = groups.plan(groups.open_group(run.latents, "latents"))
    done = shards.done(run.markers("landmarks")) & shards.done(run.markers("invert"))
    return [shard.index for shard in plan if shard.index not in done]


def _evaluate(rows: Rows, chosen: lgen.LandmarkGenerator, trials: list[Trial]) -> Evaluation:
    """Return the errors on the test rows, which neither the training nor the search has seen."""
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


def _generator_digest(job: Job) -> str:
    """Return the digest of the generator whose latents L-Gen learns from."""
    record = job.run.record("invert" if job.spec.pairs == "photos" else pairs.STAGE.name)
    assert record is not None
    return record.inputs["generator"]


STAGE = LGenStage()
