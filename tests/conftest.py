"""Fixtures: one Ray cluster for the session, and the real data where it is at hand."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from distfacegan.store import location
from distfacegan.store.run_directory import RunDirectory
from tests.ray_head import RayHead, ray_head

# Ray otherwise turns token authentication on for later clusters of the same user (Ray 2.60).
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that runs the tests in its background makes them, and what they start, ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """The environment that reaches an S3 server with an empty bucket; it is this process's too."""
    from tests.s3 import serve

    with serve() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        location._bucket.cache_clear()
        yield environment


@pytest.fixture(scope="session")
def head(s3: dict[str, str]) -> Iterator[RayHead]:
    """A Ray head with two cores, whose workers reach the S3 server."""
    with ray_head() as head:
        yield head


@pytest.fixture(scope="session")
def ray_cluster(head: RayHead) -> Iterator[None]:
    """This process is a driver on the head: a stage of a job runs there."""
    import ray
    from ray._private.authentication_test_utils import reset_auth_token_state

    with pytest.MonkeyPatch.context() as patch:
        for name, value in head.access.items():
            patch.setenv(name, value)
        reset_auth_token_state()  # Ray has read the environment when it was imported
        ray.init(head.address, log_to_driver=False)
        yield
        ray.shutdown()
    reset_auth_token_state()


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
