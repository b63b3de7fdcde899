"""The metrics of a job for Prometheus, served at the endpoint of each Ray node's own metrics.

The driver records all metrics, from the results that it gets anyway; the workers record none. Ray
adds `ray_` before every name. Values that are recorded outside a cluster, or in a cluster without
metrics, are lost.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from typing import Any

import yaml
from ray.util.metrics import Counter, Gauge, Histogram

from distfacegan.store.metrics import MetricsLine
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import ShardStats

PREFIX = "distfacegan_"
# The tag is not named `job`: Prometheus gives every series its own label `job`, and would rename a
# tag of this name.
TAGS = ("job_name", "stage")
REFRESH_S = 5.0  # Ray 2.60 drops a gauge that has not been set for 20 s
SHARD_SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600]
_SECONDS = functools.partial(Histogram, boundaries=SHARD_SECONDS)

# Name: kind, description, tags besides TAGS. A tag must have few values, so no shard, host or path.
METRICS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "rows_total": (Counter, "Rows done, by their status.", ("status",)),
    "shards_total": (Counter, "Shards done, and set aside after too many failures.", ("outcome",)),
    "failed_attempts_total": (Counter, "Attempts at a shard that failed.", ("error",)),
    "shard_seconds": (_SECONDS, "Time that a worker took for a shard.", ()),
    "gpu_seconds_total": (Counter, "Busy time of workers, times the GPUs each of them holds.", ()),
    "workers": (Gauge, "Workers that have a place in the cluster; 0 at the end.", ()),
    "eta_seconds": (Gauge, "Time to the end of the stage at its mean speed; 0 at the end.", ()),
    "rows_left": (Gauge, "Rows of the stage that are not done.", ()),
    "steps_left": (Gauge, "Training steps that are left.", ()),
    "trials_left": (Gauge, "Trials of the search that are left.", ()),
    "steps_total": (Counter, "Training steps done.", ()),
    "images_per_second": (Gauge, "Faces that the training uses per second.", ()),
    "m_global": (Gauge, "BEGAN's measure of convergence.", ()),
    "k": (Gauge, "BEGAN's k_t.", ()),
    "diversity_ratio": (Gauge, "Diversity of generated faces over that of real ones.", ()),
    "encoder_distance": (Gauge, "Distance of generated from real faces in D's encoder.", ()),
    "trials_total": (Counter, "Trials of the search that ended.", ()),
    "best_nme": (Gauge, "Lowest validation NME of all trials.", ()),
}


class Telemetry:
    """The metrics of one run of a stage.

    At the start of the run `left` units are left to do; `unit` is rows, steps or trials.
    """

    def __init__(
        self,
        run: RunDirectory,
        stage: str,
        *,
        left: int,
        unit: str = "rows",
        workers: int = 0,
        gpus_each: float = 0,
    ) -> None:
        self._tags = {"job_name": _job_name(run), "stage": stage}
        self._unit, self._left, self._done = unit, left, 0
        self._workers, self._gpus_each = workers, gpus_each
        self._started = self._trained_until = time.monotonic()
        self._busy_until: dict[str, float] = {}  # by worker
        self._gauges: dict[str, float] = {}
        self._over = threading.Event()
        self._refresher = threading.Thread(target=self._refresh, daemon=True)
        self._set("workers", workers)
        self._set(f"{unit}_left", left)

    def __enter__(self) -> Telemetry:
        self._refresher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._refresher.join()
        self._set("workers", 0)
        self._set("eta_seconds", 0)

    def shard(self, stats: ShardStats) -> None:
        """Count a shard that is done."""
        for status, rows in stats.statuses.items():
            self._add("rows_total", rows, status=status)
        self._add("shards_total", 1, outcome="done")
        _metric("shard_seconds").observe(stats.seconds, self._tags)
        # A worker may work at two shards at once, but a second of its time counts only once.
        since = max(stats.written - stats.seconds, self._busy_until.get(stats.worker, 0))
        self._busy_until[stats.worker] = stats.written
        self._add("gpu_seconds_total", (stats.written - since) * self._gpus_each)
        self._advance(stats.stop - stats.start)

    def workers(self, count: int) -> None:
        """Set the number of workers that have a place in the cluster."""
        self._set("workers", count)

    def failed(self, error: BaseException) -> None:
        """Count an attempt at a shard that ended with an error."""
        self._add("failed_attempts_total", 1, error=type(error).__name__)

    def set_aside(self, num_shards: int) -> None:
        """Count shards that failed too often."""
        self._add("shards_total", num_shards, outcome="set_aside")

    def training(self, line: MetricsLine, steps: int) -> None:
        """Count `steps` more steps of a training, and set the gauges from its newest metrics."""
        self._add("steps_total", steps)
        self._workers = line.workers
        self.workers(self._workers)
        self._set("images_per_second", line.images_per_s)
        self._set("m_global", line.m_global)
        self._set("k", line.k)
        if line.diversity_ratio is not None:
            self._set("diversity_ratio", line.diversity_ratio)
        if line.encoder_distance is not None:
            self._set("encoder_distance", line.encoder_distance)
        now = time.monotonic()
        self._add(
            "gpu_seconds_total", (now - self._trained_until) * self._workers * self._gpus_each
        )
        self._trained_until = now
        self._advance(steps)

    def trials(self, count: int, seconds: float, best_nme: float) -> None:
        """Count trials that ended, which took `seconds` together."""
        self._add("trials_total", count)
        self._add("gpu_seconds_total", seconds * self._gpus_each)
        self._set("best_nme", best_nme)
        self._advance(count)

    def _advance(self, count: int) -> None:
        self._left -= count
        self._done += count
        self._set(f"{self._unit}_left", self._left)
        if self._done > 0:
            elapsed = time.monotonic() - self._started
            self._set("eta_seconds", elapsed / self._done * self._left)

    def _refresh(self) -> None:
        while not self._over.wait(REFRESH_S):
            for name, value in self._gauges.copy().items():
                _metric(name).set(value, self._tags)

    def _add(self, name: str, value: float, **tags: str) -> None:
        if value > 0:  # Ray refuses 0
            _metric(name).inc(value, {**self._tags, **tags})

    def _set(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self._gauges[name] = value
            _metric(name).set(value, self._tags)


@functools.cache
def _metric(name: str) -> Any:
    kind, description, tags = METRICS[name]
    return kind(PREFIX + name, description, tag_keys=TAGS + tags)


def _job_name(run: RunDirectory) -> str:
    """Return the job's name from the spec in the run directory, or else the folder's name."""
    return yaml.safe_load(run.job.read_text())["name"] if run.job.exists() else run.root.name
