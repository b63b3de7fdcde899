"""New faces with landmarks: G(z) and L-Gen(z), in shards of an export format."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distfacegan import weights
from distfacegan.core.labelling import Labelling
from distfacegan.core.pixels import to_faces
from distfacegan.core.quality import Fault
from distfacegan.core.seeding import uniform_latents
from distfacegan.errors import RunDirectoryError
from distfacegan.spec import JobSpec, Synthesize
from distfacegan.stages import cluster, dataset_facts, landmarks, rates, sizes
from distfacegan.stages.sample_maker import BLOCK, Recipe, SampleMaker, check
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import dataset, files, shards, thumbnails
from distfacegan.store.exports import ExportFormat, Sample
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_sealed, check_shard_files

GENERATION_FLOPS = 2.6e14  # operations a second of one H200, a guess for the plan

STATUS_OF = {
    Fault.NONE: Status.OK,
    Fault.FLAT: Status.FLAT,
    Fault.SATURATED: Status.SATURATED,
    Fault.UNCERTAIN: Status.UNCERTAIN,
    Fault.LABELS_DISAGREE: Status.LABELS_DISAGREE,
    Fault.DUPLICATE: Status.DUPLICATE,
    Fault.NEAR_PHOTO: Status.NEAR_PHOTO,
}
IN_FLIGHT = 3  # of three shards, one is computed, the others are encoded or written


class SynthesizeWorker:
    """Makes the samples of shards and writes their files. A plain class: tests use it without Ray.

    `run` may be called from several threads at once: one computes while the others encode and
    write.
    """

    def __init__(
        self,
        folder: Location,
        markers: Location,
        recipe: Recipe,
        *,
        export: ExportFormat,
        device: str = "cpu",
    ) -> None:
        """Load the networks."""
        torch.set_num_threads(1)  # the number of threads changes how sums are rounded
        self._folder, self._markers, self._export = folder, markers, export
        self._maker = SampleMaker(recipe, device)
        self._computing = threading.Lock()

    def run(self, shard: Shard) -> ShardStats:
        """Generate the samples of one shard and write its files."""
        with self._computing:
            started = time.time()
            made = self._maker.samples(shard)
        fit = [sample for sample, fault in made if not fault]
        packed = dict(self._export.pack(shard.index, fit))
        packed |= dict(thumbnails.pack(shard.index, fit))
        done = shards.marker(self._markers, shard)
        if done is not None:
            return done  # another worker took the shard over and finished first
        for name, data in packed.items():
            files.write_bytes(self._folder / name, data)
        return shards.mark_done(
            self._markers,
            shard,
            statuses=shards.count_statuses(np.array([STATUS_OF[fault] for _, fault in made])),
            digests={name: files.digest(data) for name, data in packed.items()},
            started=started,
        )


class SynthesizeStage(Stage):
    """Latents to new faces with landmarks."""

    name = "synthesize"
    unit = "faces"
    reads = ("began", "invert", "mirror", "lgen")
    writes = ("synthetic",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return the settings that decide the samples."""
        section = job.spec.synthesize
        assert section is not None
        if section.generator is not None:
            job.generator(section.generator)  # raises for bad weights before any stage runs
        if section.lgen is not None:
            weights.digest(section.lgen, weights.LGEN)
        found = section.model_dump(exclude={"workers", "generator", "lgen"})
        found["sampler"] = _sampler_settings(section)
        if section.labels != "lgen":
            assert job.spec.landmarks is not None
            found["labelling"] = landmarks.labelling_settings(job.spec.landmarks)
        return {"seed": job.spec.seed, **found}

    def unrecorded(self, spec: JobSpec) -> dict[str, Any]:
        """Return, for settings that old records lack, the values that old versions worked with."""
        labelling = spec.landmarks.unrecorded() if spec.landmarks else {}
        return super().unrecorded(spec) | {"labelling": labelling}

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the digests of the networks."""
        generator, lgen = _networks(job)
        # Raises if the weights do not fit together.
        weights.load_lgen(lgen, generator.network.latent_dim, generator.digest)
        found = {"generator": generator.digest, "lgen": weights.digest(lgen, weights.LGEN)}
        assert job.spec.synthesize is not None
        sampler = job.spec.synthesize.sampler
        if sampler.uses:
            found["latents"] = job.run.identity("invert")
            inverted = job.run.record("invert")
            if inverted is not None and inverted.inputs["generator"] != generator.digest:
                raise RunDirectoryError(
                    f"{job.run.root}: the photos were inverted with the generator "
                    f"{inverted.inputs['generator']}, synthesize has the generator "
                    f"{generator.digest}. The sampler {sampler.kind} needs the same one"
                )
        return found | sampler.inputs()

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section, run = job.spec.synthesize, job.run
        assert section is not None
        generator, lgen = _networks(job)
        weights.warn_if_unowned(lgen, generator.digest)
        recipe = recipe_of(job)
        check(recipe, generator)
        plan = shards.split(section.count, section.shard_rows)
        manifest = self._manifest(job, generator, lgen)
        dataset.write_manifest(run.synthetic, manifest, section.format)
        worker = functools.partial(
            SynthesizeWorker,
            folder=run.synthetic,
            markers=run.markers(self.name),
            recipe=recipe,
            export=section.format,
            device=cluster.device(job.spec.device),
        )
        workers = cluster.gpu_workers(section.workers, job.spec.device)
        outcome = finish_shards(self, job, plan, worker, workers=workers, in_flight=IN_FLIGHT)
        if not outcome.left:
            dataset.write_manifest(
                run.synthetic, manifest | dataset_facts.counts(run), section.format
            )
        return outcome

    def _manifest(
        self, job: Job, generator: weights.LoadedGenerator, lgen: Location
    ) -> dict[str, Any]:
        """Return what is known of the data set before it is made."""
        section, errors = job.spec.synthesize, weights.lgen_evaluation(lgen)
        assert section is not None
        return {
            "name": job.spec.name,
            "count": section.count,
            "shards": len(shards.split(section.count, section.shard_rows)),
            "shard_rows": section.shard_rows,
            "resolution": generator.network.resolution,
            "latent_dim": generator.network.latent_dim,
            "seed": job.spec.seed,
            **self.inputs(job),
            "nme": errors.nme if errors else "not measured",
            "nme_mean_shape": errors.nme_mean_shape if errors else "not measured",
            "labels": section.labels,
            "sampler": _sampler_settings(section),
            **dataset_facts.errors_on_fresh_faces(errors),
            **dataset_facts.about_photos(job.run),
        }

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        section = job.spec.synthesize
        assert section is not None
        network = sizes.generator(job, section.generator)
        if network is None:
            return Plan(sizes.in_shards(section.count, section.shard_rows, None), section.count)
        sample_bytes = section.format.sample_bytes(network.resolution)
        work = sizes.in_shards(section.count, section.shard_rows, sample_bytes)
        work += f" of {network.resolution}x{network.resolution}"
        seconds = section.count * sizes.generator_flops(network) / GENERATION_FLOPS
        return Plan(work, section.count, seconds)

    def measure(self, job: Job, device: str) -> float | None:
        """Time the generator and the encoding of its faces."""
        section = job.spec.synthesize
        assert section is not None
        network = sizes.generator(job, section.generator)
        if network is None:
            return None
        network.to(device)
        points = np.zeros((49, 2), np.float32)  # L-Gen is not timed: it is far faster than G
        count = BLOCK if device == "cuda" else 8
        z = uniform_latents(0, range(count), network.latent_dim, stream="synthesis")

        def some() -> int:
            with torch.inference_mode():
                made = to_faces(network(torch.from_numpy(z).to(device)))
            samples = (Sample(i, 0, z[i], face, points) for i, face in enumerate(made))
            list(section.format.pack(0, samples))
            return count

        return rates.rate(some)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the files of the shards."""
        plan = shards.split(record.settings["count"], record.settings["shard_rows"])
        yield from check_shard_files(run, self.name, plan, run.synthetic)
        manifest = dataset.manifest_path(run.synthetic)
        yield from check_sealed(manifest, expected=record.finished)


def _sampler_settings(section: Synthesize) -> dict[str, Any]:
    """Return the settings of the sampler. A file is known by its digest, which is an input."""
    own = dataclasses.asdict(section.sampler)  # type: ignore[call-overload]
    return {name: value for name, value in own.items() if not isinstance(value, Path)}


def recipe_of(job: Job) -> Recipe:
    """Return what decides the samples of a job."""
    section = job.spec.synthesize
    assert section is not None
    generator, lgen = _networks(job)
    return Recipe(
        generator=generator.path,
        lgen=lgen,
        seed=job.spec.seed,
        count=section.count,
        sampler=section.sampler,
        store=job.run.latents,
        labels=section.labels,
        labelling=_labelling(job),
        filter=section.filter,
        photos=_photos_to_avoid(job),
    )


def _photos_to_avoid(job: Job) -> Location | None:
    """Return the store of the photos that no face may be too near to; None if there is no bound."""
    assert job.spec.synthesize is not None
    bounds = job.spec.synthesize.filter
    if bounds is None or bounds.min_photo_distance == 0:
        return None
    inverts = job.spec.invert
    run = RunDirectory(inverts.photos) if inverts and inverts.photos else job.run
    run.identity("ingest")  # raises if there are no photos
    return run.latents


def _labelling(job: Job) -> Labelling | None:
    """Return the labelling of the samples by the detector; None if only L-Gen labels them."""
    assert job.spec.synthesize is not None
    if job.spec.synthesize.labels == "lgen":
        return None
    assert job.spec.landmarks is not None
    return landmarks.labelling(job.spec.landmarks)


def _networks(job: Job) -> tuple[weights.LoadedGenerator, Location]:
    section = job.spec.synthesize
    assert section is not None
    generator = job.generator(weights.generator_path(job.run, section.generator))
    return generator, weights.lgen_path(job.run, section.lgen)


STAGE = SynthesizeStage()
