"""Faces to a generator: BEGAN's data-parallel training on Ray Train (loop: stages/training.py)."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ray.train
import ray.train.torch
import torch

from distfacegan import weights
from distfacegan.core.networks import Discriminator, Generator
from distfacegan.errors import DistfaceganError, RunDirectoryError
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster, rates, sizes
from distfacegan.stages.feed import memory_bytes
from distfacegan.stages.progress import Progress
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.stages.telemetry import Telemetry
from distfacegan.stages.training import Training, last_step, make_trainer
from distfacegan.store import files, groups, metrics, shards, weight_files
from distfacegan.store.checkpoints import Checkpoints
from distfacegan.store.location import ObjectStoreError, remove_tree
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status
from distfacegan.store.verification import Finding, check_networks

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # in a row, without a new checkpoint between them
# A change of the number of workers restarts all workers and loses the steps since the newest
# checkpoint. The number therefore changes at most once in this time, even if nodes join one by one.
RESIZE_EVERY_S = 60.0
START_TIMEOUT_S = 5.0  # seconds to wait for the workers' places; Ray's default is 60
# Operations a second of one H200, a guess for the plan: a tenth of the rate of a matrix product in
# bf16.
TRAINING_FLOPS = 0.8e14


class BeganStage(Stage):
    """Faces to a generator."""

    name = "began"
    unit = "steps"
    reads = ("ingest",)
    writes = ("began",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return the settings that decide the generator."""
        section = job.spec.began
        assert section is not None
        without = {"workers", "min_workers", "compile", "checkpoint_every", "metrics_every"}
        found = section.model_dump(exclude={*without, "watch"})
        if section.stall is not None:  # every step that writes metrics checks for a stall
            every = (section.metrics_every, section.checkpoint_every, section.watch.every)
            found["stall_looked_for_every"] = list(every)
        return {"seed": job.spec.seed, **found}

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identity of the faces, and the shards not done when the training began."""
        record = job.run.record(self.name)
        without = _shards_missing(job.run) if record is None else record.inputs["without_shards"]
        return {"photos": job.run.identity("ingest"), "without_shards": without}

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section, run, device = job.spec.began, job.run, job.spec.device
        assert section is not None
        started = time.time()
        without = self.inputs(job)["without_shards"]
        if not _any_face(run):
            raise RunDirectoryError(f"{run.latents}/photos holds no face to train on")
        if section.min_workers is None:
            cluster.require(section.workers, "began.workers", device)
        else:
            cluster.require(section.min_workers, "began.min_workers", device)
        if without:
            log.warning("began: training without the shards %s, which are not done", without)
        run.note(self.name, steps=section.steps)
        Checkpoints(run).discard_damaged()
        first = last_step(run)
        metrics.truncate(run.metrics, first)
        telemetry = Telemetry(
            run,
            self.name,
            left=section.steps - first,
            unit=self.unit,
            workers=section.workers,
            gpus_each=1 if cluster.device(device) == "cuda" else 0,
        )
        progress = Progress(self.name, section.steps, self.unit, initial=first)
        with telemetry, progress:
            shown = _ShownProgress(run, progress, telemetry, first)
            try:
                _train(job.spec, run, without)
            finally:
                shown.stop()
        remove_tree(run.began / "ray")
        run.end(self.name, finished=True, started=started, steps=section.steps - first)
        return Outcome(_summary(weight_files.read_meta(run.began / weights.GENERATOR)))

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        section, photos = job.spec.began, job.photos
        assert section is not None
        shape = sizes.began_shape(section)
        g, d = Generator(**shape), Discriminator(**shape)
        numbers = sum(p.numel() for network in (g, d) for p in network.parameters())
        faces = ""
        if photos.count is not None and photos.shard_rows is not None:
            held, whole = memory_bytes(section, photos.count, photos.shard_rows)
            faces = f", {sizes.in_bytes(held)} of faces a worker"
            faces += "" if whole else " at a time, streamed"
        least = "" if section.min_workers is None else f"{section.min_workers} to "
        work = (
            f"{section.steps:,} steps of {section.batch} faces at {section.resolution}x"
            f"{section.resolution} on {least}{section.workers} workers; {numbers / 1e6:.2f} M "
            f"weights{faces}"
        )
        # A step is a forward pass of G, and of D over real and over generated faces. The backward
        # pass takes twice as long as the forward pass: hence the factor 3.
        each = sizes.generator_flops(g) + 2 * sizes.discriminator_flops(d, section.resolution)
        seconds = section.steps * section.batch * 3 * each / TRAINING_FLOPS
        return Plan(work, section.steps, seconds)

    def measure(self, job: Job, device: str) -> float | None:
        """Time training steps of one worker on its share of a batch, without communication."""
        section = job.spec.began
        assert section is not None
        training = make_trainer(section, seed=0, device=device)
        size = max(1, section.batch // section.workers)
        faces = torch.zeros(size, 3, section.resolution, section.resolution, device=device)
        z = torch.zeros(size, section.latent_dim, device=device)

        def one_step() -> int:
            training.step(faces, z)
            return 1

        return rates.rate(one_step)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the metrics, the checkpoints and the finished generator."""
        yield from Checkpoints(run).verify()
        yield from check_networks([run.began / weights.GENERATOR], expected=record.finished)


def _summary(meta: Mapping[str, Any]) -> str:
    said = f"{meta['step']} steps, m_global {meta['m_global']:.4f}, k {meta['k']:.4f}"
    if "diversity_ratio" in meta:
        said += f", diversity {meta['diversity_ratio']:.2f} of the real faces'"
    return said


def _train(spec: JobSpec, run: RunDirectory, without: list[int]) -> None:
    """Train to the last step. After a failure, continue from the newest checkpoint.

    Raises Ray's error after more than MAX_FAILURES failures without a new checkpoint between them.
    Raises a DistfaceganError of a worker at once, because another attempt would fail in the same
    way.
    """
    assert spec.began is not None
    _, each = cluster.gpu_workers(None, spec.device)
    threads = cluster.cpus_each(min(spec.began.workers, cluster.room(each)), spec.device)
    config = {"spec": spec, "root": run.root, "without_shards": without, "threads": threads}
    failures, reached = 0, last_step(run)
    while True:
        remove_tree(run.began / "ray")  # Ray's files about the attempt before
        try:
            cluster.off_main_thread(_trainer(spec, run, config).fit)
            return
        except ray.train.TrainingFailedError as error:
            causes = _failures(error)
            for cause in causes:
                if isinstance(cause, DistfaceganError):
                    raise cause from error
            before, reached = reached, last_step(run)
            failures = 1 if reached > before else failures + 1
            if failures > MAX_FAILURES:
                raise
            log.debug("began: %s", error)
            log.warning(
                "began: workers failed (%s); attempt %d of %d to get beyond step %d",
                ", ".join(sorted({type(cause).__name__ for cause in causes})),
                failures + 1,
                MAX_FAILURES + 1,
                reached,
            )


def _trainer(spec: JobSpec, run: RunDirectory, config: dict[str, Any]) -> Any:
    """Return Ray's trainer. With `min_workers` its number of workers follows the cluster's size."""
    section = spec.began
    assert section is not None
    number: dict[str, Any] = {"num_workers": section.workers}
    if section.min_workers is not None:
        number["num_workers"] = (section.min_workers, section.workers)
        number["elastic_resize_monitor_interval_s"] = RESIZE_EVERY_S
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT_S))
    path, filesystem = cluster.storage(run.began / "ray")
    trainer: Any = ray.train.torch.TorchTrainer(
        _train_loop,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            **number,
            use_gpu=cluster.device(spec.device) == "cuda",
            resources_per_worker={"CPU": config["threads"]},
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=0),  # `_train` counts the failures
        ),
    )
    # Ray 2.60 reserves places for an elastic training under the id of its run, and keeps the
    # reservation for some 200 s after the driver is killed. With the same id, the next driver gets
    # the reserved places at once.
    same = files.digest(str(run.root).encode())
    object.__setattr__(trainer.train_run_context, "run_id", same)
    return trainer


def _train_loop(config: dict[str, Any]) -> None:
    """Train as one of the workers of this attempt."""
    context = ray.train.get_context()
    spec = config["spec"]
    torch.set_num_threads(config["threads"])
    Training(
        RunDirectory(config["root"]),
        spec.began,
        seed=spec.seed,
        without_shards=config["without_shards"],
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
    ).run()


class _ShownProgress(threading.Thread):
    """Shows the progress of a training in other processes, from the metrics that rank 0 writes."""

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
                log.warning("began: cannot read the metrics now: %s", error)

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _show(self) -> None:
        lines = metrics.read(self._run.metrics)
        if not lines or lines[-1].step == self._shown:
            return
        last = metrics.with_last_look(lines)
        steps = last.step - self._shown  # negative after a rollback
        note = f"{last.images_per_s:.0f} images/s, m_global {last.m_global:.4f}, k {last.k:.3f}"
        if last.diversity_ratio is not None:
            note += f", diversity {last.diversity_ratio:.2f}"
        self._progress.advance(steps, note)
        self._telemetry.training(last, steps)
        self._shown += steps


def _shards_missing(run: RunDirectory) -> list[int]:
    plan = groups.plan(groups.open_group(run.latents, "photos"))
    done = shards.done(run.markers("ingest"))
    return [shard.index for shard in plan if shard.index not in done]


def _any_face(run: RunDirectory) -> bool:
    photos = groups.open_group(run.latents, "photos")
    return bool((groups.read(photos, "status") == Status.OK).any())


def _failures(error: ray.train.TrainingFailedError) -> list[Exception]:
    """Return the errors of the workers that failed, or Ray's error if there are none."""
    if isinstance(error, ray.train.WorkerGroupError):
        return list(error.worker_failures.values())
    return [error]


STAGE = BeganStage()
