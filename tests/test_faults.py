"""A job killed in the middle of its stages, again and again, ends as if it had never been."""

import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
import ray

from distfacegan.store.run_directory import RunDirectory
from tests.drivers import STANDS_STILL, run_to_the_middle
from tests.jobs import assert_equal_runs, write_spec
from tests.ray_head import RayHead, client_environment, command_lines
from tests.warm import WarmProcess, distfacegan

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

# What stands in the run directory when a stage is in the middle of its work, and how it is ended
# then. Ray Train and Ray Tune would take SIGINT for themselves, and Ray Train ever after.
MIDDLE = {
    "ingest": ("shards/ingest/*.json", signal.SIGKILL),
    "landmarks": ("shards/landmarks/*.json", signal.SIGTERM),
    "began": ("began/checkpoints/00000050", signal.SIGKILL),
    "invert": ("shards/invert/*.json", signal.SIGINT),
    "lgen": ("lgen/tune/groups/*", signal.SIGINT),
    "synthesize": ("shards/synthesize/*.json", signal.SIGKILL),
}


def kill_in_the_middle(spec: Path, head: RayHead, stage: str) -> tuple[dict[Path, int], str]:
    """Run until a stage is in the middle, end the driver; return the markers then, and its log."""
    root = spec.parent / "run"
    pattern, end = MIDDLE[stage]
    with WarmProcess(run_to_the_middle, spec, stage, environment=head.of_driver) as driver:
        driver.until(lambda: list(root.glob(pattern)))
        if stage != "began":  # whose workers stand still instead
            driver.until(lambda: STANDS_STILL in driver.output)
        driver.send_signal(end)
        assert driver.wait(60) == (-end if end == signal.SIGKILL else 130), driver.output
        log = driver.output
    assert not RunDirectory(root).finished(stage)
    wait_for_workers_to_end()
    return {path: path.stat().st_mtime_ns for path in root.glob("shards/*/*.json")}, log


def wait_for_workers_to_end() -> None:
    """A cluster takes its CPUs back from a driver that is gone."""
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)


def test_a_job_killed_in_every_stage_equals_an_undisturbed_one(finished, tmp_path, head):
    killed = write_spec(tmp_path)
    markers: dict[Path, int] = {}
    logs = {}
    for stage in MIDDLE:
        after, logs[stage] = kill_in_the_middle(killed, head, stage)
        for path, written in markers.items():
            assert after[path] == written, f"{path} was done twice"
        markers = after
    for stage in ("landmarks", "invert"):  # of which the shards in flight could end
        assert "shards in flight have 15 s to end" in logs[stage]
    with distfacegan("run", killed, environment=head.of_driver) as driver:
        assert driver.wait() == 0, driver.output
        output = driver.output

    for path, written in markers.items():
        assert path.stat().st_mtime_ns == written, f"{path} was done twice"
    assert "synthesize: 200 ok" in output
    assert_equal_runs(RunDirectory(killed.parent / "run"), finished)


def test_a_second_job_is_refused_while_the_first_goes_on_whose_ray_dies_with_it(tmp_path):
    """Without a cluster, so that the job starts a Ray of its own."""
    folder = tempfile.mkdtemp(prefix="dfg", dir="/tmp")  # short: sockets have 107 characters
    own = client_environment(RAY_AUTH_MODE="disabled", RAY_TMPDIR=folder)
    with distfacegan("run", write_spec(tmp_path, name="first"), environment=own) as first:
        first.until((tmp_path / "run" / "job.yaml").exists)
        second = write_spec(tmp_path, name="second")
        with distfacegan("run", second, environment=own) as process:
            assert process.wait() == 2
            assert "in use by job 'first'" in process.output
        first.until(lambda: any(folder in command for command in command_lines()))
        first.send_signal(signal.SIGKILL)
        first.wait()
    deadline = time.monotonic() + 60
    while any(folder in command for command in command_lines()):
        assert time.monotonic() < deadline, "Ray's processes outlive their driver"
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)
