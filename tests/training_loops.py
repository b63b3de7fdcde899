"""Training loops with a fault in them. In a module of their own: Ray's workers import it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist

from distfacegan.core.began import BeganTrainer
from distfacegan.errors import RunDirectoryError
from distfacegan.stages import began
from distfacegan.store import files
from distfacegan.store.run_directory import RunDirectory

DIES_AT = 37
STANDS_STILL_AT = 70
train_loop = began._train_loop  # tests put one of those below in its place


@dataclasses.dataclass(frozen=True)
class Start:
    """The first step of a group of workers."""

    step: int
    workers: int
    time: float
    node: str  # of rank 0


def starts(root: Path) -> list[Start]:
    """Return how often workers began at a training, in the order of time."""
    path = root / "starts"
    lines = path.read_text().splitlines() if path.exists() else []
    return [Start(**json.loads(line)) for line in lines]


def undisturbed(config: dict[str, Any]) -> None:
    """Train."""
    _train(config, lambda trainer: None)


def rank_1_is_killed_once(config: dict[str, Any]) -> None:
    """Train; in the middle of the first attempt rank 1 is killed, and leaves what it can."""

    def kill(trainer: BeganTrainer) -> None:
        at = dist.get_rank(), trainer.num_steps, len(starts(config["root"]))
        if at == (1, DIES_AT, 1):
            _leave_halves(RunDirectory(config["root"]))
            os.kill(os.getpid(), signal.SIGKILL)

    _train(config, kill)


def rank_1_finds_bad_data(config: dict[str, Any]) -> None:
    """Train; rank 1 finds what no other attempt would mend, while rank 0 waits for it."""

    def find(trainer: BeganTrainer) -> None:
        if dist.get_rank() == 1:
            raise RunDirectoryError("rank 1 finds bad data")

    _train(config, find)


def slow(config: dict[str, Any]) -> None:
    """Train slowly, until a file says that there is nothing more to see."""
    _train(config, lambda trainer: (config["root"] / "hurry").exists() or time.sleep(0.1))


def stands_still(config: dict[str, Any]) -> None:
    """Train up to a step, and wait there."""
    _train(config, lambda trainer: trainer.num_steps == STANDS_STILL_AT and time.sleep(600))


def _train(config: dict[str, Any], before_step: Callable[[BeganTrainer], Any]) -> None:
    """Train with something to do before every step; rank 0 writes its first step down."""
    step, begun = BeganTrainer.step, False

    def acting(trainer: BeganTrainer, *batch: Any, **options: Any) -> None:
        nonlocal begun
        if not begun and (not dist.is_initialized() or dist.get_rank() == 0):
            _note_start(trainer, config["root"])
        begun = True
        before_step(trainer)
        step(trainer, *batch, **options)

    BeganTrainer.step = acting  # type: ignore[method-assign]
    train_loop(config)


def _leave_halves(run: RunDirectory) -> None:
    """Leave what was not finished when workers were killed, and what is later than a checkpoint."""
    for name in (f".{DIES_AT:08d}.partial", f"{DIES_AT:08d}"):  # of a disk, of an object store
        files.write_bytes(run.began / "checkpoints" / name / "generator.safetensors", b"half")
    files.write_bytes(run.began / "samples" / f"{DIES_AT:08d}.png", b"later")
    with run.metrics.open("a") as file:
        file.write(f'{{"step": {DIES_AT}}}\n{{"step": {DIES_AT + 1}, "loss')


def _note_start(trainer: BeganTrainer, root: Path) -> None:
    start = Start(
        step=trainer.num_steps,
        workers=dist.get_world_size() if dist.is_initialized() else 1,
        time=time.time(),
        node=ray.get_runtime_context().get_node_id(),
    )
    with (root / "starts").open("a") as file:
        file.write(json.dumps(dataclasses.asdict(start)) + "\n")
