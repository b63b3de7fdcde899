"""Fixtures: one Ray cluster for the session, and the real data where it is at hand."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distfacegan.store.run_directory import RunDirectory

# Ray otherwise turns token authentication on for later clusters of the same user (Ray 2.60).
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that runs the tests in its background makes them, and what they start, ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray on two cores, for the whole session."""
    import ray

    folder = tempfile.mkdtemp(prefix="dfg", dir="/tmp")  # short: sockets have 107 characters
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_address(ray_cluster: None) -> str:
    """The address of the session's cluster: for RAY_ADDRESS of other processes, which join it."""
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run of the small job. Tests that change it work on a copy."""
    from distfacegan import pipeline
    from tests.jobs import load_spec

    folder = tmp_path_factory.mktemp("finished")
    assert pipeline.run(load_spec(folder)) == pipeline.DONE
    return RunDirectory(folder / "run")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and networks beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the real data beside the repository is absent")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the faults of the chaos tests cost."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "cost":
                terminalreporter.write_line(value)
