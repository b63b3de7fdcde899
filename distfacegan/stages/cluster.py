"""The Ray cluster that a job runs on, and the resources that a stage's workers take."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow.fs
import ray
import ray.util

from distfacegan import waiting
from distfacegan.errors import SpecError
from distfacegan.store.location import Location, file_system

log = logging.getLogger(__name__)


SAY_EVERY_S = 60.0  # seconds between two log lines about the same wait
# The name of a resource in an actor's options, and its name in the cluster.
RESOURCES = {
    "num_gpus": "GPU",
    "num_cpus": "CPU",
}
Device = Literal["auto", "cpu", "cuda"]
Result = TypeVar("Result")


@contextmanager
def connect(**options: Any) -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or start Ray on this machine until the context ends.

    With `options`, which are passed to ray.init, Ray is always started on this machine. Inside the
    context SIGTERM raises KeyboardInterrupt, as SIGINT does, so that the stages can finish the
    shards in flight.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = "local"  # never join a Ray that somebody else has started on this machine
    if not options:
        address = os.environ.get("RAY_ADDRESS") or address
    _check_answers(address)
    try:
        with waiting.said("Ray" if address == "local" else f"the Ray cluster at {address}"):
            context = ray.init(address, **options, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise SpecError(
            f"RAY_ADDRESS is {address}, but no Ray cluster accepts us there: {error}. Is the "
            "cluster up? Is its token set on this machine (RAY_AUTH_MODE=token, "
            "RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN)?"
        ) from None
    log.info("Ray: %s", _size())
    if context.dashboard_url:
        log.info("Ray dashboard: http://%s", context.dashboard_url)
    try:
        with _sigterm_interrupts():  # after ray.init, because that sets a handler of Ray's own
            yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise SpecError if nothing answers at HOST:PORT. Ray itself would try for a minute."""
    match = re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", address)
    reason = waiting.refusal(match[1], int(match[2])) if match else None
    if reason is not None:
        raise SpecError(
            f"RAY_ADDRESS is {address}, but no Ray cluster answers there: {reason}. Start its "
            "head, correct RAY_ADDRESS, or unset it to compute on this machine"
        )


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def device(asked: Device) -> Literal["cpu", "cuda"]:
    """Return the torch device of the workers of GPU stages; for `auto`, cuda if there is a GPU."""
    if asked == "auto":
        return "cuda" if _count("GPU") else "cpu"
    return asked


def cpu_workers(asked: int | None) -> tuple[int | None, dict[str, float]]:
    """Return the number of workers of a stage on cores, and the resources of each: one core.

    The number is None if the spec gives none: then there are as many workers as fit the cluster.
    """
    return asked, {"num_cpus": 1}


def gpu_workers(asked: int | None, on: Device) -> tuple[int | None, dict[str, float]]:
    """Return the number of workers of a stage on GPUs, and the resources of each.

    A worker takes one GPU and one core, or on the device cpu one core. A worker never gets several
    cores: the rounding of sums depends on the number of threads, and the results must not depend on
    how many workers share the cores.
    """
    return (asked, {"num_gpus": 1, "num_cpus": 1}) if device(on) == "cuda" else cpu_workers(asked)


def room(resources: Mapping[str, float]) -> int:
    """Return how many actors of these resources fit the cluster now; 1 at least."""
    places = (_count(RESOURCES[name]) // number for name, number in resources.items())
    return max(1, int(min(places)))


def describe(resources: Mapping[str, float]) -> str:
    """Return, in words, the resources that each actor takes and those that the cluster has."""
    each = ", ".join(f"{number:g} {RESOURCES[name]}" for name, number in resources.items())
    return f"each takes {each}; the cluster has {_size()}"


def require(workers: int, field: str, on: Device) -> None:
    """Check that the cluster has places for all workers at once; raises SpecError if not.

    If the spec asks for the device cuda, wait for the places instead: an autoscaling cluster then
    starts nodes.
    """
    resource = "GPU" if device(on) == "cuda" else "CPU"
    if on == "cuda":
        _wait_for(workers, field)
    elif workers > _count(resource):
        raise SpecError(
            f"{field}: {workers} workers need as many {resource}s, the cluster has "
            f"{_count(resource)}; ask for fewer workers or add nodes"
        )


def _wait_for(workers: int, field: str) -> None:
    """Ask the cluster for the places of workers, wait until it has all of them, and free them."""
    each = {"num_gpus": 1.0, "num_cpus": 1.0}
    places = ray.util.placement_group([{"GPU": 1.0, "CPU": 1.0}] * workers)
    first = True
    try:
        while not places.wait(waiting.SAY_EVERY_S if first else SAY_EVERY_S):
            first = False
            log.info("%s: %d workers are waiting for places: %s", field, workers, describe(each))
    finally:
        ray.util.remove_placement_group(places)


def cpus_each(workers: int, on: Device) -> int:
    """Return the most cores that each worker can have if `workers` are to fit; 1 at least."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpus = device(on) == "cuda"

    def places(cores: int) -> float:
        counts = ((node.get("CPU", 0) // cores, node.get("GPU", 0)) for node in nodes)
        return sum(min(count) if on_gpus else count[0] for count in counts)

    most = int(max(node.get("CPU", 0) for node in nodes))
    return next((cores for cores in range(most, 1, -1) if places(cores) >= workers), 1)


def off_main_thread(call: Callable[[], Result]) -> Result:
    """Run `call` in another thread, wait for it, and return its result.

    In the main thread Ray Train and Ray Tune 2.60 handle SIGINT themselves: Ray Train ends the
    process with code 0, and Ray Tune ends the search as if it were finished.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result()


def storage(folder: Location) -> tuple[str, pyarrow.fs.FileSystem | None]:
    """Return the storage_path and storage_filesystem by which Ray Train and Tune know a folder."""
    if isinstance(folder, Path):
        return str(folder), None
    path = str(folder).partition("://")[2]
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(file_system(folder)))


def _count(resource: str) -> int:
    return int(ray.cluster_resources().get(resource, 0))


def _size() -> str:
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{_count('GPU')} GPUs and {_count('CPU')} CPUs on {nodes} nodes"
