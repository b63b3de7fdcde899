"""`distfacegan bench stage`: the rate of the whole invert stage against that of its bare core.

The stage reads faces from a Zarr store, inverts them in Ray workers, and writes latents and
markers. The core inverts faces that lie in memory, on the same kind of device, with one thread as
a worker has. Both compute in single precision.
"""

from __future__ import annotations

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
from distfacegan.core.latent_model import LatentModel, latent_model
from distfacegan.core.networks import Generator
from distfacegan.core.pixels import to_faces, to_images
from distfacegan.core.search import Search
from distfacegan.errors import DistfaceganError
from distfacegan.spec import JobSpec
from distfacegan.store import groups, shards, weight_files
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

SHARD_ROWS, BATCH = 512, 256
CORE_SHARDS = 4  # that the core inverts before the stage, and again after it
SEARCH = {"recipe": "bfgs", "steps": 20, "precision": "fp32"}


def measure(rows: int, workers: int) -> dict[str, Any]:
    """Invert `rows` faces of a small generator's own in a job of its own, and time it."""
    torch.manual_seed(0)
    generator = Generator(**subjects.SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        path, photos = Path(folder, "generator"), RunDirectory(Path(folder, "photos"))
        weight_files.save(path, {"generator": generator.state_dict()}, {})
        images = _fill(photos, latent_model(generator), rows)
        section = {**SEARCH, "generator": path, "photos": photos.root}
        section |= {"workers": workers, "batch": BATCH}
        spec = JobSpec.model_validate(
            {"name": "bench", "run": Path(folder, "run"), "invert": section}
        )
        core = [_core_rate(generator, images)]
        began = time.time()
        if pipeline.run(spec):
            raise DistfaceganError("the stage set shards aside: there is no rate")
        ended = time.time()
        core.append(_core_rate(generator, images))
        markers = list(shards.read_markers(RunDirectory(spec.run).markers("invert")))
    # The markers say when a shard was written, and how long it took.
    first = min(marker.written - marker.seconds for marker in markers)
    last = max(marker.written for marker in markers)
    rate = rows / (last - first)
    return {
        "rows": rows,
        "workers": workers,
        "core_faces_per_s": statistics.mean(core),
        "stage_faces_per_s": rate,
        "share_of_core": rate / (workers * statistics.mean(core)),
        "start_s": first - began,
        "end_s": ended - last,
    }


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text."""
    return (
        f"{result['rows']} rows, {result['workers']} workers: {result['stage_faces_per_s']:.1f} "
        f"faces/s, {result['share_of_core']:.1%} of as many bare cores, of "
        f"{result['core_faces_per_s']:.1f} faces/s each; {result['start_s']:.1f} s until the "
        f"first shard began, {result['end_s']:.1f} s after the last was written"
    )


def _fill(run: RunDirectory, model: LatentModel, rows: int) -> np.ndarray:
    """Write G's own faces as an ingest would; return the pixels of the first shards."""
    run.begin("ingest", {}, {})
    group = groups.create_group(
        run.latents, "photos", num_rows=rows, shard_rows=SHARD_ROWS, R=model.resolution
    )
    first = []
    for shard in groups.plan(group):
        z = model.prior.draw(0, shard.rows, model.latent_dim, stream="bench")
        arrays = groups.blank(group, len(shard))
        with torch.no_grad():
            arrays["image"][:] = to_faces(model(torch.from_numpy(z)))
        arrays["status"][:] = Status.OK
        groups.commit(group, run.markers("ingest"), shard, arrays, time.time())
        if shard.index < CORE_SHARDS:
            first.append(arrays["image"])
    return np.concatenate(first)


def _core_rate(generator: Generator, images: np.ndarray) -> float:
    """Return the faces per second of the bare core: the median over batches."""
    threads, device = torch.get_num_threads(), "cuda" if torch.cuda.is_available() else "cpu"
    model = latent_model(generator.to(device))
    invert, rates = Inverter(model, Search.of(SEARCH)), []
    torch.set_num_threads(1)
    for part in np.split(images, range(BATCH, len(images), BATCH)):
        started = time.perf_counter()
        invert(to_images(part, model.resolution, device), range(len(part)))
        rates.append(len(part) / (time.perf_counter() - started))
    torch.set_num_threads(threads)
    return statistics.median(rates)
