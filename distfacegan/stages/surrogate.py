"""The surrogate of a generator: made once, by one worker, kept in the run directory. No Ray."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from distfacegan import weights
from distfacegan.core.frozen import FrozenGenerator
from distfacegan.core.surrogate import SurrogateTraining, draw_pictures, unexplained
from distfacegan.store import networks

HELD_OUT = 500  # pictures that measure what the surrogate knows
CHECKPOINT_EVERY = 1000  # steps


def is_ready(folder: Path, made_of: dict[str, Any]) -> bool:
    """Say whether a folder holds the finished surrogate of this generator and these settings."""
    return _is_of(folder, made_of) and "unexplained" in networks.read_meta(folder)


def prepare(
    folder: Path, generator: Path, made_of: dict[str, Any], *, device: str, threads: int = 1
) -> None:
    """Train the surrogate of a generator into `folder`, or finish its training.

    `made_of` holds seed, pictures, steps and width, and the generator's digest. Its pictures and
    checkpoints lie beside it until it is finished.
    """
    torch.set_num_threads(threads)
    frozen = FrozenGenerator(weights.load_generator(generator).to(device))
    drawn, partial = folder.with_name("pictures"), folder.with_name("partial")
    if not _is_of(drawn, made_of):
        z, pictures = draw_pictures(frozen, made_of["seed"], made_of["pictures"])
        networks.save(drawn, {"pictures": {"z": z, "pictures": pictures}}, made_of)
    known = networks.load(drawn, "pictures")
    z, pictures = known["z"].to(device), known["pictures"].to(device)
    training = SurrogateTraining(
        frozen,
        z[HELD_OUT:],
        pictures[HELD_OUT:],
        seed=made_of["seed"],
        steps=made_of["steps"],
        width=made_of["width"],
    )
    if _is_of(partial, made_of):
        names = ("surrogate", "optimizer")
        training.load_state({name: networks.load(partial, name) for name in names})
    while training.num_steps < training.steps:
        training.step()
        if training.num_steps % CHECKPOINT_EVERY == 0:
            networks.save(partial, training.state(), made_of)
    share = unexplained(training.surrogate, z[:HELD_OUT], pictures[:HELD_OUT])
    state = {"surrogate": training.surrogate.state_dict()}
    networks.save(folder, state, {**made_of, "unexplained": share})
    shutil.rmtree(drawn)
    shutil.rmtree(partial, ignore_errors=True)


def _is_of(folder: Path, made_of: dict[str, Any]) -> bool:
    if not (folder / "meta.json").exists():
        return False
    meta = networks.read_meta(folder)
    return {name: meta.get(name) for name in made_of} == made_of
