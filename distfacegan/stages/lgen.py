"""Latents and landmarks to L-Gen: variants tried by Ray Tune, the best one trained on all rows."""

from __future__ import annotations

import logging
import shutil
import time
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from torch import Tensor

from distfacegan import weights
from distfacegan.core import lgen
from distfacegan.errors import RunDirectoryError
from distfacegan.spec import JobSpec, LGen
from distfacegan.stages import cluster
from distfacegan.stages.outcome import Outcome
from distfacegan.store import files, latents, networks
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

log = logging.getLogger(__name__)

MIN_ROWS = 50
REPORTS = 20  # of a trial's error, over its epochs
GPU_SHARE = 0.25  # of a GPU for one trial: the networks are small
VARIED = ("depth", "width", "activation", "learning_rate", "batch")  # and so "the variant"
Variant = dict[str, Any]


class Rows:
    """The rows to learn from, and who may see them: training, validation, test."""

    def __init__(self, z: np.ndarray, points: np.ndarray, section: LGen, seed: int) -> None:
        self.z, self.points = z, points
        rest, self.test = lgen.split(len(z), section.test_share, seed)
        share = section.validation_share / (1 - section.test_share)
        chosen, held_out = lgen.split(len(rest), share, seed + 1)
        self.train, self.validation = rest[chosen], rest[held_out]

    def error(self, network: lgen.LandmarkGenerator, rows: np.ndarray) -> float:
        """Return the mean NME of a network over rows."""
        return lgen.evaluate(network, *self.tensors(rows))["nme"]

    def tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return copies of z and points at `rows`: what Ray shares cannot be written to."""
        return torch.from_numpy(self.z[rows]), torch.from_numpy(self.points[rows])


def load_rows(run: RunDirectory) -> tuple[np.ndarray, np.ndarray]:
    """Return z [n, Z] and landmarks [n, 49, 2] of the rows that have both."""
    z_group = latents.open_group(run.latents, "latents")
    points_group = latents.open_group(run.latents, "landmarks")
    good = (latents.read(z_group, "status") == Status.OK) & (
        latents.read(points_group, "status") == Status.OK
    )
    if good.sum() < MIN_ROWS:
        raise RunDirectoryError(
            f"{run.latents}: {good.sum()} rows have both a latent and landmarks that are trusted; "
            f"L-Gen needs {MIN_ROWS} at least (`distfacegan status` counts every status)"
        )
    return latents.read(z_group, "z")[good], latents.read(points_group, "points")[good]


def settings(spec: JobSpec) -> dict[str, Any]:
    """Return what decides L-Gen: compared when a run is resumed."""
    assert spec.lgen is not None
    return {"seed": spec.seed, **spec.lgen.model_dump()}


def inputs(spec: JobSpec, run: RunDirectory) -> dict[str, Any]:
    """Return the identities of what the stage reads."""
    return {"landmarks": run.identity("landmarks"), "latents": run.identity("invert")}


def execute(spec: JobSpec, run: RunDirectory) -> Outcome:
    """Finish the stage."""
    section = spec.lgen
    assert section is not None
    started = time.time()
    rows = ray.put(Rows(*load_rows(run), section, spec.seed))
    trials = _choose(run, section, spec.seed, rows)
    best = {name: trials[0][name] for name in VARIED}
    fit: Any = ray.remote(_fit)  # type: ignore[arg-type]
    fit = fit.options(num_cpus=1, num_gpus=_gpu_share())
    chosen, final = ray.get(
        [
            fit.remote(best, section.epochs, spec.seed, rows, on=on, device=cluster.device())
            for on in ("train", "all")
        ]
    )
    data = ray.get(rows)
    evaluation = _evaluate(data, chosen, trials)
    for name, network in (("held_out", chosen), ("final", final)):
        meta = {"stage": "lgen", "seed": spec.seed, "variant": best, "evaluation": evaluation}
        networks.save(run.lgen / name, {weights.LGEN: network.state_dict()}, meta)
    files.write_json(run.lgen / "trials.json", trials)
    files.write_json(run.lgen / "evaluation.json", evaluation)
    shutil.rmtree(run.lgen / "tune", ignore_errors=True)
    run.end("lgen", finished=True, started=started, rows=len(data.z))
    return Outcome(
        f"NME {evaluation['nme']:.4f} on test rows, mean shape {evaluation['nme_mean_shape']:.4f}"
    )


def _choose(run: RunDirectory, section: LGen, seed: int, rows: ray.ObjectRef) -> list[Variant]:
    """Try the variants; return them with their validation errors, the best first.

    Table I's network is the first trial. An interrupted search goes on where it stopped.
    """
    table_one = {name: getattr(section, name) for name in VARIED}
    space = {name: tune.choice(getattr(section.search, name)) for name in VARIED}
    trainable = tune.with_resources(
        tune.with_parameters(
            _trial, rows=rows, epochs=section.epochs, seed=seed, device=cluster.device()
        ),
        {"cpu": 1, "gpu": _gpu_share()},
    )
    folder = run.lgen / "tune"
    if tune.Tuner.can_restore(str(folder / "search")):
        tuner = tune.Tuner.restore(
            str(folder / "search"), trainable, resume_unfinished=True, resume_errored=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="nme",
                mode="min",
                num_samples=section.trials,
                reuse_actors=True,  # a trial takes less time than an actor needs to start
                search_alg=BasicVariantGenerator(points_to_evaluate=[table_one], random_state=seed),
                scheduler=ASHAScheduler(max_t=REPORTS) if section.early_stopping else None,
            ),
            run_config=tune.RunConfig(
                name="search", storage_path=str(folder), verbose=0, callbacks=[_Log(section.trials)]
            ),
        )
    results = list(tuner.fit())  # type: ignore[call-overload]
    trials = [
        {
            **result.config,
            "nme": result.metrics["nme"],
            "epochs": result.metrics["epochs"],
            "seconds": round(result.metrics["time_total_s"], 3),
            "table_one": result.config == table_one,
        }
        for result in results
        if result.error is None and result.config and result.metrics and "nme" in result.metrics
    ]
    if not trials:
        raise RuntimeError(f"every trial of L-Gen failed: {results[0].error}")
    return sorted(trials, key=lambda trial: trial["nme"])


class _Log(tune.Callback):
    """Logs a line for every trial that ends."""

    def __init__(self, trials: int) -> None:
        self._trials, self._ended = trials, 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray Tune's hook."""
        self._ended += 1
        variant = ", ".join(f"{name} {value}" for name, value in trial.config.items())
        error = trial.last_result.get("nme", float("nan"))
        log.info("lgen: trial %d of %d: NME %.4f, %s", self._ended, self._trials, error, variant)


def _trial(variant: Variant, *, rows: ray.ObjectRef, epochs: int, seed: int, device: str) -> None:
    """Train one variant and report its validation error now and then."""
    data = ray.get(rows) if isinstance(rows, ray.ObjectRef) else rows
    every = max(1, epochs // REPORTS)

    def report(epoch: int, network: lgen.LandmarkGenerator) -> None:
        if epoch % every == 0 or epoch == epochs:
            tune.report({"nme": data.error(network, data.validation), "epochs": epoch})

    _train(variant, epochs, seed, data, data.train, device, on_epoch=report)


def _fit(
    variant: Variant, epochs: int, seed: int, rows: Rows, *, on: str, device: str
) -> lgen.LandmarkGenerator:
    """Train the chosen variant to the end: on the training rows, or on all (as the paper does)."""
    which = rows.train if on == "train" else np.arange(len(rows.z))
    return _train(variant, epochs, seed, rows, which, device).cpu()


def _train(
    variant: Variant,
    epochs: int,
    seed: int,
    rows: Rows,
    which: np.ndarray,
    device: str,
    **options: Any,
) -> lgen.LandmarkGenerator:
    torch.set_num_threads(1)
    variant = dict(variant)
    batch = variant.pop("batch")
    z, points = rows.tensors(which)
    return lgen.train(
        z,
        points,
        batch_size=batch,
        epochs=epochs,
        seed=seed,
        device=device,
        **variant,
        **options,
    )


def _evaluate(rows: Rows, chosen: lgen.LandmarkGenerator, trials: list[Variant]) -> dict[str, Any]:
    """Return errors on the test rows, which neither training nor the choice has seen."""
    _, test_points = rows.tensors(rows.test)
    mean_shape = lgen.mean_shape(rows.tensors(rows.train)[1]).expand_as(test_points)
    table_one = [trial["nme"] for trial in trials if trial["table_one"]]
    return {
        "nme": rows.error(chosen, rows.test),
        "nme_mean_shape": lgen.score(mean_shape, test_points)["nme"],
        "nme_validation": trials[0]["nme"],
        "nme_validation_table_one": table_one[0] if table_one else None,
        "rows_train": len(rows.train),
        "rows_validation": len(rows.validation),
        "rows_test": len(rows.test),
    }


def _gpu_share() -> float:
    return GPU_SHARE if cluster.device() == "cuda" else 0
