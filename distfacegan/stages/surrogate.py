"""The surrogate of a generator. One worker trains the surrogate once, into the run directory."""

from __future__ import annotations

import logging
from typing import Any

import ray
import torch

from distfacegan import weights
from distfacegan.core.latent_model import latent_model
from distfacegan.core.surrogate import SurrogateTraining, draw_thumbnails, unexplained
from distfacegan.errors import DistfaceganError
from distfacegan.sections.invert import SurrogateSettings
from distfacegan.stages import cluster
from distfacegan.stages.actors import WorkerError
from distfacegan.stages.stage import Job
from distfacegan.store import weight_files
from distfacegan.store.location import Location, ObjectStoreError

log = logging.getLogger(__name__)

HELD_OUT = 500  # thumbnails that are not trained on, but measure the quality of the surrogate
CHECKPOINT_EVERY = 1000  # steps
SAY_EVERY_S = 30  # seconds between two log lines about the training


def train(job: Job, section: SurrogateSettings, generator: weights.LoadedGenerator) -> Location:
    """Return the folder of a generator's surrogate; train a missing surrogate first."""
    folder = job.run.surrogate
    made_of = {"seed": job.spec.seed, "generator": generator.digest, **section.model_dump()}
    if not is_ready(folder, made_of):
        log.info(
            "invert: trains the surrogate of the generator, once: %d images, %d steps",
            section.pictures,
            section.steps,
        )
        _, resources = cluster.gpu_workers(1, job.spec.device)
        task: Any = ray.remote(prepare)  # type: ignore[arg-type]
        made = task.options(**resources).remote(
            folder, generator.path, made_of, device=cluster.device(job.spec.device)
        )
        while not ray.wait([made], timeout=SAY_EVERY_S)[0]:
            log.info("invert: the surrogate %s", progress(folder, made_of))
        try:
            ray.get(made)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise WorkerError(
                f"the worker that trains the surrogate of the generator was lost ({error}); "
                "the same command goes on from its last checkpoint"
            ) from error
    discard_drafts(folder)
    return folder


def is_ready(folder: Location, made_of: dict[str, Any]) -> bool:
    """Tell whether a folder holds the finished surrogate of this generator and these settings."""
    return _is_of(folder, made_of) and "unexplained" in weight_files.read_meta(folder)


def prepare(folder: Location, generator: Location, made_of: dict[str, Any], *, device: str) -> None:
    """Train the surrogate of a generator into `folder`, or finish its training.

    `made_of` holds seed, pictures, steps and width, and the generator's digest. The thumbnails and
    the newest checkpoint are kept beside the folder until the training is finished. If they are
    damaged, they are made again.
    """
    torch.set_num_threads(1)  # the number of threads changes how sums are rounded
    model = latent_model(weights.load_generator(generator).to(device))
    drawn, partial = _drafts(folder)
    known = _load(drawn, made_of, "pictures")
    if known is None:
        z, targets = draw_thumbnails(model, made_of["seed"], made_of["pictures"])
        known = {"pictures": {"z": z, "pictures": targets}}
        weight_files.save(drawn, known, made_of)
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
            weight_files.save(partial, training.state(), {**made_of, "done": training.num_steps})
    share = unexplained(training.surrogate, z[:HELD_OUT], targets[:HELD_OUT])
    finished = {"surrogate": training.surrogate.state_dict()}
    weight_files.save(folder, finished, {**made_of, "unexplained": share})


def progress(folder: Location, made_of: dict[str, Any]) -> str:
    """Return the progress of a surrogate's training, in words."""
    drawn, partial = _drafts(folder)
    try:
        if _is_of(partial, made_of):
            return f"has trained {weight_files.read_meta(partial).get('done', 0)} steps or more"
        return "is being trained" if _is_of(drawn, made_of) else "waits for images of the generator"
    except (OSError, ObjectStoreError, DistfaceganError):  # the worker is just writing the file
        return "is being trained"


def discard_drafts(folder: Location) -> None:
    """Delete the thumbnails and the checkpoint, which only an unfinished training needs."""
    for draft in _drafts(folder):
        weight_files.remove(draft)


def _drafts(folder: Location) -> tuple[Location, Location]:
    return folder.with_name("pictures"), folder.with_name("partial")


def _load(folder: Location, made_of: dict[str, Any], *names: str) -> dict[str, Any] | None:
    """Return the states in a draft; None if the draft is missing, damaged or of other settings."""
    try:
        if _is_of(folder, made_of):
            return {name: weight_files.load(folder, name) for name in names}
    except DistfaceganError as error:
        log.warning("%s; made again", error)
    return None


def _is_of(folder: Location, made_of: dict[str, Any]) -> bool:
    if not (folder / "meta.json").exists():
        return False
    meta = weight_files.read_meta(folder)
    return {name: meta.get(name) for name in made_of} == made_of
