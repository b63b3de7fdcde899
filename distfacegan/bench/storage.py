"""`distfacegan bench store`: how quickly a folder or an object store takes and gives shards."""

from __future__ import annotations

import concurrent.futures
import statistics
import time
import uuid
from typing import Any

import numpy as np

from distfacegan.errors import DistfaceganError
from distfacegan.store import groups
from distfacegan.store.location import Location, remove_tree
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, Status

SHARD_ROWS, RESOLUTION = 512, 128
THREADS = (1, 2, 4)  # shards that are read or written at once
REPEATS = 3


def measure(location: Location, num_shards: int) -> dict[str, Any]:
    """Write and read shards of faces below `location`, which is left as it was.

    Returns MB/s of the pixels, for every number of shards at once: the median of three rounds.
    """
    run, rows = RunDirectory(location / f"bench-{uuid.uuid4().hex[:8]}"), num_shards * SHARD_ROWS
    try:
        group = groups.create_group(
            run.latents, "photos", num_rows=rows, shard_rows=SHARD_ROWS, R=RESOLUTION
        )
        arrays = groups.blank(group, SHARD_ROWS)
        arrays["image"][:] = _noise()
        arrays["status"][:] = Status.OK
        shard_mb = arrays["image"].nbytes / 1e6

        def write(shard: Shard) -> None:
            groups.commit(group, run.markers("ingest"), shard, arrays, time.time())

        def read(shard: Shard) -> None:
            if not np.array_equal(groups.read(group, "image", shard), arrays["image"]):
                raise DistfaceganError(f"{shard}: {location} does not give back what was written")

        rates: dict[str, dict[int, list[float]]] = {"write": {}, "read": {}}
        for _ in range(REPEATS):
            for threads in THREADS:
                remove_tree(run.markers("ingest"))  # what has a marker is not written again
                for name, work in (("write", write), ("read", read)):
                    started = time.perf_counter()
                    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                        list(pool.map(work, groups.plan(group)))
                    rate = num_shards * shard_mb / (time.perf_counter() - started)
                    rates[name].setdefault(threads, []).append(rate)
    finally:
        remove_tree(run.root)
    medians = {
        f"{name}_mb_per_s": {threads: statistics.median(found) for threads, found in each.items()}
        for name, each in rates.items()
    }
    return {"location": str(location), "shards": num_shards, "shard_mb": shard_mb, **medians}


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text."""
    lines = [f"{result['location']}: {result['shards']} shards of {result['shard_mb']:.1f} MB"]
    for threads, read in result["read_mb_per_s"].items():
        faces = read * 1e6 / (RESOLUTION * RESOLUTION * 3)
        lines.append(
            f"  {threads} at once: writes {result['write_mb_per_s'][threads]:.0f} MB/s, reads "
            f"{read:.0f} MB/s ({faces:,.0f} faces/s of {RESOLUTION} px)"
        )
    return "\n".join(lines)


def _noise() -> np.ndarray:
    """Return smooth noise, u8 [512, 128, 128, 3], which compresses about as well as photos."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (SHARD_ROWS, 16, 16, 3), np.uint8)
    fine = rng.integers(0, 24, (SHARD_ROWS, RESOLUTION, RESOLUTION, 3), np.uint8)
    return coarse.repeat(RESOLUTION // 16, axis=1).repeat(RESOLUTION // 16, axis=2) + fine
