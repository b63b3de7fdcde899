"""Faces to latents: finds for every face the z whose G(z) is nearest to the face."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distfacegan import weights
from distfacegan.core.inversion import Inversion, Inverter
from distfacegan.core.latent_model import latent_model
from distfacegan.core.pixels import to_images
from distfacegan.core.recipes import RECIPES
from distfacegan.core.search import Search
from distfacegan.core.surrogate import Surrogate
from distfacegan.core.thumbnail import thumbnails
from distfacegan.sections.invert import Invert, Retry
from distfacegan.stages import cluster, rates, sizes, surrogate
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import groups, shards
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_group, check_networks

log = logging.getLogger(__name__)

# Operations a second of one H200, a guess for the plan: a third of 790 TFLOP/s, which is the
# measured rate of a matrix product in bf16.
INVERSION_FLOPS = 2.6e14
MEASURED_STEPS = 20  # the steps of a search that `plan --measure` times
FOUND = ("z", "loss", "steps")  # the fields of an Inversion that the store keeps


class InvertWorker:
    """Inverts the faces of shards with one generator on one device. A plain class, without Ray.

    `run` may be called from two threads at once: one computes while the other reads or writes.
    """

    def __init__(
        self,
        photos: Location,
        store: Location,
        markers: Location,
        generator: Location,
        *,
        group: str = "latents",
        mirrored: bool = False,
        search: Search,
        batch: int,
        retry: Retry | None = None,
        surrogate_folder: Location | None = None,
        device: str = "cpu",
    ) -> None:
        """Load the networks and open the stores.

        `batch` faces are inverted at once. With `mirrored` their mirror images are inverted.
        """
        torch.set_num_threads(1)  # the number of threads changes how sums are rounded
        self._photos = groups.open_group(photos, "photos")
        self._latents, self._mirrored = groups.open_group(store, group), mirrored
        self._markers, self._batch, self._device = markers, batch, device
        self._retry = retry
        model = latent_model(weights.load_generator(generator).to(device))
        self._resolution = model.resolution
        surrogate = weights.load_surrogate(surrogate_folder) if surrogate_folder else None
        self._inverter = Inverter(model, search, surrogate)
        self._computing = threading.Lock()

    def run(self, shard: Shard) -> ShardStats:
        """Invert the faces of one shard and commit their latents to the store."""
        arrays = groups.blank(self._latents, len(shard))
        arrays["status"][:] = Status.NOTHING_UPSTREAM
        status = groups.read(self._photos, "status", shard)
        images = groups.read(self._photos, "image", shard)
        with_face = np.flatnonzero(status == Status.OK)
        with self._computing:
            started = time.time()
            for some in _batches(with_face, self._batch):
                _put(arrays, some, self._inverter(self._faces(images[some]), shard.rows[some]))
            finite = np.isfinite(arrays["loss"][with_face])
            arrays["status"][with_face] = np.where(finite, Status.OK, Status.FAILED)
            sums = self._search_again(shard, images, arrays, self._retry) if self._retry else None
        return groups.commit(self._latents, self._markers, shard, arrays, started, sums)

    def _search_again(
        self, shard: Shard, images: np.ndarray, arrays: dict[str, np.ndarray], retry: Retry
    ) -> dict[str, float]:
        """Search again for the worst rows; return the counts of rows and the sum of the gains."""
        assert retry.steps is not None  # the spec fills in a missing number
        ok = np.flatnonzero(arrays["status"] == Status.OK)
        by_loss = ok[np.argsort(-arrays["loss"][ok], kind="stable")]
        worst = by_loss[: math.ceil(round(retry.worst * len(ok), 6))]
        worst = worst[arrays["loss"][worst] > (self._inverter.search.target_loss or 0)]
        before = arrays["loss"][worst]
        for some in _batches(worst, max(1, self._batch // retry.starts)):
            faces, rows = self._faces(images[some]), shard.rows[some]
            found = Inversion(*(torch.from_numpy(arrays[name][some]) for name in FOUND))
            again = self._inverter.again(faces, rows, found, starts=retry.starts, steps=retry.steps)
            _put(arrays, some, again)
        gained = before - arrays["loss"][worst]
        return {
            "retried": len(worst),
            "improved": int((gained > 0).sum()),
            "loss_gained": float(gained.sum(dtype=np.float64)),
        }

    def _faces(self, images: np.ndarray) -> Tensor:
        seen = np.ascontiguousarray(images[:, :, ::-1]) if self._mirrored else images
        return to_images(seen, self._resolution, self._device)


def _batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _put(arrays: dict[str, np.ndarray], rows: np.ndarray, found: Inversion) -> None:
    for name in FOUND:
        arrays[name][rows] = getattr(found, name)


class InvertStage(Stage):
    """Faces to latents."""

    name = "invert"
    unit = "faces"
    reads: ClassVar[tuple[str, ...]] = ("ingest", "began")
    writes: ClassVar[tuple[str, ...]] = ("latents.zarr/latents", "invert")
    group: ClassVar[str] = "latents"
    mirrored: ClassVar[bool] = False  # the mirror images of the faces are inverted

    def settings(self, job: Job) -> dict[str, Any]:
        """Return the settings that decide the latents."""
        section = job.spec.invert
        assert section is not None
        found = section.model_dump(exclude={"workers", "batch", "generator", "photos"})
        if not RECIPES[section.recipe].needs_surrogate:
            del found["surrogate"]
        if section.generator is not None:  # raises for weights that do not fit
            resolution = job.spec.ingest.resolution if job.spec.ingest else None
            job.generator(section.generator).check_resolution(resolution)
        if section.photos is not None:
            RunDirectory(section.photos).identity("ingest")  # raises if there are no faces
        return {"seed": job.spec.seed, **found}

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identities of the faces and of the generator."""
        photos_run = _photos_run(job)
        photos = groups.open_group(photos_run.latents, "photos")
        generator = _generator(job)
        generator.check_resolution(groups.lengths(photos)["R"])  # raises for weights that don't fit
        return {"photos": photos_run.identity("ingest"), "generator": generator.digest}

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section, run = job.spec.invert, job.run
        assert section is not None
        photos_run, generator = _photos_run(job), _generator(job)
        photos = groups.open_group(photos_run.latents, "photos")
        groups.create_group_of(photos, run.latents, self.group, Z=generator.network.latent_dim)
        device = cluster.device(job.spec.device)
        found = {**job.settings(self), "precision": _precision(section.precision, device, run)}
        learns = RECIPES[section.recipe].needs_surrogate
        trained = surrogate.train(job, section.surrogate, generator) if learns else None
        worker = functools.partial(
            InvertWorker,
            photos=photos_run.latents,
            store=run.latents,
            markers=run.markers(self.name),
            generator=generator.path,
            group=self.group,
            mirrored=self.mirrored,
            search=Search.of(found),
            batch=section.batch,
            retry=section.retry,
            surrogate_folder=trained,
            device=device,
        )
        return finish_shards(
            self,
            job,
            groups.plan(photos),
            worker,
            workers=cluster.gpu_workers(section.workers, job.spec.device),
            upstream=[shards.done(photos_run.markers("ingest"))],
            in_flight=2,  # one shard is read or written while the other is computed
        )

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        section, photos = job.spec.invert, job.photos
        assert section is not None
        network = sizes.generator(job, section.generator)
        row_bytes = None if network is None else network.latent_dim * 4 + 9
        retry = section.retry
        again = f", the worst {retry.worst:.3%} from {retry.starts} starts" if retry else ""
        work = sizes.in_shards(photos.count, photos.shard_rows, row_bytes)
        work += f", {section.recipe}, {section.steps} steps{again}"
        if network is None or photos.count is None:
            return Plan(work, photos.count)
        # A step is G forward and its gradient by z, which takes as long again.
        operations = photos.count * _steps_of_a_face(section) * 2 * sizes.generator_flops(network)
        return Plan(work, photos.count, operations / INVERSION_FLOPS)

    def measure(self, job: Job, device: str) -> float | None:
        """Time the inversion of faces that the generator itself made."""
        section = job.spec.invert
        assert section is not None
        assert section.steps is not None
        network = sizes.generator(job, section.generator)
        if network is None:
            return None
        model = latent_model(network.to(device))
        rows = range(section.batch if device == "cuda" else 4)
        z = torch.from_numpy(model.prior.draw(0, rows, model.latent_dim, stream="measure"))
        with torch.no_grad():
            shown = model(z.to(device))
        untrained = Surrogate(  # an untrained surrogate takes as long as a trained one
            latent_dim=model.latent_dim,
            thumbnail=thumbnails(shown).shape[1],
            width=section.surrogate.width,
        )
        steps = min(section.steps, MEASURED_STEPS)
        found = {**job.settings(self), "precision": _precision_on(section.precision, device)}
        inverter = Inverter(model, Search.of(found), untrained)

        def some() -> int:
            inverter(shown, rows, steps=steps)
            return len(rows)

        return rates.rate(some) * steps / _steps_of_a_face(section)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the latents, and the surrogate if the recipe needs one."""
        recipe = RECIPES.get(record.settings.get("recipe", ""))  # None: a recipe of another version
        learns = recipe is not None and recipe.needs_surrogate
        yield from check_networks([run.surrogate], expected=learns and record.finished)
        yield from check_group(run, self.name, self.group)


def _steps_of_a_face(section: Invert) -> float:
    """Return the mean number of generator steps of a face."""
    retry = section.retry
    assert section.steps is not None  # the spec fills in a missing number
    if retry is None:
        return section.steps
    assert retry.steps is not None
    return section.steps + retry.worst * retry.starts * retry.steps


def _precision(asked: str, device: str, run: RunDirectory) -> str:
    """Return the precision of the run, and record the precision.

    A resumed run keeps the precision that `auto` stood for in the first run.
    """
    record = run.record("invert")
    assert record is not None
    found = record.precision if asked == "auto" and record.precision else asked
    found = _precision_on(found, device)
    run.note("invert", precision=found)
    return found


def _precision_on(asked: str, device: str) -> str:
    """Return the precision for a device: `auto` is fp32 on a CPU and bf16 on a GPU."""
    if asked != "auto":
        return asked
    return "fp32" if device == "cpu" else "bf16"


def _generator(job: Job) -> weights.LoadedGenerator:
    assert job.spec.invert is not None
    return job.generator(weights.generator_path(job.run, job.spec.invert.generator))


def _photos_run(job: Job) -> RunDirectory:
    assert job.spec.invert is not None
    return job.run if job.spec.invert.photos is None else RunDirectory(job.spec.invert.photos)


STAGE = InvertStage()
