"""The workers of a BEGAN training: their number does not show in it, nor does the loss of some."""

import json
import os
import subprocess
import sys
import time

import pytest
import ray.train
import torch

from distfacegan import pipeline
from distfacegan.errors import RunDirectoryError
from distfacegan.stages import began, cluster
from distfacegan.stages.training import Training, last_step
from distfacegan.store import metrics, weight_files
from distfacegan.store.run_directory import RunDirectory
from tests import training_loops
from tests.chaos import Command, short_folder
from tests.jobs import load_spec, write_spec
from tests.ray_head import ray_head
from tests.training_loops import DIES_AT, starts

INGEST = {"source": {"kind": "procedural", "count": 20}, "resolution": 16, "shard_rows": 10}
SHAPE = {"resolution": 16, "latent_dim": 4, "width": 4, "levels": 2, "steps": 50}
BEGAN = SHAPE | {"batch": 5, "lambda_k": 0.05, "checkpoint_every": 10, "metrics_every": 10}
PARTS = dict.fromkeys(("landmarks", "invert", "lgen", "synthesize", "report"))


def train(folder, loop, **section):
    spec = load_spec(folder, ingest=INGEST, began=BEGAN | section, **PARTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(began, "_train_loop", loop)
        assert pipeline.run(spec) == pipeline.DONE
    return RunDirectory(folder / "run")


@pytest.fixture
def keep(record_property):
    """Keep how long a training took to go on for the summary of the tests."""
    return lambda what, seconds: record_property(
        "cost", f"BEGAN, {what}: goes on after {seconds:.1f} s"
    )


@pytest.fixture(scope="module")
def two_workers(ray_cluster, tmp_path_factory):
    return train(tmp_path_factory.mktemp("two"), training_loops.undisturbed, workers=2)


@pytest.mark.ray
def test_two_workers_write_the_metrics_of_one(two_workers, tmp_path):
    spec = load_spec(tmp_path, ingest=INGEST, began=BEGAN, **PARTS)
    alone = RunDirectory(tmp_path / "run")
    pipeline.run(spec, only=["ingest"])
    Training(alone, spec.began, seed=spec.seed, without_shards=[]).run()
    assert [start.workers for start in starts(two_workers.root)] == [2]
    names = ("step", "loss_real", "loss_fake", "m_global", "k")
    found, expected = (
        [[getattr(line, name) for name in names] for line in metrics.read(run.metrics)]
        for run in (two_workers, alone)
    )
    assert [line[0] for line in found] == [10, 20, 30, 40, 50]
    assert found[-1][-1] > 0.01  # so that k has a part in it
    assert found == [pytest.approx(line, rel=1e-5) for line in expected]


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_worker_costs_two_checkpoints_at_most_and_leaves_no_trace(
    two_workers, tmp_path, keep
):
    run = train(tmp_path, training_loops.rank_1_is_killed_once, workers=2)
    first, second = starts(run.root)
    assert first.step == 0
    assert DIES_AT - 2 * BEGAN["checkpoint_every"] <= second.step < DIES_AT
    lines = metrics.read(run.metrics)
    assert [line.step for line in lines] == [10, 20, 30, 40, 50]
    keep("a worker was killed", second.time - lines[second.step // 10 - 1].time)
    assert left(run) == left(two_workers)
    found, expected = (
        weight_files.load(r.began / "generator", "generator") for r in (run, two_workers)
    )
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def left(run):
    """Return the files and folders that a training has left in its run directory."""
    return {str(path.relative_to(run.began)) for path in run.began.rglob("*")}


@pytest.mark.ray
@pytest.mark.slow
def test_an_error_of_ours_on_any_rank_ends_the_training_at_once(ray_cluster, tmp_path):
    with pytest.raises(RunDirectoryError, match="rank 1 finds bad data"):
        train(tmp_path, training_loops.rank_1_finds_bad_data, workers=2)
    assert len(starts(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("nodes", "workers", "on", "cores"),
    [
        ([(2, 0)], 2, "cpu", 1),
        ([(2, 0)], 1, "cpu", 2),
        ([(6, 0), (2, 0)], 2, "cpu", 3),  # not 4, half of all: the second would find no place
        ([(64, 0), (8, 4), (8, 4)], 8, "cuda", 2),  # the head's 64 are of no use
        ([(16, 2), (4, 2)], 2, "cuda", 8),
        ([(2, 2)], 4, "cuda", 1),
    ],
)
def test_workers_take_as_many_cores_as_leave_all_of_them_a_place(
    monkeypatch, nodes, workers, on, cores
):
    resources = [
        {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {}) for cpus, gpus in nodes
    ]
    found = [{"Alive": True, "Resources": each} for each in resources]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: found)
    assert cluster.cpus_each(workers, on) == cores


@pytest.mark.ray
@pytest.mark.parametrize(
    ("reached", "num_attempts"),
    [
        ([0, 0, 0, 0], 4),
        ([0, 0, 10, 10, 10, 20, 20, 20, 20], 9),
    ],
)
def test_only_failures_without_progress_are_counted(
    ray_cluster, tmp_path, monkeypatch, reached, num_attempts
):
    attempts = []  # the newest checkpoint after each

    class Trainer:
        def fit(self):
            attempts.append(reached[len(attempts)])
            raise ray.train.WorkerGroupError("lost", {1: ConnectionError("gone")})

    monkeypatch.setattr(began, "_trainer", lambda *_: Trainer())
    monkeypatch.setattr(began, "last_step", lambda _: attempts[-1] if attempts else 0)
    with pytest.raises(ray.train.WorkerGroupError):
        began._train(load_spec(tmp_path), RunDirectory(tmp_path / "run"), [])
    assert len(attempts) == num_attempts


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_number_of_workers_follows_the_nodes(tmp_path, keep):
    """In a process of its own, whose cluster changes."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with short_folder() as short:
        process = subprocess.run(
            [sys.executable, "-m", "tests.elastic_training", str(tmp_path)],
            env=environment | {"RAY_TMPDIR": short},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["codes"] == [pipeline.DONE]
    assert report["workers"] == [1, 2, 1]
    assert report["joined"]["from"] > 0
    assert report["lost"]["from"] == report["reached"]
    keep("a node joined", report["joined"]["goes_on_s"])
    keep("a node was lost", report["lost"]["goes_on_s"])


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_driver_leaves_no_claim_on_the_places_of_a_cluster(tmp_path, keep):
    section = BEGAN | {"steps": 20_000, "workers": 2, "min_workers": 1}
    spec = write_spec(tmp_path, ingest=INGEST, began=section, **PARTS)
    run = RunDirectory(tmp_path / "run")
    with ray_head() as head:
        environment = head.environment(RAY_ADDRESS=head.address)
        job = Command("run", spec, environment=environment)
        job.until(lambda: last_step(run) > 0)
        job.kill()
        reached, struck = last_step(run), time.time()
        job = Command("run", spec, environment=environment)
        job.until(lambda: last_step(run) > reached)
        keep("its driver was killed, the cluster lives on", time.time() - struck)
        assert time.time() - struck < 150  # a claim of the first would be kept for 180 s and more
        job.kill()
