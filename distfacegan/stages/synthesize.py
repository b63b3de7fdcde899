"""New faces with landmarks: G(z) and L-Gen(z) for uniform z; into WebDataset shards."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from distfacegan import weights
from distfacegan.core.pixels import to_faces
from distfacegan.core.seeding import uniform_latents
from distfacegan.stages import cluster, sizes
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store import dataset, files, shards
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status
from distfacegan.store.verification import Finding, check_present, check_shard_files

BATCH = 250  # faces generated together
JPEG_BITS_PER_PIXEL = 3.0  # of a face at quality 95
LABEL_BYTES = 2000  # of a sample's labels
GENERATION_FLOPS = 2.6e14  # a second of one H200, for the plan: a guess


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
        jpeg_quality: int,
        device: str = "cpu",
    ) -> None:
        torch.set_num_threads(1)  # the order of a sum depends on it
        self._folder, self._markers, self._device = folder, markers, device
        self._seed, self._jpeg_quality = seed, jpeg_quality
        self._generator = weights.load_generator(generator).to(device)
        self._lgen = weights.load_lgen(lgen, self._generator.latent_dim).to(device)

    def run(self, shard: Shard) -> ShardStats:
        """Generate the samples of one shard and write its tar file."""
        started = time.time()
        path = dataset.shard_path(self._folder, shard.index)
        data = dataset.pack(self._samples(shard), self._jpeg_quality)
        made = shards.marker(self._markers, shard)
        if made is not None:
            return made  # another worker took it over, and was first
        files.write_bytes(path, data)
        return shards.mark_done(
            self._markers,
            shard,
            statuses={Status.OK.label: len(shard)},
            digests={path.name: files.digest(data)},
            started=started,
        )

    def _samples(self, shard: Shard) -> Iterator[tuple[int, np.ndarray, dict[str, Any]]]:
        for rows in np.split(shard.rows, range(BATCH, len(shard), BATCH)):
            z = uniform_latents(self._seed, rows, self._generator.latent_dim, stream="synthesis")
            with torch.inference_mode():
                on_device = torch.from_numpy(z).to(self._device)
                faces = to_faces(self._generator(on_device))
                points = self._lgen(on_device).reshape(-1, 49, 2).cpu().numpy()
            for i, row in enumerate(rows):
                yield int(row), faces[i], self._labels(int(row), z[i], points[i])

    def _labels(self, row: int, z: np.ndarray, points: np.ndarray) -> dict[str, Any]:
        side = self._generator.resolution
        return {
            "index": row,
            "seed": self._seed,
            "landmarks": [[round(float(v), 6) for v in point] for point in points],
            "landmarks_px": [[round(float(v) * side, 3) for v in point] for point in points],
            "z": [float(v) for v in z],
        }


class SynthesizeStage(Stage):
    """Latents to new faces with landmarks."""

    name = "synthesize"
    unit = "faces"
    reads = ("began", "lgen")
    writes = ("synthetic",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return what decides the samples."""
        section = job.spec.synthesize
        assert section is not None
        if section.generator is not None:
            job.generator(section.generator)  # bad weights are said here
        if section.lgen is not None:
            weights.digest(section.lgen, weights.LGEN)
        found = section.model_dump(exclude={"workers", "generator", "lgen"})
        return {"seed": job.spec.seed, **found}

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the digests of the networks."""
        generator, lgen = _networks(job)
        weights.load_lgen(lgen, generator.network.latent_dim)  # a misfit is said here
        return {"generator": generator.digest, "lgen": weights.digest(lgen, weights.LGEN)}

    def execute(self, job: Job) -> Outcome:
        """Finish the stage."""
        section, run = job.spec.synthesize, job.run
        assert section is not None
        generator, lgen = _networks(job)
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
            "nme": errors.get("nme", "not measured"),
            "nme_mean_shape": errors.get("nme_mean_shape", "not measured"),
        }
        dataset.write_manifest(run.synthetic, manifest)
        worker = functools.partial(
            SynthesizeWorker,
            folder=run.synthetic,
            markers=run.markers(self.name),
            generator=generator.path,
            lgen=lgen,
            seed=job.spec.seed,
            jpeg_quality=section.jpeg_quality,
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
        sample_bytes = network.resolution**2 * JPEG_BITS_PER_PIXEL / 8 + LABEL_BYTES
        work = sizes.in_shards(section.count, section.shard_rows, sample_bytes)
        work += f" of {network.resolution}x{network.resolution}"
        seconds = section.count * sizes.generator_flops(network) / GENERATION_FLOPS
        return Plan(work, section.count, seconds)

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the files of the shards."""
        plan = shards.split(record.settings["count"], record.settings["shard_rows"])
        path_of = functools.partial(dataset.shard_path, run.synthetic)
        yield from check_shard_files(run, self.name, plan, path_of)
        if record.finished:
            yield from check_present([run.synthetic / "manifest.json"])


def _networks(job: Job) -> tuple[weights.LoadedGenerator, Location]:
    section = job.spec.synthesize
    assert section is not None
    generator = job.generator(weights.generator_path(job.run, section.generator))
    return generator, weights.lgen_path(job.run, section.lgen)


STAGE = SynthesizeStage()
