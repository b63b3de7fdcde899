"""Faces to a generator: BEGAN, data parallel on Ray Train (the loop is in stages/training.py)."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import ray.train
import ray.train.torch
import torch

from distfacegan import weights
from distfacegan.errors import DistfaceganError, RunDirectoryError
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster
from distfacegan.stages.outcome import Outcome
from distfacegan.stages.progress import Progress
from distfacegan.stages.telemetry import Telemetry
from distfacegan.stages.training import Training, TrainingDivergedError, last_step
from distfacegan.store import latents, metrics, networks, shards
from distfacegan.store.location import ObjectStoreError, remove_tree
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # of workers, in one run of the job
LOOK_BACK = 100  # lines of metrics among which the newest look at the faces is


def settings(spec: JobSpec) -> dict[str, Any]:
    """Return what decides the generator: compared when a run is resumed."""
    assert spec.began is not None
    without = {"workers", "min_workers", "compile", "checkpoint_every", "metrics_every", "watch"}
    decided = spec.began.model_dump(exclude=without)
    return {"seed": spec.seed, **decided}


def inputs(spec: JobSpec, run: RunDirectory) -> dict[str, Any]:
    """Return the identity of the faces, and the shards that had none when training began."""
    record = run.record("began")
    without = _shards_missing(run) if record is None else record["inputs"]["without_shards"]
    return {"photos": run.identity("ingest"), "without_shards": without}


def execute(spec: JobSpec, run: RunDirectory) -> Outcome:
    """Finish the stage."""
    section = spec.began
    assert section is not None
    started = time.time()
    without = inputs(spec, run)["without_shards"]
    if not _any_face(run):
        raise RunDirectoryError(f"{run.latents}/photos holds no face to train on")
    path, filesystem = cluster.storage(run.began / "ray")
    cluster.require(section.workers, "began.workers", spec.device)
    threads = cluster.cpus_each(section.workers)
    trainer: Any = ray.train.torch.TorchTrainer(
        _train_loop,  # type: ignore[arg-type]
        train_loop_config={
            "spec": spec,
            "root": run.root,
            "without_shards": without,
            "threads": threads,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=section.workers,
            use_gpu=cluster.device(spec.device) == "cuda",
            resources_per_worker={"CPU": threads},
        ),
        run_config=ray.train.RunConfig(
            name=f"{started:.0f}",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    if without:
        log.warning("began: trains without the shards %s, which are not done", without)
    run.note("began", steps=section.steps)
    first = last_step(run)
    telemetry = Telemetry(
        run,
        "began",
        left=section.steps - first,
        unit="steps",
        workers=section.workers,
        gpus_each=1 if cluster.device(spec.device) == "cuda" else 0,
    )
    with telemetry, Progress("began", section.steps, "steps", initial=first) as progress:
        watch = _Watch(run, progress, telemetry, first)
        try:
            diverged = cluster.off_main_thread(trainer.fit).return_value
        except ray.train.TrainingFailedError as error:
            raise _cause(error) from error
        finally:
            watch.stop()
    if diverged:
        raise diverged
    remove_tree(run.began / "ray")  # Ray's own account of a training that is over
    run.end("began", finished=True, started=started, steps=section.steps - first)
    meta = networks.read_meta(run.began / weights.GENERATOR)
    return Outcome(f"{meta['step']} steps, m_global {meta['m_global']:.4f}, k {meta['k']:.4f}")


def _train_loop(config: dict[str, Any]) -> TrainingDivergedError | None:
    """Train, and return the error that no second attempt would mend."""
    context = ray.train.get_context()
    spec = config["spec"]
    torch.set_num_threads(config["threads"])
    training = Training(
        RunDirectory(config["root"]),
        spec.began,
        seed=spec.seed,
        without_shards=config["without_shards"],
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )
    try:
        training.run()
    except TrainingDivergedError as error:
        return error  # raised, it would make Ray try again
    return None


class _Watch(threading.Thread):
    """Shows the progress of a training that runs elsewhere, from the metrics it writes."""

    def __init__(
        self, run: RunDirectory, progress: Progress, telemetry: Telemetry, first: int
    ) -> None:
        super().__init__(daemon=True)
        self._run, self._progress, self._telemetry, self._shown = run, progress, telemetry, first
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(1.0):
            try:
                self._show()
            except (DistfaceganError, ObjectStoreError, OSError) as error:
                log.warning("began: its metrics cannot be read now: %s", error)

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _show(self) -> None:
        lines = metrics.read(self._run.metrics)
        if not lines or lines[-1]["step"] == self._shown:
            return
        steps = lines[-1]["step"] - self._shown  # less than none after a rollback
        last = {key: value for line in lines[-LOOK_BACK:] for key, value in line.items()}
        note = f"{last['images_per_s']:.0f} images/s, m_global {last['m_global']:.4f}"
        note += f", k {last['k']:.3f}"
        if "diversity_ratio" in last:
            note += f", diversity {last['diversity_ratio']:.2f}"
        self._progress.advance(steps, note)
        self._telemetry.training(last, steps)
        self._shown += steps


def _shards_missing(run: RunDirectory) -> list[int]:
    plan = latents.plan(latents.open_group(run.latents, "photos"))
    done = shards.done(run.markers("ingest"))
    return [shard.index for shard in plan if shard.index not in done]


def _any_face(run: RunDirectory) -> bool:
    photos = latents.open_group(run.latents, "photos")
    return bool((latents.read(photos, "status") == Status.OK).any())


def _cause(error: ray.train.TrainingFailedError) -> Exception:
    """Return the error of ours that ended a training, or what Ray says of it."""
    if isinstance(error, ray.train.WorkerGroupError):
        for failure in error.worker_failures.values():
            cause = getattr(failure, "cause", failure)
            if isinstance(cause, DistfaceganError):
                return cause
    return error
