"""Faces to latents: for every face the z that reproduces it best; into latents/ of the store."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from distfacegan import weights
from distfacegan.core.inversion import Inverter
from distfacegan.core.pixels import to_images
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster, surrogate
from distfacegan.stages.outcome import Outcome
from distfacegan.stages.sharded import run_stage
from distfacegan.store import latents, shards
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status

log = logging.getLogger(__name__)


class InvertWorker:
    """Holds one generator on one device. A plain class: tests use it without Ray."""

    def __init__(
        self,
        photos: Path,
        store: Path,
        markers: Path,
        generator: Path,
        *,
        seed: int,
        recipe: str,
        steps: int | None,
        radius: float | None,
        learning_rate: float,
        batch: int,
        surrogate_folder: Path | None = None,
        device: str = "cpu",
    ) -> None:
        torch.set_num_threads(1)  # the order of a sum depends on it
        self._photos = latents.open_group(photos, "photos")
        self._latents = latents.open_group(store, "latents")
        self._markers, self._batch, self._device = markers, batch, device
        network = weights.load_generator(generator).to(device)
        self._resolution = network.resolution
        self._invert = Inverter(
            network,
            recipe=recipe,
            seed=seed,
            steps=steps,
            radius=radius,
            learning_rate=learning_rate,
            surrogate=weights.load_surrogate(surrogate_folder) if surrogate_folder else None,
        )

    def run(self, shard: Shard) -> ShardStats:
        """Invert the faces of one shard and commit their latents to the store."""
        started = time.time()
        arrays = latents.blank(self._latents, len(shard))
        arrays["status"][:] = Status.NOTHING_UPSTREAM
        status = latents.read(self._photos, "status", shard)
        image = latents.read(self._photos, "image", shard)
        with_face = np.flatnonzero(status == Status.OK)
        for some in np.split(with_face, range(self._batch, len(with_face), self._batch)):
            faces = to_images(image[some], self._resolution, self._device)
            found = self._invert(faces, shard.rows[some])
            arrays["z"][some], arrays["loss"][some] = found.z, found.loss
            arrays["steps"][some] = found.steps
            finite = torch.isfinite(found.loss).numpy()
            arrays["status"][some] = np.where(finite, Status.OK, Status.FAILED)
        return latents.commit(self._latents, self._markers, shard, arrays, started)


def settings(spec: JobSpec) -> dict[str, Any]:
    """Return what decides the latents: compared when a run is resumed."""
    section = spec.invert
    assert section is not None
    decided = section.model_dump(exclude={"workers", "batch", "generator", "photos"})
    if section.recipe != "fast":
        del decided["surrogate"]
    if section.generator is not None:
        resolution = spec.ingest.resolution if spec.ingest else None
        weights.load_generator(section.generator, resolution)  # a misfit is said here
    if section.photos is not None:
        RunDirectory(section.photos).identity("ingest")  # no faces there are said here
    return {"seed": spec.seed, **decided}


def inputs(spec: JobSpec, run: RunDirectory) -> dict[str, str]:
    """Return the identities of what the stage reads."""
    section = spec.invert
    assert section is not None
    generator = weights.generator_path(run, section.generator)
    photos_run = _photos_run(spec, run)
    photos = latents.open_group(photos_run.latents, "photos")
    weights.load_generator(generator, latents.lengths(photos)["R"])  # a misfit is said here
    return {
        "photos": photos_run.identity("ingest"),
        "generator": weights.digest(generator, weights.GENERATOR),
    }


def execute(spec: JobSpec, run: RunDirectory) -> Outcome:
    """Finish the stage."""
    section = spec.invert
    assert section is not None
    photos_run = _photos_run(spec, run)
    photos = latents.open_group(photos_run.latents, "photos")
    path = weights.generator_path(run, section.generator)
    generator = weights.load_generator(path)
    latents.create_group(
        run.latents,
        "latents",
        num_rows=latents.num_rows(photos),
        shard_rows=latents.shard_rows(photos),
        Z=generator.latent_dim,
    )
    return run_stage(
        run,
        "invert",
        latents.plan(photos),
        InvertWorker,
        {
            "photos": photos_run.latents,
            "store": run.latents,
            "markers": run.markers("invert"),
            "generator": path,
            "seed": spec.seed,
            "recipe": section.recipe,
            "steps": section.steps,
            "radius": section.radius,
            "learning_rate": section.learning_rate,
            "batch": section.batch,
            "surrogate_folder": _prepare_surrogate(spec, run, path),
            "device": cluster.device(),
        },
        workers=cluster.gpu_workers(section.workers),
        unit="faces",
        upstream=[shards.done(photos_run.markers("ingest"))],
    )


def _prepare_surrogate(spec: JobSpec, run: RunDirectory, generator: Path) -> Path | None:
    """Return the folder of the surrogate that recipe fast needs, made first where it is not."""
    section = spec.invert
    assert section is not None
    if section.recipe != "fast":
        return None
    digest = weights.digest(generator, weights.GENERATOR)
    made_of = {"seed": spec.seed, "generator": digest, **section.surrogate.model_dump()}
    if not surrogate.is_ready(run.surrogate, made_of):
        log.info(
            "invert: learns the generator's pictures, once: %d pictures, %d steps",
            section.surrogate.pictures,
            section.surrogate.steps,
        )
        _, resources = cluster.gpu_workers(1)
        task: Any = ray.remote(surrogate.prepare)  # type: ignore[arg-type]
        made = task.options(**resources).remote(
            run.surrogate, generator, made_of, device=cluster.device()
        )
        try:
            ray.get(made)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
    surrogate.discard_drafts(run.surrogate)
    return run.surrogate


def _photos_run(spec: JobSpec, run: RunDirectory) -> RunDirectory:
    assert spec.invert is not None
    return run if spec.invert.photos is None else RunDirectory(spec.invert.photos)
