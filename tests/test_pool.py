"""The driver loop: every shard done once, faults retried, poison set aside and named."""

import pytest

from distfacegan.errors import CheckpointError
from distfacegan.stages.actors import WorkerError
from distfacegan.stages.pool import run_shards
from distfacegan.store import shards
from tests.fakes import BadSettingWorker, DyingWorker, FaultyWorker, MeetingWorker

pytestmark = pytest.mark.ray


def run(folder, faults=None, num_shards=8, num_workers=2, in_flight=1):
    """Run shards of 5 rows; return the set aside ones, and how often each shard was tried."""
    done = []
    plan = shards.split(5 * num_shards, 5)
    set_aside = run_shards(
        FaultyWorker,
        {"folder": folder, "faults": faults},
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
        MeetingWorker,
        {"folder": tmp_path},
        shards.split(10, 5),
        num_workers=1,
        resources={"num_cpus": 1},
        on_done=lambda stats: None,
        in_flight=2,
    )
    assert set_aside == []


def test_nothing_to_do_starts_no_worker(ray_cluster):
    assert (
        run_shards(
            BadSettingWorker, {}, [], num_workers=2, resources={}, on_done=lambda stats: None
        )
        == []
    )


@pytest.mark.parametrize(
    ("worker", "error", "words"),
    [
        (BadSettingWorker, CheckpointError, "another architecture"),
        (DyingWorker, WorkerError, "DyingWorker died 3 times while starting"),
    ],
)
def test_workers_that_cannot_be_constructed_stop_everything_at_once(
    ray_cluster, worker, error, words
):
    with pytest.raises(error, match=words):
        run_shards(
            worker,
            {},
            shards.split(100, 1),
            num_workers=2,
            resources={"num_cpus": 1},
            on_done=lambda stats: None,
        )
