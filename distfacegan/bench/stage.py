"""`distfacegan bench stage`: the rate of the whole invert stage against that of its bare core.

The stage reads faces from a Zarr store, inverts them in Ray workers, and writes latents and
markers; the core inverts faces that lie in memory, on the same kind of device, with one thread as
a worker has. Both compute in single precision.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distfacegan import pipeline
from distfacegan.bench import subjects
from distfacegan.core.inversion import Inverter
from distfacegan.core.latent_model import latent_model
from distfacegan.core.networks import Generator
from distfacegan.core.pixels import to_faces, to_images
from distfacegan.core.search import Search
from distfacegan.core.seeding import uniform_latents
from distfacegan.errors import DistfaceganError
from distfacegan.spec import JobSpec
from distfacegan.stages import invert as invert_stage
from distfacegan.stages.stage import Job
from distfacegan.store import latents, networks, shards
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

SHARD_ROWS = 512
CORE_SHARDS = 4  # that the core inverts before the stage, and again after it


def measure(rows: int, workers: int) -> dict[str, Any]:
    """Invert `rows` faces of a small generator's own in a job of its own, and time it."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        generator = Generator(
            resolution=subjects.RESOLUTION,
            latent_dim=64,
            width=subjects.WIDTH,
            levels=subjects.LEVELS,
        )
        path = Path(folder, "generator")
        networks.save(path, {"generator": generator.state_dict()}, {})
        photos = RunDirectory(Path(folder, "photos"))
        images = _fill(photos, generator, rows)
        spec = JobSpec.model_validate(
            {
                "name": "bench",
                "run": Path(folder, "run"),
                "invert": {
                    "recipe": "bfgs",
                    "precision": "fp32",
                    "generator": path,
                    "photos": photos.root,
                    "workers": workers,
                },
            }
        )
        core = [_core_rate(spec, generator, images)]
        began = time.time()
        if pipeline.run(spec):
            raise DistfaceganError("the stage set shards aside: there is no rate")
        ended = time.time()
        core.append(_core_rate(spec, generator, images))
        markers = shards.read_markers(RunDirectory(spec.run).markers("invert"))
    # The first shard of a worker begins before the first marker, by its own seconds.
    first = min(marker.written - marker.seconds for marker in markers)
    rate = rows / (max(marker.written for marker in markers) - first)
    return {
        "rows": rows,
        "workers": workers,
        "core_faces_per_s": statistics.mean(core),
        "stage_faces_per_s": rate,
        "share_of_core": rate / (workers * statistics.mean(core)),
        "start_s": first - began,
        "end_s": ended - max(marker.written for marker in markers),
    }


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text."""
    return (
        f"{result['rows']} rows, {result['workers']} workers: {result['stage_faces_per_s']:.1f} "
        f"faces/s, {result['share_of_core']:.1%} of as many bare cores, of "
        f"{result['core_faces_per_s']:.1f} faces/s each; {result['start_s']:.1f} s until the "
        f"first shard began, {result['end_s']:.1f} s after the last was written"
    )


def _fill(run: RunDirectory, generator: Generator, rows: int) -> np.ndarray:
    """Write G's own faces as an ingest would; return the pixels of the first shards."""
    run.begin("ingest", {}, {})
    group = latents.create_group(
        run.latents, "photos", num_rows=rows, shard_rows=SHARD_ROWS, R=generator.resolution
    )
    first = []
    for shard in latents.plan(group):
        z = uniform_latents(0, shard.rows, generator.latent_dim, stream="bench")
        arrays = latents.blank(group, len(shard))
        with torch.no_grad():
            arrays["image"][:] = to_faces(generator(torch.from_numpy(z)))
        arrays["status"][:] = Status.OK
        latents.commit(group, run.markers("ingest"), shard, arrays, time.time())
        if shard.index < CORE_SHARDS:
            first.append(arrays["image"])
    return np.concatenate(first)


def _core_rate(spec: JobSpec, generator: Generator, images: np.ndarray) -> float:
    """Return the faces per second of the bare core: the median over shards."""
    threads, decided = torch.get_num_threads(), invert_stage.STAGE.settings(Job(spec))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = latent_model(copy.deepcopy(generator).to(device))
    invert = Inverter(model, Search.of(decided))
    assert spec.invert is not None
    torch.set_num_threads(1)
    rates = []
    for part in np.split(images, range(SHARD_ROWS, len(images), SHARD_ROWS)):
        started = time.perf_counter()
        for first in range(0, len(part), spec.invert.batch):
            some = to_images(part[first : first + spec.invert.batch], generator.resolution, device)
            invert(some, range(len(some)))
        rates.append(len(part) / (time.perf_counter() - started))
    torch.set_num_threads(threads)
    return statistics.median(rates)
