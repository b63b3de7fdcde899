"""The search for L-Gen's best variant on Ray Tune, and the training of the best variants."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import ASHAScheduler
from torch import Tensor

from distfacegan.core import lgen, lgen_training
from distfacegan.core.lgen import LandmarkGenerator, Trial, Variant
from distfacegan.sections.lgen import LGen
from distfacegan.stages import cluster
from distfacegan.stages.lgen_variants import draw_groups
from distfacegan.stages.progress import Progress
from distfacegan.stages.telemetry import Telemetry
from distfacegan.store.location import Location, remove_tree
from distfacegan.store.run_directory import RunDirectory

log = logging.getLogger(__name__)

REPORTS = 20  # a trial reports its error about so often
GPU_SHARE = 0.25  # the share of a GPU that a trial takes: the networks are small


class Rows:
    """The rows to learn from, split into rows for training, validation and test."""

    def __init__(self, z: np.ndarray, points: np.ndarray, section: LGen, seed: int) -> None:
        self.z, self.points = z, points
        rest, self.test = lgen.split(len(z), section.test_share, seed)
        share = section.validation_share / (1 - section.test_share)
        chosen, held_out = lgen.split(len(rest), share, seed + 1)
        self.train, self.validation = rest[chosen], rest[held_out]

    def error(self, network: LandmarkGenerator, rows: np.ndarray) -> float:
        """Return the mean NME of a network over rows."""
        return lgen.evaluate(network, *self.tensors(rows))["nme"]

    def tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return copies of z and points at `rows`, because arrays shared by Ray are read-only."""
        return torch.from_numpy(self.z[rows]), torch.from_numpy(self.points[rows])


def choose(
    run: RunDirectory, section: LGen, seed: int, rows: ray.ObjectRef, device: str
) -> list[Trial]:
    """Try the variants; return the trials, the best first.

    The section's own variant is tried first. One trial of Ray Tune trains a group of variants of
    one shape. An interrupted search continues where it stopped.
    """
    _keep_credentials_out_of_logs()
    groups = [list(map(dataclasses.asdict, group)) for group in draw_groups(section, seed)]
    count = sum(map(len, groups))
    trainable = tune.with_resources(
        tune.with_parameters(_trial, rows=rows, epochs=section.epochs, seed=seed, device=device),
        {"cpu": 1, "gpu": gpu_share(device)},
    )
    path, filesystem = cluster.storage(run.lgen / "tune")
    tuner = _restore(run.lgen / "tune" / "groups", trainable) or tune.Tuner(
        trainable,
        param_space={"variants": tune.grid_search(groups)},
        tune_config=tune.TuneConfig(
            metric="nme",
            mode="min",
            reuse_actors=True,  # because the start of an actor takes longer than a trial
            scheduler=ASHAScheduler(max_t=REPORTS) if section.early_stopping else None,
        ),
        run_config=tune.RunConfig(
            name="groups",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[_Show(run, count, gpu_share(device))],
        ),
    )
    results = list(cluster.off_main_thread(tuner.fit))  # type: ignore[call-overload]
    trials = [trial for result in results for trial in _trials(result)]
    if not trials:
        raise RuntimeError(f"every trial of L-Gen failed: {results[0].error}")
    return sorted(trials, key=lambda trial: trial.nme)


def _trials(result: tune.Result) -> list[Trial]:
    """Return the trials of a group that have an error; none if the group failed."""
    if result.error is not None or not result.config or not result.metrics:
        return []
    group, metrics = result.config["variants"], result.metrics
    return [
        Trial(
            **variant,
            nme=nme,
            epochs=metrics["epochs"],
            seconds=round(metrics["time_total_s"] / len(group), 3),
            table_one=variant == dataclasses.asdict(Variant()),
        )
        for variant, nme in zip(group, metrics.get("errors", []), strict=False)
        if np.isfinite(nme)
    ]


def _keep_credentials_out_of_logs() -> None:
    """Stop Ray Tune from passing the driver's AWS credentials to the trials.

    Ray Tune passes them in a runtime environment, which Ray writes into its logs (2.60,
    ray/tune/execution/class_cache.py). Every node has its own credentials.
    """
    names = class_cache.ENV_VARS_TO_PROPAGATE
    names.difference_update({name for name in names if name.startswith("AWS_")})


def _restore(folder: Location, trainable: Any) -> tune.Tuner | None:
    """Return the interrupted search in a folder; None if no search can be continued."""
    path, filesystem = cluster.storage(folder)
    if not tune.Tuner.can_restore(path, filesystem):
        return None
    if not any(found.name.startswith("experiment_state") for found in folder.iterdir()):
        remove_tree(folder)  # the search stopped before Ray Tune wrote its state
        return None
    try:
        return tune.Tuner.restore(
            path,
            trainable,
            resume_unfinished=True,
            resume_errored=True,
            storage_filesystem=filesystem,
        )
    except Exception as error:  # Ray pickles its state, and another version may fail anywhere
        log.warning("lgen: the interrupted search cannot go on and begins anew: %s", error)
        remove_tree(folder)
        return None


class _Show(tune.Callback):
    """Shows the trials of every group that ends.

    Ray pickles this object with the search, so the progress bar is only made at the first trial.
    """

    def __init__(self, run: RunDirectory, trials: int, gpus_each: float) -> None:
        self._run, self._trials, self._ended = run, trials, 0
        self._gpus_each = gpus_each
        self._progress: Progress | None = None
        self._telemetry: Telemetry | None = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray Tune's hook."""
        if self._progress is None:
            self._progress = Progress("lgen", self._trials, "trials", initial=self._ended)
            self._progress.__enter__()
            self._telemetry = Telemetry(
                self._run,
                "lgen",
                left=self._trials - self._ended,
                unit="trials",
                gpus_each=self._gpus_each,
            ).__enter__()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray Tune's hook."""
        group = trial.config["variants"]
        errors = trial.last_result.get("errors", [float("nan")] * len(group))
        for variant, error in zip(group, errors, strict=True):
            self._ended += 1
            said = ", ".join(f"{name} {value}" for name, value in variant.items())
            log.info("lgen: trial %d of %d: NME %.4f, %s", self._ended, self._trials, error, said)
        if self._progress is not None:
            self._progress.advance(len(group))
        if self._telemetry is not None:
            best = [other.last_result.get("nme", float("nan")) for other in trials]
            seconds = trial.last_result.get("time_total_s", 0)
            self._telemetry.trials(len(group), seconds, float(np.fmin.reduce(best)))  # ignores NaN

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Ray Tune's hook."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
        if self._telemetry is not None:
            self._telemetry.__exit__()

    def get_state(self) -> dict[str, int]:
        """Return the state that Ray Tune keeps for the continuation of an interrupted search."""
        return {"ended": self._ended}

    def set_state(self, state: dict[str, int]) -> None:
        """Continue with a state that `get_state` returned."""
        self._ended = state["ended"]


def _trial(
    config: dict[str, Any], *, rows: ray.ObjectRef, epochs: int, seed: int, device: str
) -> None:
    """Train the variants of Ray Tune's `config`, and report their errors about 20 times."""
    data = ray.get(rows) if isinstance(rows, ray.ObjectRef) else rows
    every = max(1, epochs // REPORTS)

    def report(epoch: int, networks: list[LandmarkGenerator]) -> None:
        if epoch % every == 0 or epoch == epochs:
            errors = [data.error(network, data.validation) for network in networks]
            best = float(np.fmin.reduce(errors))  # ignores NaN
            tune.report({"nme": best, "errors": errors, "epochs": epoch})

    torch.set_num_threads(1)
    z, points = data.tensors(data.train)
    variants = [Variant(**values) for values in config["variants"]]
    seeds = [seed] * len(variants)
    lgen_training.train_together(
        z, points, variants, epochs=epochs, seeds=seeds, device=device, on_epoch=report
    )


def fit(
    variants: Sequence[Variant], section: LGen, seed: int, rows: ray.ObjectRef, device: str
) -> tuple[LandmarkGenerator, list[LandmarkGenerator]]:
    """Train the first variant on the training rows, and every variant on all rows.

    Variants of one shape are trained together. Each variant has its own seed.
    """
    by_shape: dict[tuple[Any, ...], list[int]] = {}
    for i, variant in enumerate(variants):
        by_shape.setdefault(variant.shape, []).append(i)
    task: Any = ray.remote(_fit)  # type: ignore[arg-type]
    task = task.options(num_cpus=1, num_gpus=gpu_share(device))
    options = {"epochs": section.epochs, "rows": rows, "device": device}
    chosen = task.remote([variants[0]], [seed], on="train", **options)
    on_all = [
        task.remote([variants[i] for i in some], [seed + i for i in some], on="all", **options)
        for some in by_shape.values()
    ]
    found: dict[int, LandmarkGenerator] = {}
    for some, networks in zip(by_shape.values(), ray.get(on_all), strict=True):
        found |= dict(zip(some, networks, strict=True))
    return ray.get(chosen)[0], [found[i] for i in range(len(variants))]


def _fit(
    variants: list[Variant],
    seeds: list[int],
    *,
    epochs: int,
    rows: Rows,
    on: str,
    device: str,
) -> list[LandmarkGenerator]:
    torch.set_num_threads(1)
    z, points = rows.tensors(rows.train if on == "train" else np.arange(len(rows.z)))
    networks = lgen_training.train_together(
        z, points, variants, epochs=epochs, seeds=seeds, device=device
    )
    return [network.cpu() for network in networks]


def gpu_share(device: str) -> float:
    """Return the share of a GPU that a trial takes."""
    return GPU_SHARE if device == "cuda" else 0
