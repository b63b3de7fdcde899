"""A cluster whose nodes come and go while shards are run: `test_pool` runs this as a process.

It prints what happened as JSON. Nodes are added from the main thread: Ray sets signals there.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from distfacegan.stages import pool
from distfacegan.store import shards
from distfacegan.store.shards import Shard, ShardStats
from tests.ports import free_port

pool.MAX_ATTEMPTS = 1  # a single failure that counts sets a shard aside


class WhereWorker:
    """Takes a moment, and marks a shard done with the node that it was done on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, shard: Shard) -> ShardStats:
        started = time.time()
        time.sleep(0.2)
        node = ray.get_runtime_context().get_node_id()
        return shards.mark_done(
            self._folder, shard, statuses={}, digests={"node": node}, started=started
        )


def main(graceful: bool) -> dict[str, Any]:
    """Start with no GPU, let two nodes join, take one away in the middle of its shards."""
    cluster = Cluster()
    cluster.add_node(num_cpus=0, include_dashboard=False, dashboard_port=free_port())
    ray.init(cluster.address, log_to_driver=False)
    done: list[ShardStats] = []
    report: dict[str, Any] = {}

    def run() -> None:
        report["set_aside"] = [
            failure.reason
            for failure in pool.run_shards(
                functools.partial(WhereWorker, folder=Path(tempfile.mkdtemp(dir=sys.argv[1]))),
                shards.split(150, 1),
                num_workers=None,
                resources={"num_gpus": 1},
                on_done=done.append,
            )
        ]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    time.sleep(1)
    report["done_without_gpu"] = len(done)
    first = cluster.add_node(num_cpus=1, num_gpus=1)
    report["first_used"] = used(first.node_id, done)
    second = cluster.add_node(num_cpus=2, num_gpus=2)
    report["second_used"] = used(second.node_id, done)
    cluster.remove_node(second, allow_graceful=graceful)
    report["done_when_node_went"] = len(done)
    thread.join(timeout=120)
    report["done"] = sorted(stats.shard for stats in done)
    ray.shutdown()
    cluster.shutdown()
    return report


def used(node: str, done: list[ShardStats]) -> bool:
    """Wait until a shard was done on a node; tell whether one was, before all were done."""
    until = time.monotonic() + 60
    while time.monotonic() < until and len(done) < 150:
        if any(stats.digests["node"] == node for stats in done):
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    print(json.dumps(main(graceful=sys.argv[2] == "graceful")))
