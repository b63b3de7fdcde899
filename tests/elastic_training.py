"""A cluster whose nodes come and go while BEGAN trains: `test_began_workers` runs it as a process.

It prints what happened as JSON. Nodes are added from the main thread: Ray sets signals there.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from distfacegan import pipeline
from distfacegan.stages import began
from distfacegan.stages.training import last_step
from distfacegan.store.run_directory import RunDirectory
from tests import training_loops
from tests.jobs import load_spec
from tests.ports import free_port
from tests.test_began_workers import BEGAN, INGEST, PARTS
from tests.training_loops import Start, starts

began.RESIZE_EVERY_S = 5.0
began._train_loop = training_loops.slow  # type: ignore[assignment]


def main(folder: Path) -> dict[str, Any]:
    """Start with one of two workers, let a node join, take it away."""
    section = BEGAN | {"steps": 1500, "workers": 2, "min_workers": 1}
    spec = load_spec(folder, ingest=INGEST, began=section, **PARTS)
    run = RunDirectory(folder / "run")
    cluster = Cluster()
    cluster.add_node(num_cpus=1, include_dashboard=False, dashboard_port=free_port())
    ray.init(cluster.address, log_to_driver=False)
    codes: list[int] = []
    training = threading.Thread(target=lambda: codes.append(pipeline.run(spec)), daemon=True)
    training.start()

    def wait_for(happened: Callable[[Start], bool]) -> Start:
        until = time.monotonic() + 200
        while not (begun := starts(run.root)) or not happened(begun[-1]):
            assert training.is_alive(), "the training is over"
            assert time.monotonic() < until, begun
            time.sleep(0.1)
        return begun[-1]

    report: dict[str, Any] = {}
    wait_for(lambda start: start.workers == 1)
    time.sleep(5)
    joined = time.time()
    node = cluster.add_node(num_cpus=1)
    start = wait_for(lambda start: start.workers == 2)
    report["joined"] = {"goes_on_s": start.time - joined, "from": start.step}
    while last_step(run) == start.step:
        time.sleep(0.1)
    report["reached"] = last_step(run)
    lost = time.time()
    cluster.remove_node(node, allow_graceful=False)
    start = wait_for(lambda start: start.time > lost)
    report["lost"] = {"goes_on_s": start.time - lost, "from": start.step}
    (run.root / "hurry").touch()
    training.join(timeout=200)
    report["workers"] = [start.workers for start in starts(run.root)]
    report["codes"] = codes
    ray.shutdown()
    cluster.shutdown()
    return report


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
