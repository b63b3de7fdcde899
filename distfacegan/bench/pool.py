"""`distfacegan bench pool`: what the driver loop costs, and how much of the workers it uses.

The workers have pretended GPUs and compute nothing: a shard takes no time, or the time it is told.
"""

from __future__ import annotations

import functools
import heapq
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distfacegan.stages import cluster
from distfacegan.stages.pool import run_shards
from distfacegan.store import shards
from distfacegan.store.shards import Shard, ShardStats

SHARDS_EACH, SPREAD = 50, 0.3  # shards of a worker, and the deviation of the seconds they take
SLOWNESS = 10.0  # of one worker, where one is slow
RESOURCES = {"num_gpus": 1.0}


class PretendingWorker:
    """Takes `seconds` for each shard, if given; the first of `workers` is `slowness` times slower.

    The constructor waits until all workers are there, so that they begin together.
    """

    def __init__(
        self, folder: Path, workers: int, seconds: Sequence[float] = (), slowness: float = 1.0
    ) -> None:
        (folder / f"{os.getpid()}").touch()
        while len(there := list(folder.iterdir())) < workers:
            time.sleep(0.05)
        slow = os.getpid() == min(int(path.name) for path in there)
        self._seconds, self._slowness = seconds, slowness if slow else 1.0

    def run(self, shard: Shard) -> ShardStats:
        """Do nothing, for as long as told."""
        started = time.time()
        if self._seconds:
            time.sleep(self._seconds[shard.index] * self._slowness)
        now = time.time()
        return ShardStats(
            shard=shard.index,
            start=shard.start,
            stop=shard.stop,
            statuses={"ok": len(shard)},
            digests=dict.fromkeys(("z", "loss", "steps", "status"), "0" * 64),
            seconds=now - started,
            worker=f"bench:{os.getpid()}",
            written=now,
        )


def measure(num_shards: int, workers: int) -> dict[str, Any]:
    """Measure the loop with shards that take no time, then with shards that take a second."""
    with cluster.connect(num_gpus=workers, num_cpus=workers):
        before = _rss_mb()
        run = _run(num_shards, workers)
        result: dict[str, Any] = {
            "shards": num_shards,
            "workers": workers,
            "wall_ms": 1e3 * run["seconds"] / num_shards,
            "driver_ms": 1e3 * run["cpu"] / (num_shards - num_shards // 10),
            "rss_mb": [before, run["rss_mb"], _rss_mb()],
        }
        drawn = np.random.default_rng(0).normal(1.0, SPREAD, SHARDS_EACH * workers)
        seconds = drawn.clip(0.1).tolist()
        for name, slowness in (("even", 1.0), ("one_slow", SLOWNESS)):
            speeds = [1 / slowness] + [1.0] * (workers - 1)
            ideal = sum(seconds) / sum(speeds)
            took = _run(len(seconds), workers, seconds=seconds, slowness=slowness)["seconds"]
            result[name] = {
                "share_of_ideal": ideal / took,
                "share_without_take_over": ideal / _greedy(seconds, speeds),
            }
    return result


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text."""
    start, early, end = result["rss_mb"]
    lines = [
        f"{result['shards']} shards of no time, {result['workers']} workers: "
        f"{result['wall_ms']:.2f} ms a shard, {result['driver_ms']:.2f} ms of the driver's CPU",
        f"driver memory: {start:.0f} MB at the start, {early:.0f} after a tenth, {end:.0f} at the "
        "end",
    ]
    for name, words in (("even", "shards of 1 s"), ("one_slow", "the same, one worker slow")):
        lines.append(
            f"{words}: {result[name]['share_of_ideal']:.1%} of the ideal; without taking over, at "
            f"best {result[name]['share_without_take_over']:.1%}"
        )
    return "\n".join(lines)


def _run(num_shards: int, workers: int, **options: Any) -> dict[str, float]:
    """Run shards; return the seconds from the first start to the last end.

    Also the driver's memory after a tenth of the shards, and its CPU seconds from then on.
    """
    count, first, last = 0, np.inf, 0.0
    early: dict[str, float] = {}

    def on_done(stats: ShardStats) -> None:
        nonlocal count, first, last
        count, first, last = count + 1, min(first, stats.written - stats.seconds), time.time()
        if count == max(1, num_shards // 10):
            early.update(cpu=time.process_time(), rss_mb=_rss_mb())

    with tempfile.TemporaryDirectory() as folder:
        options |= {"folder": Path(folder), "workers": min(workers, num_shards)}
        run_shards(
            functools.partial(PretendingWorker, **options),
            shards.split(num_shards, 1),
            num_workers=workers,
            resources=RESOURCES,
            on_done=on_done,
        )
    cpu = time.process_time() - early["cpu"]
    return {"seconds": last - first, "cpu": cpu, "rss_mb": early["rss_mb"]}


def _greedy(seconds: Sequence[float], speeds: Sequence[float]) -> float:
    """Return the seconds that shards take where every worker takes the next one in turn."""
    free_at = [(0.0, speed) for speed in speeds]
    for took in seconds:
        at, speed = heapq.heappop(free_at)
        heapq.heappush(free_at, (at + took / speed, speed))
    return max(at for at, _ in free_at)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
