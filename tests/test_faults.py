"""A job killed in the middle of its stages, again and again, ends as if it had never been."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray

from distfacegan.store.run_directory import RunDirectory
from tests.jobs import assert_equal_runs, write_spec
from tests.ray_head import command_lines

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

# What stands in the run directory when a stage is in the middle of its work, and how it is ended
# then. Ray Train and Ray Tune would take SIGINT for themselves, and Ray Train ever after.
MIDDLE = {
    "ingest": ("shards/ingest/*.json", signal.SIGKILL),
    "began": ("began/checkpoints/00000100", signal.SIGKILL),
    "invert": ("shards/invert/*.json", signal.SIGINT),
    "lgen": ("lgen/tune/search/*", signal.SIGINT),
    "synthesize": ("shards/synthesize/*.json", signal.SIGKILL),
}


def start(spec: Path, **environment: str) -> subprocess.Popen:
    """Run a job in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "distfacegan", "run", str(spec)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(spec: Path, address: str) -> str:
    """Run a job to its end; return what it printed."""
    with start(spec, RAY_ADDRESS=address) as process:
        output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


def kill_in_the_middle(spec: Path, address: str, stage: str) -> dict[Path, int]:
    """Run until a stage is in the middle, end the driver; return the markers then."""
    root = spec.parent / "run"
    pattern, end = MIDDLE[stage]
    with start(spec, RAY_ADDRESS=address) as process:
        deadline = time.monotonic() + 300
        while not list(root.glob(pattern)):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, f"{stage} never got to its middle"
            time.sleep(0.005)
        process.send_signal(end)
        assert process.wait(timeout=60) == (130 if end == signal.SIGINT else -end)
    assert not RunDirectory(root).finished(stage), f"{stage} was over before it was killed"
    wait_for_workers_to_end()
    return {path: path.stat().st_mtime_ns for path in root.glob("shards/*/*.json")}


def wait_for_workers_to_end() -> None:
    """A cluster takes its CPUs back from a driver that is gone."""
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)


def test_a_job_killed_in_every_stage_equals_an_undisturbed_one(finished, tmp_path, ray_address):
    killed = write_spec(tmp_path)
    markers: dict[Path, int] = {}
    for stage in MIDDLE:
        after = kill_in_the_middle(killed, ray_address, stage)
        for path, written in markers.items():
            assert after[path] == written, f"{path} was done twice"
        markers = after
    output = finish(killed, ray_address)

    for path, written in markers.items():
        assert path.stat().st_mtime_ns == written, f"{path} was done twice"
    assert "synthesize: 1000 ok" in output
    assert_equal_runs(RunDirectory(killed.parent / "run"), finished)


def test_a_second_job_is_refused_while_the_first_goes_on_whose_ray_dies_with_it(tmp_path):
    """Without a cluster, so that the job starts a Ray of its own."""
    spec = write_spec(tmp_path, name="first")
    folder = tempfile.mkdtemp(prefix="dfg", dir="/tmp")  # short: sockets have 107 characters
    own = {"RAY_ADDRESS": "", "RAY_TMPDIR": folder}
    with start(spec, **own) as first:
        while not (tmp_path / "run" / "job.yaml").exists():
            assert first.poll() is None, first.stdout.read()
            time.sleep(0.05)
        second = write_spec(tmp_path, name="second")
        with start(second, **own) as process:
            output = process.communicate(timeout=120)[0]
        assert process.returncode == 2
        assert "in use by job 'first'" in output
        while not any(folder in command for command in command_lines()):
            assert first.poll() is None, first.stdout.read()
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(folder in command for command in command_lines()):
        assert time.monotonic() < deadline, "Ray's processes outlive their driver"
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)
