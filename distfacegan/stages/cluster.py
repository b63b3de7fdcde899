"""The Ray cluster that a job runs on, and what a stage's workers take of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs
import ray

from distfacegan.errors import SpecError
from distfacegan.store.location import Location, file_system

log = logging.getLogger(__name__)


@contextmanager
def connect() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or start Ray on this machine for as long as it is needed."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS") or "local"  # never somebody else's on this machine
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise SpecError(f"RAY_ADDRESS is {address}, but no Ray cluster is there: {error}") from None
    try:
        resources = ray.cluster_resources()
        log.info("Ray: %d CPUs, %d GPUs", resources.get("CPU", 0), resources.get("GPU", 0))
        yield
    finally:
        ray.shutdown()


def cpu_workers(asked: int | None) -> tuple[int, dict[str, float]]:
    """Return the number of workers of a stage that wants cores, and what each takes.

    One core each, and as many as there are cores where the spec asks for no number.
    """
    return asked or max(1, _count("CPU")), {"num_cpus": 1}


def gpu_workers(asked: int | None) -> tuple[int, dict[str, float]]:
    """Return the number of workers of a stage that wants GPUs, and what each takes.

    One GPU each; in a cluster without a GPU, one core each: the order of a sum depends on the
    number of threads, and the results shall not depend on the number of workers.
    """
    gpus = _count("GPU")
    return (asked or gpus, {"num_gpus": 1, "num_cpus": 1}) if gpus else cpu_workers(asked)


def _count(resource: str) -> int:
    return int(ray.cluster_resources().get(resource, 0))


def require(workers: int, field: str) -> None:
    """Refuse to wait for ever for workers that the cluster cannot hold at once."""
    resource = "GPU" if device() == "cuda" else "CPU"
    if workers > _count(resource):
        raise SpecError(
            f"{field}: {workers} workers need as many {resource}s, the cluster has "
            f"{_count(resource)}; ask for fewer workers or add nodes"
        )


def cpus_each(workers: int) -> int:
    """Return the cores of one worker where `workers` share the cluster's."""
    return max(1, _count("CPU") // workers)


def device() -> str:
    """Return the torch device of the workers of GPU stages."""
    return "cuda" if _count("GPU") else "cpu"


def storage(folder: Location) -> tuple[str, pyarrow.fs.FileSystem | None]:
    """Return the storage_path and storage_filesystem that mean a folder to Ray Train and Tune."""
    if isinstance(folder, Path):
        return str(folder), None
    return folder.path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(file_system(folder)))
