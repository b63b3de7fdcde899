"""One rank's part of a BEGAN training: steps, metrics, looks at the faces, checkpoints. No Ray.

The run directory holds the only state. Rank 0 writes checkpoints to the run directory, and a
training that was interrupted continues from the newest checkpoint. The faces and latents of a step
are a function of (seed, step). Therefore an interrupted training gives the same result as an
uninterrupted one by as many workers.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from distfacegan import weights
from distfacegan.core.began import BeganTrainer
from distfacegan.core.collapse import CollapseMonitor, Plateau
from distfacegan.core.grids import encode, tile
from distfacegan.core.order import part_of_batch
from distfacegan.errors import DistfaceganError
from distfacegan.sections.began import Began
from distfacegan.stages.feed import Feed, StoredFaces
from distfacegan.stages.look import Look
from distfacegan.stages.sizes import began_shape
from distfacegan.store import metrics, weight_files
from distfacegan.store.checkpoints import Checkpoints, Point
from distfacegan.store.metrics import MetricsLine
from distfacegan.store.run_directory import RunDirectory

log = logging.getLogger(__name__)

NUM_SAMPLES = 64
T = TypeVar("T")


class TrainingDivergedError(DistfaceganError, ArithmeticError):
    """The losses are not finite, or the generated faces have collapsed."""


def make_trainer(section: Began, *, seed: int, device: str | torch.device) -> BeganTrainer:
    """Return the trainer of a section, before its first step."""
    return BeganTrainer(
        **began_shape(section),
        latent_constraint=section.latent_constraint,
        ema=section.ema,
        loss=section.loss,
        gamma=section.gamma,
        lambda_k=section.lambda_k,
        learning_rate=section.learning_rate,
        learning_rate_decay=section.learning_rate_decay,
        betas=(section.beta1, section.beta2),
        precision=section.precision,
        steps=section.steps,
        seed=seed,
        device=device,
        compiled=section.compile,
    )


class Training:
    """One rank's part of a training. A plain class: tests use it without Ray."""

    def __init__(
        self,
        run: RunDirectory,
        section: Began,
        *,
        seed: int,
        without_shards: list[int],
        rank: int = 0,
        world: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        self._run, self._section, self._seed = run, section, seed
        self._rank, self._world = rank, world
        mine = part_of_batch(section.batch, rank, world)
        self._share = (mine.stop - mine.start) / section.batch
        self.trainer = make_trainer(section, seed=seed, device=device)
        faces = StoredFaces(run, section.resolution, without_shards)
        self._feed = Feed(faces, section, seed=seed, mine=mine, device=self.trainer.device)
        self._look = Look(faces, self.trainer, seed) if rank == 0 else None
        self._checkpoints = Checkpoints(run)
        self._resume(self._as_rank_0(self._checkpoints.resume))

    def run(self) -> None:
        """Train to the last step; rank 0 writes metrics, samples, checkpoints and the generator.

        Raises TrainingDivergedError on every rank if the losses are not finite or the faces
        collapse, unless the training is rolled back. For a collapse the section may also ask for a
        warning only.
        """
        section, trainer = self._section, self.trainer
        self._clock = trainer.num_steps, time.time()
        while trainer.num_steps < section.steps:
            trainer.step(*self._feed.batch(trainer.num_steps), self._share)
            step = trainer.num_steps
            last = step == section.steps
            checkpoint_due = step % section.checkpoint_every == 0 or last
            look_due = step % section.watch.every == 0 or checkpoint_due
            if step % section.metrics_every == 0 or look_due:
                self._take_stock(look_due, checkpoint_due)
        if self._rank == 0:
            self._publish()

    def _take_stock(self, look_due: bool, checkpoint_due: bool) -> None:
        """Measure the training, check it for collapse, and write metrics and checkpoints.

        Every rank calls this, so that all ranks continue or roll back together.
        """
        trainer = self.trainer
        found, step = trainer.metrics(), trainer.num_steps
        if not math.isfinite(found["m_global_mean"]):
            self._collapsed(step, f"m_global is {found['m_global']}", fatal=True)
            return
        trainer.learning_rate_scale *= self._plateau.factor(step, found["m_global_mean"])
        wrong = None
        if look_due:
            found |= self._as_rank_0(self._look_at_faces)
            diversity_ratio = found.get("diversity_ratio", math.nan)
            wrong = self._monitor.judge(step, diversity_ratio, found["k"])
        since, started = self._clock
        self._clock = step, time.time()
        rate = (step - since) * self._section.batch / (self._clock[1] - started)
        line = MetricsLine(
            **found,
            step=step,
            images_per_s=round(rate, 2),
            workers=self._world,
            time=self._clock[1],
        )
        if self._rank == 0:
            metrics.append(self._run.metrics, line)
        if wrong is not None:
            self._collapsed(step, wrong)
        if checkpoint_due and self._rank == 0 and trainer.num_steps == step:
            self._write_checkpoint(line)

    def _look_at_faces(self) -> dict[str, float]:
        assert self._look is not None
        faces, found = self._look(self.trainer)
        grid = encode(tile(faces[:NUM_SAMPLES], columns=8))
        self._checkpoints.write_samples(self.trainer.num_steps, grid)
        return found

    def _collapsed(self, step: int, wrong: str, *, fatal: bool = False) -> None:
        """React to a collapse as the section says: warn, roll back or raise TrainingDivergedError.

        A `fatal` collapse does not end with a warning only.
        """
        section, watch = self._section, self._section.watch
        if watch.on_collapse == "warn" and not fatal:
            if self._rank == 0:
                log.warning("began: step %d: %s", step, wrong)
            return
        advice = ", or continue this run with began.watch.on_collapse: rollback"
        if watch.on_collapse == "rollback":
            advice = f"; this run went back {self._num_rollbacks} times"
            if self._num_rollbacks < watch.max_rollbacks:
                scale = 0.5 * self.trainer.learning_rate_scale
                point = self._as_rank_0(lambda: self._checkpoints.roll_back(step, wrong, scale))
                if point is not None:
                    self._resume(point)
                    self._clock = self.trainer.num_steps, time.time()
                    if self._rank == 0:
                        back = self.trainer.num_steps
                        log.warning("began: step %d: %s; back to step %d", step, wrong, back)
                    return
                advice = "; this run has no checkpoint yet to go back to"
        raise TrainingDivergedError(
            f"BEGAN collapsed at step {step}: {wrong}. Try another run with a larger began.gamma "
            f"(it is {section.gamma}) or a lower began.learning_rate (it is "
            f"{section.learning_rate}){advice}"
        )

    def _resume(self, point: Point) -> None:
        """Continue from a checkpoint, or start at step 0."""
        watch, self._num_rollbacks = self._section.watch, point.num_rollbacks
        if point.checkpoint is not None:
            groups = self.trainer.state_groups
            states = {name: weight_files.load(point.checkpoint, name) for name in groups}
            self.trainer.load_state(states)
        if point.learning_rate_scale is not None:
            self.trainer.learning_rate_scale = point.learning_rate_scale
        memory = point.meta.get("memory", {"watchman": {}, "plateau": {}})
        self._monitor = CollapseMonitor(
            min_diversity=watch.min_diversity,
            grace=watch.grace or self._section.steps // 5,
            patience=watch.patience,
            **memory["watchman"],
        )
        self._plateau = Plateau(self._section.stall, **memory["plateau"])

    def _write_checkpoint(self, line: MetricsLine) -> None:
        meta = {
            "stage": "began",
            "seed": self._seed,
            **line.to_json(),
            "settings": self._section.model_dump(mode="json"),
            "memory": {"watchman": self._monitor.memory(), "plateau": self._plateau.memory()},
        }
        self._checkpoints.write(self.trainer.num_steps, self.trainer.state(), meta)

    def _publish(self) -> None:
        """Copy the generator of the last checkpoint to began/generator, which later stages read."""
        last = self._checkpoints.kept()[-1]
        meta = weight_files.read_meta(last)
        del meta["digests"], meta["memory"]
        name = "averaged" if self._section.ema else "generator"
        state = {weights.GENERATOR: weight_files.load(last, name)}
        weight_files.save(self._run.began / weights.GENERATOR, state, meta)

    def _as_rank_0(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 alone, and return its result on every rank.

        Without torch.distributed there is only rank 0.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return work()
        found: list[Any] = [work() if self._rank == 0 else None]
        dist.broadcast_object_list(found, src=0)
        return found[0]


def last_step(run: RunDirectory) -> int:
    """Return the step of the newest checkpoint that no rollback abandoned; 0 without any."""
    found = Checkpoints(run).kept()
    return int(found[-1].name) if found else 0
