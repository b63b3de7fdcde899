"""New faces with landmarks: G(z) and L-Gen(z) for uniform z; into WebDataset shards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from distfacegan import weights
from distfacegan.core.pixels import to_faces
from distfacegan.core.seeding import uniform_latents
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster
from distfacegan.stages.outcome import Outcome
from distfacegan.stages.sharded import run_stage
from distfacegan.store import dataset, files, shards
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats, Status

BATCH = 250  # faces generated together


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


def settings(spec: JobSpec) -> dict[str, Any]:
    """Return what decides the samples: compared when a run is resumed."""
    section = spec.synthesize
    assert section is not None
    if section.generator is not None:
        weights.load_generator(section.generator)  # bad weights are said here
    if section.lgen is not None:
        weights.digest(section.lgen, weights.LGEN)
    decided = section.model_dump(exclude={"workers", "generator", "lgen"})
    return {"seed": spec.seed, **decided}


def inputs(spec: JobSpec, run: RunDirectory) -> dict[str, str]:
    """Return the digests of the networks."""
    generator, lgen = _networks(spec, run)
    weights.load_lgen(lgen, weights.load_generator(generator).latent_dim)  # a misfit is said here
    return {
        "generator": weights.digest(generator, weights.GENERATOR),
        "lgen": weights.digest(lgen, weights.LGEN),
    }


def execute(spec: JobSpec, run: RunDirectory) -> Outcome:
    """Finish the stage."""
    section = spec.synthesize
    assert section is not None
    generator_path, lgen_path = _networks(spec, run)
    generator = weights.load_generator(generator_path)
    plan = shards.split(section.count, section.shard_rows)
    errors = weights.lgen_evaluation(lgen_path)
    manifest = {
        "name": spec.name,
        "count": section.count,
        "shards": len(plan),
        "shard_rows": section.shard_rows,
        "resolution": generator.resolution,
        "latent_dim": generator.latent_dim,
        "seed": spec.seed,
        **inputs(spec, run),
        "nme": errors.get("nme", "not measured"),
        "nme_mean_shape": errors.get("nme_mean_shape", "not measured"),
    }
    dataset.write_manifest(run.synthetic, manifest)
    return run_stage(
        run,
        "synthesize",
        plan,
        SynthesizeWorker,
        {
            "folder": run.synthetic,
            "markers": run.markers("synthesize"),
            "generator": generator_path,
            "lgen": lgen_path,
            "seed": spec.seed,
            "jpeg_quality": section.jpeg_quality,
            "device": cluster.device(spec.device),
        },
        workers=cluster.gpu_workers(section.workers, spec.device),
        unit="faces",
    )


def _networks(spec: JobSpec, run: RunDirectory) -> tuple[Location, Location]:
    section = spec.synthesize
    assert section is not None
    generator = weights.generator_path(run, section.generator)
    return generator, weights.lgen_path(run, section.lgen)
