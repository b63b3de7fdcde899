"""Faces to latents: for every face the z that reproduces it best; into latents/ of the store."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from distfacegan import weights
from distfacegan.core.inversion import SEARCH_SETTINGS, Inversion, Inverter
from distfacegan.core.pixels import to_images
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster, surrogate
from distfacegan.stages.actors import WorkerError
from distfacegan.stages.outcome import Outcome
from distfacegan.stages.sharded import run_stage
from distfacegan.store import latents, shards
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status

log = logging.getLogger(__name__)

SAY_EVERY_S = 30
FOUND = ("z", "loss", "steps")  # what the store keeps of an Inversion


class InvertWorker:
    """Holds one generator on one device. A plain class: tests use it without Ray.

    `run` may be called from two threads at once: one computes, the other reads or writes.
    """

    def __init__(
        self,
        photos: Location,
        store: Location,
        markers: Location,
        generator: Location,
        *,
        search: Mapping[str, Any],
        batch: int,
        retry: Mapping[str, Any] | None = None,
        surrogate_folder: Location | None = None,
        device: str = "cpu",
    ) -> None:
        """Load what is on disk. `search` holds SEARCH_SETTINGS, `retry` that of a spec."""
        torch.set_num_threads(1)  # the order of a sum depends on it
        self._photos = latents.open_group(photos, "photos")
        self._latents = latents.open_group(store, "latents")
        self._markers, self._batch, self._device = markers, batch, device
        self._retry = retry
        network = weights.load_generator(generator).to(device)
        self._resolution = network.resolution
        surrogate = weights.load_surrogate(surrogate_folder) if surrogate_folder else None
        self._inverter = Inverter(network, surrogate=surrogate, **search)
        self._computing = threading.Lock()

    def run(self, shard: Shard) -> ShardStats:
        """Invert the faces of one shard and commit their latents to the store."""
        arrays = latents.blank(self._latents, len(shard))
        arrays["status"][:] = Status.NOTHING_UPSTREAM
        status = latents.read(self._photos, "status", shard)
        images = latents.read(self._photos, "image", shard)
        with_face = np.flatnonzero(status == Status.OK)
        with self._computing:
            started = time.time()
            for some in _batches(with_face, self._batch):
                _put(arrays, some, self._inverter(self._faces(images[some]), shard.rows[some]))
            finite = np.isfinite(arrays["loss"][with_face])
            arrays["status"][with_face] = np.where(finite, Status.OK, Status.FAILED)
            sums = self._search_again(shard, images, arrays) if self._retry else None
        return latents.commit(self._latents, self._markers, shard, arrays, started, sums)

    def _search_again(
        self, shard: Shard, images: np.ndarray, arrays: dict[str, np.ndarray]
    ) -> dict[str, float]:
        """Search again for the worst rows; return how many there were and what it gained."""
        retry = self._retry
        assert retry is not None
        ok = np.flatnonzero(arrays["status"] == Status.OK)
        by_loss = ok[np.argsort(-arrays["loss"][ok], kind="stable")]
        worst = by_loss[: math.ceil(round(retry["worst"] * len(ok), 6))]
        worst = worst[arrays["loss"][worst] > (self._inverter.target_loss or 0)]
        before = arrays["loss"][worst]
        for some in _batches(worst, max(1, self._batch // retry["starts"])):
            faces, rows = self._faces(images[some]), shard.rows[some]
            found = Inversion(*(torch.from_numpy(arrays[name][some]) for name in FOUND))
            again = self._inverter.again(
                faces, rows, found, starts=retry["starts"], steps=retry["steps"]
            )
            _put(arrays, some, again)
        gained = before - arrays["loss"][worst]
        return {
            "retried": len(worst),
            "improved": int((gained > 0).sum()),
            "loss_gained": float(gained.sum(dtype=np.float64)),
        }

    def _faces(self, images: np.ndarray) -> Tensor:
        return to_images(images, self._resolution, self._device)


def _batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _put(arrays: dict[str, np.ndarray], rows: np.ndarray, found: Inversion) -> None:
    for name in FOUND:
        arrays[name][rows] = getattr(found, name)


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
    latents.create_group_of(photos, run.latents, "latents", Z=generator.latent_dim)
    device = cluster.device(spec.device)
    decided = {**settings(spec), "precision": _precision(section.precision, device, run)}
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
            "search": {name: decided[name] for name in SEARCH_SETTINGS},
            "batch": section.batch,
            "retry": decided["retry"],
            "surrogate_folder": _prepare_surrogate(spec, run, path),
            "device": device,
        },
        workers=cluster.gpu_workers(section.workers, spec.device),
        unit="faces",
        upstream=[shards.done(photos_run.markers("ingest"))],
        in_flight=2,  # one is read or written while the other is computed
    )


def _precision(asked: str, device: str, run: RunDirectory) -> str:
    """Return the precision of the run: what `auto` meant when it began, whoever resumes it."""
    record = run.record("invert")
    assert record is not None
    if asked == "auto":
        of_device = "fp32" if device == "cpu" else "bf16"
        asked = record.get("precision", of_device)
    run.note("invert", precision=asked)
    return asked


def _prepare_surrogate(spec: JobSpec, run: RunDirectory, generator: Location) -> Location | None:
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
        _, resources = cluster.gpu_workers(1, spec.device)
        task: Any = ray.remote(surrogate.prepare)  # type: ignore[arg-type]
        made = task.options(**resources).remote(
            run.surrogate, generator, made_of, device=cluster.device(spec.device)
        )
        while not ray.wait([made], timeout=SAY_EVERY_S)[0]:
            log.info("invert: the surrogate %s", surrogate.progress(run.surrogate, made_of))
        try:
            ray.get(made)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise WorkerError(
                f"the worker that learns the generator's pictures was lost ({error}); "
                "the same command goes on from its last checkpoint"
            ) from error
    surrogate.discard_drafts(run.surrogate)
    return run.surrogate


def _photos_run(spec: JobSpec, run: RunDirectory) -> RunDirectory:
    assert spec.invert is not None
    return run if spec.invert.photos is None else RunDirectory(spec.invert.photos)
