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

from distfacegan.store.run_directory import RunDirectory
from tests.jobs import assert_equal_runs, write_spec

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


@pytest.fixture
def temp_dir():
    """A short folder of Ray's own: every cluster of these tests lives, and can be found, there."""
    folder = tempfile.mkdtemp(prefix="dfg", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start(spec: Path, temp_dir: str) -> subprocess.Popen:
    environment = os.environ | {"RAY_TMPDIR": temp_dir, "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "distfacegan", "run", str(spec)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Else a shell that runs the tests in its background has SIGINT ignored in all of them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(spec: Path, temp_dir: str) -> str:
    with start(spec, temp_dir) as process:
        output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


def kill_in_the_middle(spec: Path, temp_dir: str, stage: str) -> dict[Path, int]:
    """Run until a stage is in the middle, end the driver; return the markers then."""
    root = spec.parent / "run"
    pattern, end = MIDDLE[stage]
    with start(spec, temp_dir) as process:
        deadline = time.monotonic() + 300
        while not list(root.glob(pattern)):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, f"{stage} never got to its middle"
            time.sleep(0.005)
        process.send_signal(end)
        assert process.wait(timeout=60) == (130 if end == signal.SIGINT else -end)
    assert not RunDirectory(root).finished(stage), f"{stage} was over before it was killed"
    wait_for_ray_to_die(temp_dir)
    return {path: path.stat().st_mtime_ns for path in root.glob("shards/*/*.json")}


def wait_for_ray_to_die(temp_dir: str) -> None:
    """Ray's processes end by themselves when their driver is gone."""
    deadline = time.monotonic() + 60
    while any(temp_dir in command for command in command_lines()):
        assert time.monotonic() < deadline, "Ray's processes outlive their driver"
        time.sleep(0.2)


def command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return lines


def test_a_job_killed_in_every_stage_equals_an_undisturbed_one(tmp_path, temp_dir):
    undisturbed, killed = (write_spec(tmp_path / name) for name in ("undisturbed", "killed"))
    finish(undisturbed, temp_dir)

    markers: dict[Path, int] = {}
    for stage in MIDDLE:
        after = kill_in_the_middle(killed, temp_dir, stage)
        for path, written in markers.items():
            assert after[path] == written, f"{path} was done twice"
        markers = after
    output = finish(killed, temp_dir)

    for path, written in markers.items():
        assert path.stat().st_mtime_ns == written, f"{path} was done twice"
    assert "synthesize: 1000 ok" in output
    assert_equal_runs(RunDirectory(killed.parent / "run"), RunDirectory(undisturbed.parent / "run"))


def test_a_second_job_on_a_run_directory_is_refused_while_the_first_goes_on(tmp_path, temp_dir):
    spec = write_spec(tmp_path, name="first")
    with start(spec, temp_dir) as first:
        while not (tmp_path / "run" / "job.yaml").exists():
            assert first.poll() is None, first.stdout.read()
            time.sleep(0.05)
        second = write_spec(tmp_path, name="second")
        with start(second, temp_dir) as process:
            output = process.communicate(timeout=120)[0]
        assert process.returncode == 2
        assert "in use by job 'first'" in output
        os.kill(first.pid, signal.SIGKILL)
    wait_for_ray_to_die(temp_dir)
