"""The surrogate of a generator: made once, by one worker, kept in the run directory. No Ray."""

from __future__ import annotations

import logging
from typing import Any

import torch

from distfacegan import weights
from distfacegan.core.latent_model import latent_model
from distfacegan.core.surrogate import SurrogateTraining, draw_thumbnails, unexplained
from distfacegan.errors import DistfaceganError
from distfacegan.store import networks
from distfacegan.store.location import Location, ObjectStoreError

log = logging.getLogger(__name__)

HELD_OUT = 500  # thumbnails that are not trained on: they measure how good the surrogate is
CHECKPOINT_EVERY = 1000  # steps


def is_ready(folder: Location, made_of: dict[str, Any]) -> bool:
    """Say whether a folder holds the finished surrogate of this generator and these settings."""
    return _is_of(folder, made_of) and "unexplained" in networks.read_meta(folder)


def prepare(folder: Location, generator: Location, made_of: dict[str, Any], *, device: str) -> None:
    """Train the surrogate of a generator into `folder`, or finish its training.

    `made_of` holds seed, pictures, steps and width, and the generator's digest. The thumbnails and
    the newest checkpoint lie beside the folder until the training is finished. Damaged ones are
    made again.
    """
    torch.set_num_threads(1)  # the order of a sum depends on it
    model = latent_model(weights.load_generator(generator).to(device))
    drawn, partial = _drafts(folder)
    known = _load(drawn, made_of, "pictures")
    if known is None:
        z, targets = draw_thumbnails(model, made_of["seed"], made_of["pictures"])
        known = {"pictures": {"z": z, "pictures": targets}}
        networks.save(drawn, known, made_of)
    z, targets = (known["pictures"][name].to(device) for name in ("z", "pictures"))
    training = SurrogateTraining(
        model,
        z[HELD_OUT:],
        targets[HELD_OUT:],
        seed=made_of["seed"],
        steps=made_of["steps"],
        width=made_of["width"],
    )
    state = _load(partial, made_of, "surrogate", "optimizer")
    if state is not None:
        training.load_state(state)
    while training.num_steps < training.steps:
        training.step()
        if training.num_steps % CHECKPOINT_EVERY == 0:
            networks.save(partial, training.state(), {**made_of, "done": training.num_steps})
    share = unexplained(training.surrogate, z[:HELD_OUT], targets[:HELD_OUT])
    finished = {"surrogate": training.surrogate.state_dict()}
    networks.save(folder, finished, {**made_of, "unexplained": share})


def progress(folder: Location, made_of: dict[str, Any]) -> str:
    """Say how far the training of a surrogate is."""
    drawn, partial = _drafts(folder)
    try:
        if _is_of(partial, made_of):
            return f"has trained {networks.read_meta(partial).get('done', 0)} steps or more"
        return "is being trained" if _is_of(drawn, made_of) else "is given images to learn from"
    except (OSError, ObjectStoreError, DistfaceganError):  # its worker writes it at this moment
        return "is being trained"


def discard_drafts(folder: Location) -> None:
    """Delete what only a surrogate in training needs."""
    for draft in _drafts(folder):
        networks.remove(draft)


def _drafts(folder: Location) -> tuple[Location, Location]:
    return folder.with_name("pictures"), folder.with_name("partial")


def _load(folder: Location, made_of: dict[str, Any], *names: str) -> dict[str, Any] | None:
    """Return what a draft holds; None where it is missing, damaged or another surrogate's."""
    try:
        if _is_of(folder, made_of):
            return {name: networks.load(folder, name) for name in names}
    except DistfaceganError as error:
        log.warning("%s; made again", error)
    return None


def _is_of(folder: Location, made_of: dict[str, Any]) -> bool:
    if not (folder / "meta.json").exists():
        return False
    meta = networks.read_meta(folder)
    return {name: meta.get(name) for name in made_of} == made_of
