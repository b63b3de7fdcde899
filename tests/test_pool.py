"""The driver loop: every shard done once, faults retried, poison set aside and named."""

import functools
import json
import os
import subprocess
import sys
import tempfile

import pytest

from distfacegan.bench import pool as bench
from distfacegan.errors import CheckpointError
from distfacegan.stages import actors, pool
from distfacegan.stages.actors import MAX_ATTEMPTS, NODE_LOSS, NodeLostError, WorkerError
from distfacegan.stages.pool import _Shards, run_shards
from distfacegan.store import shards
from tests.fakes import (
    BadPlaceWorker,
    BadSettingWorker,
    DyingWorker,
    FaultyWorker,
    MeetingWorker,
    OneAtATimeWorker,
    WaitsForAnotherWorker,
)

pytestmark = pytest.mark.ray


def run(folder, faults=None, num_shards=8, num_workers=2, in_flight=1):
    """Run shards of 5 rows; return the set aside ones, and how often each shard was tried."""
    done = []
    plan = shards.split(5 * num_shards, 5)
    set_aside = run_shards(
        functools.partial(FaultyWorker, folder=folder, faults=faults),
        plan,
        num_workers=num_workers,
        resources={"num_cpus": 1},
        on_done=lambda stats: done.append(stats.shard),
        in_flight=in_flight,
    )
    attempts = {int(p.name): len(list(p.iterdir())) for p in (folder / "attempts").iterdir()}
    assert sorted(done) == sorted(shards.done(folder / "markers"))
    return set_aside, attempts


@pytest.mark.parametrize(("num_workers", "in_flight"), [(1, 1), (2, 1), (2, 2)])
def test_every_shard_is_done_exactly_once(ray_cluster, tmp_path, num_workers, in_flight):
    set_aside, attempts = run(tmp_path, num_workers=num_workers, in_flight=in_flight)
    assert set_aside == []
    assert attempts == dict.fromkeys(range(8), 1)


def test_without_a_number_there_are_as_many_workers_as_the_cluster_has_room_for(
    ray_cluster, tmp_path
):
    run(tmp_path, dict.fromkeys(range(8), ("slow", 1)), num_workers=None)
    workers = {marker.worker for marker in shards.read_markers(tmp_path / "markers")}
    assert len(workers) == 2


def test_workers_that_find_no_place_hold_nothing_up(ray_cluster, tmp_path):
    set_aside, attempts = run(tmp_path, num_workers=7)
    assert set_aside == []
    assert attempts == dict.fromkeys(range(8), 1)


def test_a_shard_that_hangs_is_taken_over_by_an_idle_worker(ray_cluster, tmp_path):
    set_aside, attempts = run(tmp_path, {0: ("hang", 1)})
    assert set_aside == []
    assert attempts == dict.fromkeys(range(8), 1) | {0: 2}
    assert len(list((tmp_path / "markers").iterdir())) == 8


def test_a_shard_queued_behind_one_that_hangs_is_taken_over(ray_cluster, tmp_path):
    """Both shards of the worker that hangs are: it computes one at a time."""
    done = []
    run_shards(
        functools.partial(OneAtATimeWorker, folder=tmp_path, faults={0: ("hang", 1)}),
        shards.split(8, 1),
        num_workers=2,
        resources={"num_cpus": 1},
        on_done=lambda stats: done.append(stats.shard),
        in_flight=2,
    )
    assert sorted(done) == list(range(8))


@pytest.mark.parametrize(("interrupts", "done_after"), [(1, 3), (2, 2)])
def test_an_interrupt_lets_the_shards_in_flight_end_and_a_second_one_does_not(
    ray_cluster, tmp_path, interrupts, done_after
):
    done = []

    def interrupt(stats):
        done.append(stats.shard)
        if len(done) <= interrupts:
            raise KeyboardInterrupt

    faults = dict.fromkeys(range(1, 8), ("slow", 1))
    with pytest.raises(KeyboardInterrupt):
        run_shards(
            functools.partial(FaultyWorker, folder=tmp_path, faults=faults),
            shards.split(8, 1),
            num_workers=1,
            resources={"num_cpus": 1},
            on_done=interrupt,
            in_flight=3,
        )
    assert len(done) == done_after
    assert len(list((tmp_path / "attempts").iterdir())) == 3


@pytest.mark.parametrize("kind", ["raise", "die"])
def test_a_passing_fault_is_retried(ray_cluster, tmp_path, kind):
    set_aside, attempts = run(tmp_path, {3: (kind, 2)})
    assert set_aside == []
    assert attempts == dict.fromkeys(range(8), 1) | {3: 3}


@pytest.mark.parametrize("kind", ["raise", "die"])
def test_a_poison_shard_is_set_aside_and_the_rest_is_finished(ray_cluster, tmp_path, kind):
    set_aside, attempts = run(tmp_path, {3: (kind, 99)})
    assert [failure.shard.index for failure in set_aside] == [3]
    assert ("fault in shard 3" if kind == "raise" else "ActorDiedError") in set_aside[0].reason
    assert attempts == dict.fromkeys(range(8), 1) | {3: 3}
    assert shards.done(tmp_path / "markers") == set(range(8)) - {3}


def test_of_two_shards_in_flight_only_the_poison_is_set_aside(ray_cluster, tmp_path):
    set_aside, attempts = run(tmp_path, {3: ("die", 99)}, num_workers=1, in_flight=2)
    assert [failure.shard.index for failure in set_aside] == [3]
    assert attempts[3] == 3
    assert max(attempts[other] for other in set(attempts) - {3}) <= 2  # its companion, perhaps
    assert shards.done(tmp_path / "markers") == set(range(8)) - {3}


def test_two_shards_in_flight_run_side_by_side(ray_cluster, tmp_path):
    """Each waits for the other: one after the other, both would fail."""
    set_aside = run_shards(
        functools.partial(MeetingWorker, folder=tmp_path),
        shards.split(10, 5),
        num_workers=1,
        resources={"num_cpus": 1},
        on_done=lambda stats: None,
        in_flight=2,
    )
    assert set_aside == []


def test_a_second_shard_waits_while_others_start():
    waiting = _Shards(shards.split(3, 1))
    assert waiting.next(idle=False, num_starting=3) is None
    assert waiting.next(idle=False, num_starting=2).index == 0
    assert waiting.next(idle=True, num_starting=2).index == 1


def test_a_failed_shard_waits_for_an_idle_worker_and_holds_up_no_other():
    waiting = _Shards(shards.split(4, 1))
    failed = waiting.next(idle=True, num_starting=0)
    waiting.next(idle=True, num_starting=0)
    waiting.end(failed.index, OSError())
    assert waiting.next(idle=False, num_starting=0) is None  # so that a worker gets idle
    assert waiting.next(idle=True, num_starting=0) is failed
    assert waiting.has_failed(failed)
    assert [waiting.next(idle=True, num_starting=0).index for _ in range(2)] == [2, 3]


def test_the_loss_of_a_node_is_no_attempt_but_has_an_end():
    waiting = _Shards(shards.split(1, 1))
    for _ in range(round(MAX_ATTEMPTS / NODE_LOSS)):
        assert not waiting.set_aside
        shard = waiting.next(idle=True, num_starting=0)
        waiting.end(shard.index, NodeLostError("gone"))
    assert [failure.shard for failure in waiting.set_aside] == [shard]


def test_the_slower_of_two_workers_at_a_shard_changes_nothing(monkeypatch):
    monkeypatch.setattr(pool, "TAKE_OVER_S", 0.0)
    waiting = _Shards(shards.split(2, 1))
    stats = shards.ShardStats(0, 0, 1, {}, {}, 0.0, "", 0.0)
    first = waiting.next(idle=True, num_starting=0)
    assert waiting.next(idle=False, num_starting=0).index == 1
    assert waiting.next(idle=True, num_starting=0).index == 1  # it was queued behind the other
    assert waiting.next(idle=True, num_starting=0) is None  # nobody knows yet how long one takes
    assert waiting.end(1, stats) is stats
    assert waiting.next(idle=True, num_starting=0) is first
    assert waiting.next(idle=True, num_starting=0) is None  # two are at it
    assert waiting.end(0, stats) is stats
    assert waiting.end(0, OSError()) is None
    assert waiting.end(1, stats) is None
    assert waiting.left == 0
    assert waiting.set_aside == []


def test_the_bench_measures_what_the_table_says(ray_cluster, monkeypatch):
    monkeypatch.setattr(bench, "SHARDS_EACH", 2)
    monkeypatch.setattr(bench, "SLOWNESS", 2.0)
    monkeypatch.setattr(bench, "RESOURCES", {"num_cpus": 1.0})
    text = bench.table(bench.measure(num_shards=40, workers=2))
    assert text.startswith("40 shards of no time, 2 workers: ")
    assert bench._greedy([1.0, 1.0, 1.0], speeds=[1.0, 0.5]) == 2.0


def test_nothing_to_do_starts_no_worker(ray_cluster):
    assert (
        run_shards(BadSettingWorker, [], num_workers=2, resources={}, on_done=lambda stats: None)
        == []
    )


def test_places_that_the_cluster_gets_later_are_used(ray_cluster, tmp_path, monkeypatch):
    """The first worker stands when there is a place for a second, and waits for it."""

    def here():
        return len(list(tmp_path.glob("here-*")))

    monkeypatch.setattr(pool.cluster, "room", lambda resources: 1 + min(here(), 1))
    monkeypatch.setattr(pool, "LOOK_EVERY_S", 0.1)
    set_aside = run_shards(
        functools.partial(WaitsForAnotherWorker, folder=tmp_path),
        shards.split(4, 1),
        num_workers=None,
        resources={"num_cpus": 1},
        on_done=lambda stats: None,
    )
    assert set_aside == []
    assert here() == 2


def test_a_worker_that_is_lost_with_its_node_costs_no_attempt(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "MAX_ATTEMPTS", 1)
    faults = {3: ("die", 2)}
    with monkeypatch.context() as patch:
        patch.setattr(actors.ray, "nodes", list)  # none is alive
        set_aside, attempts = run(tmp_path / "lost", faults)
    assert set_aside == []
    assert attempts[3] == 3
    set_aside, attempts = run(tmp_path / "killed", faults)
    assert [failure.shard.index for failure in set_aside] == [3]
    assert attempts[3] == 1


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("going", ["graceful", "killed"])
def test_nodes_that_join_are_used_and_the_loss_of_one_is_no_attempt(tmp_path, going):
    """In a process of its own, in which one attempt is all that a shard has."""
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    environment.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="dfg", dir="/tmp", ignore_cleanup_errors=True) as short:
        process = subprocess.run(
            [sys.executable, "-m", "tests.elastic", str(tmp_path), going],
            env=environment | {"RAY_TMPDIR": short},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["done_without_gpu"] == 0
    assert report["first_used"]
    assert report["second_used"]
    assert report["done_when_node_went"] < 150
    assert report["set_aside"] == []
    assert report["done"] == list(range(150))


def test_one_bad_node_does_not_stop_the_others(ray_cluster, tmp_path):
    done = []
    set_aside = run_shards(
        functools.partial(BadPlaceWorker, folder=tmp_path),
        shards.split(30, 5),
        num_workers=2,
        resources={"num_cpus": 1},
        on_done=lambda stats: done.append(stats.shard),
    )
    assert set_aside == []
    assert sorted(done) == list(range(6))


@pytest.mark.parametrize(
    ("worker", "error", "words"),
    [
        (BadSettingWorker, CheckpointError, "another architecture"),
        (DyingWorker, WorkerError, "DyingWorker could not start on any node"),
    ],
)
def test_workers_that_cannot_be_constructed_stop_everything_at_once(
    ray_cluster, worker, error, words
):
    with pytest.raises(error, match=words):
        run_shards(
            worker,
            shards.split(100, 1),
            num_workers=2,
            resources={"num_cpus": 1},
            on_done=lambda stats: None,
        )
