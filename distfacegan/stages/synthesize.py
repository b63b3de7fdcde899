"""New faces with landmarks: G(z) and L-Gen(z) of uniform z, in shards of an export format."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from distfacegan import weights
from distfacegan.core import uncertainty
from distfacegan.core.labelling import Labelling
from distfacegan.core.landmarks import eye_distance
from distfacegan.core.lgen import Evaluation
from distfacegan.core.pixels import to_faces
from distfacegan.core.seeding import uniform_latents
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster, landmarks, rates, sizes
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import dataset, files, shards
from distfacegan.store.exports import ExportFormat, Sample
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_present, check_shard_files

# Samples are computed in whole blocks of BLOCK indices, even if a shard needs only a part of a
# block. The last digits of G(z) can depend on the batch. With blocks a sample does not depend on
# the size of the shards.
BLOCK = 100
GENERATION_FLOPS = 2.6e14  # operations a second of one H200, a guess for the plan


class SynthesizeWorker:
    """Holds G and L-Gen on one device. A plain class: tests use it without Ray."""

    def __init__(
        self,
        folder: Location,
        markers: Location,
        generator: Location,
        lgen: Location,
        *,
        seed: int,
        export: ExportFormat,
        labels: str = "lgen",
        labelling: Labelling | None = None,
        device: str = "cpu",
    ) -> None:
        """Load the networks; labels other than `lgen` need the `labelling` of a detector."""
        torch.set_num_threads(1)  # the number of threads changes how sums are rounded
        self._folder, self._markers, self._device = folder, markers, device
        self._seed, self._export = seed, export
        loaded = weights.open_generator(generator)
        self._generator = loaded.network.to(device)
        latent_dim = self._generator.latent_dim
        maker = weights.load_label_maker(lgen, latent_dim, loaded.digest)
        self._lgen, self._others = maker.lgen.to(device), [each.to(device) for each in maker.others]
        self._labels, self._reliability = labels, maker.reliability.get(labels)
        self._labeller = labelling.make(device) if labelling else None

    def run(self, shard: Shard) -> ShardStats:
        """Generate the samples of one shard and write its files."""
        started = time.time()
        packed = dict(self._export.pack(shard.index, self._samples(shard)))
        made = shards.marker(self._markers, shard)
        if made is not None:
            return made  # another worker took the shard over and finished first
        for name, data in packed.items():
            files.write_bytes(self._folder / name, data)
        return shards.mark_done(
            self._markers,
            shard,
            statuses={Status.OK.label: len(shard)},
            digests={name: files.digest(data) for name, data in packed.items()},
            started=started,
        )

    def _samples(self, shard: Shard) -> Iterator[Sample]:
        for block in range(shard.start // BLOCK, -(-shard.stop // BLOCK)):
            for sample in self._block(block):
                if shard.start <= sample.index < shard.stop:
                    yield sample

    def _block(self, number: int) -> Iterator[Sample]:
        """Compute the samples BLOCK * number to BLOCK * (number + 1) - 1."""
        indices = range(BLOCK * number, BLOCK * (number + 1))
        z = uniform_latents(self._seed, indices, self._generator.latent_dim, stream="synthesis")
        with torch.inference_mode():
            on_device = torch.from_numpy(z).to(self._device)
            faces = to_faces(self._generator(on_device))
            own = self._lgen(on_device).cpu().numpy()
            others = [network(on_device).cpu().numpy() for network in self._others]
        points, detected = own, None
        if self._labeller is not None:
            found = self._labeller(faces)
            detected = np.where(found.trusted[:, None, None], found.points, own)
            points = detected if self._labels == "detector" else (own + detected) / 2
        expected = self._expected_errors(own, others, detected)
        for i, index in enumerate(indices):
            uncertain = None if expected is None else expected[i]
            yield Sample(index, self._seed, z[i], faces[i], points[i], uncertain)

    def _expected_errors(
        self, own: np.ndarray, others: list[np.ndarray], detected: np.ndarray | None
    ) -> np.ndarray | None:
        """Return the expected error of each landmark, f32 [B, 49] in sides; None if not known."""
        if self._reliability is None:
            return None
        signs = {"spread": uncertainty.spread(np.stack([own, *others]))}
        if detected is not None:
            signs["disagreement"] = uncertainty.disagreement(own, detected)
        known = np.stack([signs[name] for name in self._reliability.signs], axis=-1)
        return self._reliability.expect(known) * eye_distance(own)[:, None]


class SynthesizeStage(Stage):
    """Latents to new faces with landmarks."""

    name = "synthesize"
    unit = "faces"
    reads = ("began", "lgen")
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
        return {"generator": generator.digest, "lgen": weights.digest(lgen, weights.LGEN)}

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section, run = job.spec.synthesize, job.run
        assert section is not None
        generator, lgen = _networks(job)
        weights.warn_if_unowned(lgen, generator.digest)
        plan = shards.split(section.count, section.shard_rows)
        errors = weights.lgen_evaluation(lgen)
        manifest = {
            "name": job.spec.name,
            "count": section.count,
            "shards": len(plan),
            "shard_rows": section.shard_rows,
            "resolution": generator.network.resolution,
            "latent_dim": generator.network.latent_dim,
            "seed": job.spec.seed,
            **self.inputs(job),
            "nme": errors.nme if errors else "not measured",
            "nme_mean_shape": errors.nme_mean_shape if errors else "not measured",
            "labels": section.labels,
            **_fresh_errors(errors),
        }
        dataset.write_manifest(run.synthetic, manifest, section.format)
        worker = functools.partial(
            SynthesizeWorker,
            folder=run.synthetic,
            markers=run.markers(self.name),
            generator=generator.path,
            lgen=lgen,
            seed=job.spec.seed,
            export=section.format,
            labels=section.labels,
            labelling=_labelling(job),
            device=cluster.device(job.spec.device),
        )
        workers = cluster.gpu_workers(section.workers, job.spec.device)
        return finish_shards(self, job, plan, worker, workers=workers)

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
        if record.finished:
            yield from check_present([dataset.manifest_path(run.synthetic)])


def _labelling(job: Job) -> Labelling | None:
    """Return the labelling of the samples by the detector; None if only L-Gen labels them."""
    assert job.spec.synthesize is not None
    if job.spec.synthesize.labels == "lgen":
        return None
    assert job.spec.landmarks is not None
    return landmarks.labelling(job.spec.landmarks)


def _fresh_errors(errors: Evaluation | None) -> dict[str, float | None]:
    """Return L-Gen's errors on generated faces, for the manifest."""
    fresh = errors.fresh if errors else None
    if fresh is None:
        return {}
    return {"nme_generated": fresh.nme, "nme_generated_mean_shape": fresh.nme_mean_shape}


def _networks(job: Job) -> tuple[weights.LoadedGenerator, Location]:
    section = job.spec.synthesize
    assert section is not None
    generator = job.generator(weights.generator_path(job.run, section.generator))
    return generator, weights.lgen_path(job.run, section.lgen)


STAGE = SynthesizeStage()
