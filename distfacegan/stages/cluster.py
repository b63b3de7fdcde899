"""The Ray cluster that a job runs on, and what a stage's workers take of it."""

from __future__ import annotations

import logging
import os
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

from distfacegan.errors import SpecError
from distfacegan.store.location import Location, file_system

log = logging.getLogger(__name__)


SAY_EVERY_S = 60.0  # between two lines of the log about what the job waits for
RESOURCES = {
    "num_gpus": "GPU",
    "num_cpus": "CPU",
}  # the name of a resource: for an actor, and in the cluster
Device = Literal["auto", "cpu", "cuda"]
Result = TypeVar("Result")


@contextmanager
def connect(**options: Any) -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or start Ray on this machine for as long as it is needed.

    `options` of ray.init are for a Ray of this machine. Meanwhile SIGTERM is a KeyboardInterrupt,
    as SIGINT is: the stages end what they are at.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = "local"  # never join a Ray that somebody else has started on this machine
    if not options:
        address = os.environ.get("RAY_ADDRESS") or address
    try:
        context = ray.init(address, **options, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise SpecError(
            f"RAY_ADDRESS is {address}, but no Ray cluster takes us in there: {error}. Is it up? "
            "Is its token set here (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN)?"
        ) from None
    log.info("Ray: %s", _size())
    if context.dashboard_url:
        log.info("Ray dashboard: http://%s", context.dashboard_url)
    try:
        with _sigterm_interrupts():  # Ray has set a handler of its own, which ours replaces
            yield
    finally:
        ray.shutdown()


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
    """Return the torch device of the workers of GPU stages: by itself, what there is now."""
    if asked == "auto":
        return "cuda" if _count("GPU") else "cpu"
    return asked


def cpu_workers(asked: int | None) -> tuple[int | None, dict[str, float]]:
    """Return the number of workers of a stage that wants cores, and what each takes.

    One core each. No number where the spec asks for none: as many as there is room for.
    """
    return asked, {"num_cpus": 1}


def gpu_workers(asked: int | None, on: Device) -> tuple[int | None, dict[str, float]]:
    """Return the number of workers of a stage that wants GPUs, and what each takes.

    One GPU each; on the device cpu, one core each: the order of a sum depends on the number of
    threads, and the results shall not depend on the number of workers.
    """
    return (asked, {"num_gpus": 1, "num_cpus": 1}) if device(on) == "cuda" else cpu_workers(asked)


def room(resources: Mapping[str, float]) -> int:
    """Return how many actors that take these resources the cluster holds now; 1 at least."""
    places = (_count(RESOURCES[name]) // number for name, number in resources.items())
    return max(1, int(min(places)))


def describe(resources: Mapping[str, float]) -> str:
    """Say what an actor takes, and what the cluster has."""
    each = ", ".join(f"{number:g} {RESOURCES[name]}" for name, number in resources.items())
    return f"each takes {each}; the cluster has {_size()}"


def require(workers: int, field: str, on: Device) -> None:
    """Make sure that the cluster can hold workers at once: refuse to wait for ever for them.

    Where the spec asks for the device cuda, wait: an autoscaling cluster then starts nodes.
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
    """Reserve the places of workers until the cluster has them, and give them back."""
    each = {"num_gpus": 1.0, "num_cpus": 1.0}
    places = ray.util.placement_group([{"GPU": 1.0, "CPU": 1.0}] * workers)
    try:
        while not places.wait(SAY_EVERY_S):
            log.info("%s: %d workers wait for places: %s", field, workers, describe(each))
    finally:
        ray.util.remove_placement_group(places)


def cpus_each(workers: int, on: Device) -> int:
    """Return the most cores that each worker can have where `workers` find places; 1 at least."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpus = device(on) == "cuda"

    def places(cores: int) -> float:
        counts = ((node.get("CPU", 0) // cores, node.get("GPU", 0)) for node in nodes)
        return sum(min(count) if on_gpus else count[0] for count in counts)

    most = int(max(node.get("CPU", 0) for node in nodes))
    return next((cores for cores in range(most, 1, -1) if places(cores) >= workers), 1)


def off_main_thread(call: Callable[[], Result]) -> Result:
    """Return what `call` returns, called in another thread.

    In the main thread Ray Train and Ray Tune 2.60 take SIGINT for themselves: the first ends the
    process with code 0, the second the search, as if it were finished.
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
    """Return the storage_path and storage_filesystem that mean a folder to Ray Train and Tune."""
    if isinstance(folder, Path):
        return str(folder), None
    path = str(folder).partition("://")[2]
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(file_system(folder)))


def _count(resource: str) -> int:
    return int(ray.cluster_resources().get(resource, 0))


def _size() -> str:
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{_count('GPU')} GPUs and {_count('CPU')} CPUs on {nodes} nodes"
