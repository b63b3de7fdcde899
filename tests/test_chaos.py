"""Faults strike a job in the middle of its inversion: it ends as if they had never been."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from distfacegan.store.location import locate
from distfacegan.store.run_directory import RunDirectory
from tests import namespaces
from tests.chaos import (
    NUM_SHARDS,
    Command,
    Cost,
    assert_whole,
    in_the_middle,
    markers,
    process,
    run_of,
    short_folder,
    write_job,
)
from tests.jobs import findings
from tests.s3 import Faults, serve

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunDirectory:
    spec = write_job(tmp_path_factory.mktemp("undisturbed"))
    with short_folder() as folder:
        Command("run", spec, environment={"RAY_TMPDIR": folder}).end()
    return run_of(spec)


@pytest.fixture
def environment():
    """A Ray of this test's own."""
    with short_folder() as folder:
        yield {"RAY_TMPDIR": folder}
        while Command.started:
            Command.started.pop().kill()  # where the test failed


@pytest.fixture
def keep(record_property):
    """Keep what a fault cost for the summary of the tests."""
    return lambda *cost, **figures: record_property("cost", str(Cost.measure(*cost, **figures)))


def test_a_killed_worker_costs_its_shards(tmp_path, undisturbed, environment, keep):
    spec = write_job(tmp_path)
    run = run_of(spec)
    job = Command("run", spec, environment=environment)
    job.until(in_the_middle(run))
    before = markers(run)
    victim = max(before.values(), key=lambda marker: marker.written)
    struck = time.time()
    os.kill(process(victim), signal.SIGKILL)
    job.end()
    again = job.given_again(struck)
    assert_whole(run, undisturbed, before)
    keep("kill -9 of a worker", run, undisturbed, struck=struck, again=again)


def test_a_killed_driver_costs_the_shards_in_flight(tmp_path, undisturbed, environment, keep):
    spec = write_job(tmp_path)
    run = run_of(spec)
    before, struck = kill_in_the_middle(spec, run, environment)
    Command("run", spec, environment=environment).end()
    assert_whole(run, undisturbed, before)
    again = done_by_others(run, before)
    keep("kill -9 of the driver", run, undisturbed, struck=struck, again=again, num_again=IN_FLIGHT)


IN_FLIGHT = 4  # shards: two of each worker


def kill_in_the_middle(spec, run, environment):
    """Kill the driver in the middle; return what was done then, and the time."""
    job = Command("run", spec, environment=environment)
    job.until(in_the_middle(run))
    before, struck = markers(run), time.time()
    job.kill()
    return before, struck


def done_by_others(run, before):
    """Return the shards that other workers did than those that were there before a fault."""
    workers = {marker.worker for marker in before.values()}
    return {index for index, marker in markers(run).items() if marker.worker not in workers}


@pytest.fixture(scope="module")
def s3():
    with serve() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


def test_a_driver_killed_over_an_object_store_costs_the_lease_too(
    s3, tmp_path, undisturbed, environment, keep
):
    spec = write_job(tmp_path, run="s3://faces/killed")
    run = RunDirectory(locate("s3://faces/killed"))
    before, struck = kill_in_the_middle(spec, run, environment)
    output = Command("run", spec, environment=environment).end()
    assert "waits 45 s for its renewal" in output
    assert_whole(run, undisturbed, before)
    again = done_by_others(run, before)
    fault = "kill -9 of the driver, run directory in S3"
    keep(fault, run, undisturbed, struck=struck, again=again, num_again=IN_FLIGHT)


@pytest.mark.parametrize("fault", ["500", "hang"])
def test_an_object_store_that_fails_for_a_while_is_waited_for(
    s3, tmp_path, undisturbed, environment, keep, fault
):
    url = f"s3://faces/fails-{fault}"
    spec, run = write_job(tmp_path, run=url), RunDirectory(locate(url))
    proxy = Faults(s3["AWS_ENDPOINT_URL"])
    environment |= {"AWS_ENDPOINT_URL": proxy.endpoint}
    job = Command("run", spec, environment=environment)
    job.until(in_the_middle(run))
    before, struck = markers(run), time.time()
    with proxy.strike(fault, OUTAGE_S):
        pass
    in_vain = proxy.num_faults
    job.until(lambda: len(markers(run)) > len(before) + IN_FLIGHT)
    went_on = time.time()
    log = job.end()
    proxy.close()
    assert in_vain > 1
    assert_whole(run, undisturbed, {})
    logs = [path.read_text(errors="replace") for path in ray_logs(environment)]
    assert logs
    assert not any(s3["AWS_SECRET_ACCESS_KEY"] in text for text in [log, *logs])
    words = "answers 500" if fault == "500" else "does not answer"
    keep(
        f"S3 {words} for {OUTAGE_S} s",
        run,
        undisturbed,
        struck=struck,
        again=job.given_again(struck),
        went_on=went_on,
    )


OUTAGE_S = 20


def ray_logs(environment):
    """Return the log files of a Ray."""
    files = Path(environment["RAY_TMPDIR"]).rglob("*")
    return [path for path in files if path.suffix in (".log", ".out", ".err")]


# Lost nodes


QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.fixture
def nodes():
    """Two network namespaces."""
    with namespaces.two(net=79) as nodes:
        yield nodes


def start_on(nodes, spec, run, environment, settings):
    """Start the job on two Ray nodes; return it when both have done shards."""
    folder = Path(environment["RAY_TMPDIR"])
    cluster = namespaces.start_ray(nodes, folder, environment | settings)
    job = Command("run", spec, environment=cluster, prefix=nodes.prefix(0))
    job.until(lambda: in_the_middle(run)() and of_node(nodes, 1, markers(run)))
    return job


def of_node(nodes, node, found):
    """Return the markers that a node's workers wrote."""
    pids = nodes.pids(node)
    return [marker for marker in found.values() if process(marker) in pids]


def test_a_killed_raylet_costs_the_shards_of_its_node(
    tmp_path, undisturbed, environment, nodes, keep
):
    spec = write_job(tmp_path)
    run = run_of(spec)
    job = start_on(nodes, spec, run, environment, {})
    before, struck = markers(run), time.time()
    os.kill(nodes.raylet(1), signal.SIGKILL)
    job.end()
    assert_whole(run, undisturbed, before)
    again = job.given_again(struck)
    keep("kill -9 of a node's raylet", run, undisturbed, struck=struck, again=again)


@pytest.mark.parametrize(
    ("store", "settings"),
    [("disk", {}), ("disk", QUICK), ("S3", QUICK)],
    ids=["default", "quick", "quick-S3"],
)
def test_a_node_that_is_cut_off_costs_its_shards_and_its_zombie_does_no_harm(
    tmp_path, undisturbed, environment, nodes, keep, monkeypatch, store, settings
):
    """Its worker still sees the shared disk, and writes there beside the one that replaces it."""
    with contextlib.ExitStack() as stack:
        spec = write_job(tmp_path)
        run = run_of(spec)
        if store == "S3":
            environment |= stack.enter_context(serve(nodes.bridge))
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            spec = write_job(tmp_path, run="s3://faces/cut")
            run = RunDirectory(locate("s3://faces/cut"))
        job = start_on(nodes, spec, run, environment, settings)
        before, struck = markers(run), time.time()
        zombie = process(of_node(nodes, 1, before)[0])
        nodes.cut(1)
        zombie_wrote = wait_for_writes(job, run, zombie, struck)
        if settings:
            nodes.heal(1)
        job.end()
        over = time.time()
        nodes.heal(1)
        while zombie in nodes.pids(1):
            assert time.time() < over + 120, "the zombie lives on"
            time.sleep(0.5)
        assert zombie_wrote or store == "S3"
        assert_whole(run, undisturbed, before)
        assert findings(run) == []
        again = job.given_again(struck)
        words = "quick detection" if settings else "default detection"
        keep(
            f"a node cut off, {words}, run directory on {store}",
            run,
            undisturbed,
            struck=struck,
            again=again,
            went_on=min(again.values()),  # the marker may be the zombie's, who is soon done
        )


def wait_for_writes(job, run, zombie, struck):
    """Wait for a while; tell whether a process wrote markers since a time."""
    wrote = False
    while time.time() < struck + CUT_S and job.lives:
        wrote |= any(process(m) == zombie and m.written > struck for m in markers(run).values())
        time.sleep(0.1)
    return wrote


CUT_S = 15


# Disks


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a small disk needs root: it is mounted")
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {made.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_sets_shards_aside_and_room_lets_the_job_finish(
    tmp_path, undisturbed, environment, small_disk
):
    spec = write_job(tmp_path, run=str(small_disk / "run"))
    run = RunDirectory(small_disk / "run")
    Command("run", spec, "--only", "ingest", environment=environment).end()
    free = os.statvfs(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(free.f_bavail * free.f_bsize - 200_000))

    job = Command("run", spec, environment=environment)
    log = job.end(code=1)
    before = markers(run)
    assert 3 <= len(before) < NUM_SHARDS
    for index in set(range(NUM_SHARDS)) - before.keys():
        assert re.search(rf"shard {index} .* set aside: OSError: .*No space left", log)
    assert f"no record is kept of this run: [Errno 28] No space left on device: '{run.root}" in log
    assert "Traceback" not in log

    again = Command("run", spec, environment=environment).end(code=2)
    assert f"No space left on device: '{run.root}" in again
    assert "Traceback" not in again

    filler.unlink()
    assert list(run.root.rglob("*.partial")) == []
    assert findings(run) == []
    Command("run", spec, environment=environment).end()
    assert_whole(run, undisturbed, before)


def test_a_flipped_bit_costs_its_shard(tmp_path, environment):
    networks = {name: str(tmp_path / name) for name in ("generator", "lgen")}
    invert = {"recipe": "bfgs", "steps": 5, "generator": networks["generator"]}
    synthesize = {"count": 200, "shard_rows": 50, **networks}
    spec = write_job(tmp_path, invert=invert, synthesize=synthesize)
    run = run_of(spec)
    Command("run", spec, environment=environment).end()
    good = tmp_path / "good"
    shutil.copytree(run.root, good)
    (z,) = (path for path in (run.latents / "latents/z/c/7").rglob("*") if path.is_file())
    for path in (z, run.synthetic / "00002.tar"):
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)

    found = Command("verify", run.root, environment=environment).end(code=1)
    assert "invert: shard 7 (rows 70 to 79)" in found
    assert "synthesize: shard 2 (rows 100 to 149)" in found
    assert "2 findings" in found
    left = times(run)
    assert len(left) == 2 * NUM_SHARDS + 4 - 2
    Command("run", spec, environment=environment).end()
    assert left.items() <= times(run).items()
    assert z.read_bytes() == (good / z.relative_to(run.root)).read_bytes()
    tar = run.synthetic / "00002.tar"
    assert tar.read_bytes() == (good / "synthetic" / tar.name).read_bytes()
    assert "nothing is damaged" in Command("verify", run.root, environment=environment).end()


def times(run):
    """Return when each marker was written, by its path."""
    return {path: path.stat().st_mtime_ns for path in run.root.glob("shards/*/*.json")}
