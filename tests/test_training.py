"""One rank's part of a training: what it sees, how it resumes, what it does about a collapse."""

import json

import numpy as np
import pytest
import torch

from distfacegan.core.order import part_of_batch
from distfacegan.errors import RunDirectoryError
from distfacegan.sources.procedural import ProceduralFaces
from distfacegan.stages import began, feed
from distfacegan.stages.feed import Feed, StoredFaces, memory_bytes
from distfacegan.stages.stage import Job
from distfacegan.stages.training import Training, TrainingDivergedError, last_step
from distfacegan.store import groups, metrics, weight_files
from distfacegan.store.checkpoints import Checkpoints
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status
from tests.jobs import load_spec
from tests.test_stages import ingest


@pytest.fixture(scope="module")
def faces():
    """Twelve procedural faces."""
    return ProceduralFaces(12, seed=5)


def began_run(folder, faces, rows_of_shard=100, **section):
    """Return a run directory with faces, and the settings to train on them."""
    run = RunDirectory(folder / "run")
    ingest(faces, run, rows_of_shard)
    defaults = {"resolution": 16, "width": 4, "levels": 2, "latent_dim": 4, "batch": 4}
    defaults |= {"steps": 20, "checkpoint_every": 5, "metrics_every": 5}
    defaults |= {"watch": {"on_collapse": "warn"}}
    return run, load_spec(folder, began=defaults | section).began


def test_training_that_was_interrupted_equals_training_that_was_not(faces, tmp_path, monkeypatch):
    states = []
    for name, stop in (("whole", 99), ("broken", 13)):
        run, section = began_run(tmp_path / name, faces)
        training = Training(run, section, seed=1, without_shards=[])
        step = training.trainer.step

        def interrupted(*batch, step=step, training=training, stop=stop):
            if training.trainer.num_steps == stop:
                raise KeyboardInterrupt
            step(*batch)

        monkeypatch.setattr(training.trainer, "step", interrupted)
        if stop < section.steps:
            with pytest.raises(KeyboardInterrupt):
                training.run()
            training = Training(run, section, seed=1, without_shards=[])
            assert training.trainer.num_steps == 10  # the newest checkpoint
        training.run()
        states.append(weight_files.load(run.began / "generator", "generator"))
        steps = [line.step for line in metrics.read(run.metrics)]
        assert steps == [5, 10, 15, 20]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_training_sees_the_faces_and_nothing_else(faces, tmp_path):
    run, _ = began_run(tmp_path, faces)
    photos = groups.open_group(run.latents, "photos")
    photos["status"][:] = [Status.OK, Status.NO_FACE] * 6
    stored = StoredFaces(run, 16, [])
    seen = stored.shard(0)
    assert seen.shape == (6, 16, 16, 3)
    assert (stored.count, stored.sizes, stored.num_bytes) == (6, [6], 6 * 16 * 16 * 3)
    image = groups.read(photos, "image")[2].astype(float)
    small = image.reshape(16, 2, 16, 2, 3).mean((1, 3))  # averaged over squares of 2 by 2
    np.testing.assert_allclose(seen[1], small, atol=0.51)


def test_a_training_that_diverges_says_so(faces, tmp_path):
    run, section = began_run(tmp_path, faces, learning_rate=1e20)
    training = Training(run, section, seed=1, without_shards=[])
    with pytest.raises(TrainingDivergedError, match=r"at step 5: m_global is nan.*lower") as caught:
        training.run()
    assert "began.learning_rate (it is 1e+20)" in str(caught.value)


def test_training_without_a_face_says_so(faces, tmp_path):
    run, section = began_run(tmp_path, faces)
    groups.open_group(run.latents, "photos")["status"][:] = Status.NO_FACE
    with pytest.raises(RunDirectoryError, match="no face to train on"):
        Training(run, section, seed=1, without_shards=[])


def seen_by(stored, section, steps, rank=0, world=1):
    """Return the faces and latents of some steps of a rank."""
    mine = part_of_batch(section.batch, rank, world)
    made = Feed(stored, section, seed=3, mine=mine, device=torch.device("cpu"))
    batches = [made.batch(step) for step in steps]
    return [torch.stack(part) for part in zip(*batches, strict=True)]


@pytest.mark.parametrize("whole_gb", [16, 1e-9])
@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_share_the_batch_whether_faces_are_kept_or_streamed(
    faces, tmp_path, whole_gb, world
):
    run, section = began_run(tmp_path, faces, rows_of_shard=3, whole_gb=whole_gb, batch=6)
    stored = StoredFaces(run, 16, [])
    alone = seen_by(stored, section, range(9))
    shared = [seen_by(stored, section, range(9), rank, world) for rank in range(world)]
    for whole, parts in zip(alone, zip(*shared, strict=True), strict=True):
        assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("whole_gb", [16, 1e-9])
def test_a_feed_that_starts_later_or_goes_back_gives_the_same_batches(faces, tmp_path, whole_gb):
    run, section = began_run(tmp_path, faces, rows_of_shard=3, whole_gb=whole_gb)
    stored = StoredFaces(run, 16, [])
    whole, _ = seen_by(stored, section, range(12))
    later, _ = seen_by(stored, section, [7, 8, 2, 3])
    assert torch.equal(later, whole[[7, 8, 2, 3]])
    faces_of_epochs = whole.flatten(1).unique(dim=0)
    assert whole.flatten(0, 1).flatten(1).unique(dim=0).shape[0] == 12  # all, in four epochs
    assert faces_of_epochs.shape[0] > 6  # and the batches differ


def test_a_stream_holds_two_shards_of_its_own_lanes(faces, tmp_path, monkeypatch):
    run, section = began_run(tmp_path, faces, rows_of_shard=2, whole_gb=1e-9, batch=2)
    monkeypatch.setattr(feed, "LANES", 2)
    stored = StoredFaces(run, 16, [])
    stream = feed._Stream(stored, 2, seed=3, mine=slice(0, 1))  # the first of two lanes
    for step in range(40):
        stream.faces(step)
        assert len(stream._read) <= 2
    assert memory_bytes(section, 12, shard_rows=2) == (2 * 2 * 2 * 16 * 16 * 3, False)
    assert memory_bytes(section.model_copy(update={"whole_gb": 1.0}), 12, 2) == (9216, True)


def test_streamed_training_resumes_exactly(faces, tmp_path):
    states = []
    for name, stops in (("whole", [20]), ("parts", [10, 20])):
        for stop in stops:
            run, section = began_run(
                tmp_path / name, faces, rows_of_shard=3, whole_gb=1e-9, steps=stop
            )
            Training(run, section, seed=1, without_shards=[]).run()
        states.append(weight_files.load(run.began / "generator", "generator"))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def looks(run):
    return [line for line in metrics.read(run.metrics) if line.diversity_ratio is not None]


def test_a_look_measures_the_faces_and_draws_them(faces, tmp_path):
    run, section = began_run(tmp_path, faces, watch={"every": 4, "on_collapse": "warn"})
    Training(run, section, seed=1, without_shards=[]).run()
    found = looks(run)
    assert [line.step for line in found] == [4, 5, 8, 10, 12, 15, 16, 20]
    for line in found:
        assert 0 < line.diversity_ratio < 1  # an untrained generator: grey, and all alike
        assert line.encoder_distance > 0
        assert line.nearest_ratio > 1
    drawn = sorted(int(path.stem) for path in (run.began / "samples").iterdir())
    assert drawn == [line.step for line in found]


def test_faces_that_are_one_and_the_same_are_not_compared(faces, tmp_path):
    run, section = began_run(tmp_path, faces)
    groups.open_group(run.latents, "photos")["status"][1:] = Status.NO_FACE
    Training(run, section, seed=1, without_shards=[]).run()
    assert looks(run) == []
    assert len(metrics.read(run.metrics)) == 4


COLLAPSE = {"min_diversity": 0.9, "grace": 8, "every": 1000}  # no generator has so much so soon


def test_a_collapse_stops_the_training_and_says_what_to_try(faces, tmp_path):
    run, section = began_run(tmp_path, faces, watch=COLLAPSE)
    with pytest.raises(
        TrainingDivergedError, match="collapsed at step 10: generated faces"
    ) as told:
        Training(run, section, seed=1, without_shards=[]).run()
    assert "larger began.gamma (it is 0.5)" in str(told.value)
    assert last_step(run) == 5  # what was still good
    assert [line.step for line in metrics.read(run.metrics)] == [5, 10]


def test_a_collapse_before_the_first_checkpoint_says_that_there_is_none(faces, tmp_path):
    watch = COLLAPSE | {"on_collapse": "rollback", "grace": 2, "every": 2}
    run, section = began_run(tmp_path, faces, watch=watch)
    with pytest.raises(TrainingDivergedError, match=r"at step 2.*no checkpoint yet to go back to"):
        Training(run, section, seed=1, without_shards=[]).run()


def test_pictures_that_are_not_numbers_have_no_diversity(faces, tmp_path):
    run, section = began_run(tmp_path, faces)
    training = Training(run, section, seed=1, without_shards=[])
    with torch.no_grad():
        training.trainer.generator.stem.bias[0] = float("nan")
    assert training._look_at_faces() == {"diversity_ratio": 0.0}


def test_a_stall_is_looked_for_as_often_when_a_training_goes_on(tmp_path):
    specs = [
        load_spec(
            tmp_path / str(i), began={"resolution": 32, "metrics_every": every, "stall": stall}
        )
        for i, (every, stall) in enumerate([(5, None), (10, None), (5, 100), (10, 100)])
    ]
    settings = [began.STAGE.settings(Job(spec)) for spec in specs]
    assert settings[0] == settings[1]
    assert settings[2] != settings[3]


def test_a_collapse_may_be_gone_back_behind_at_half_the_rate(faces, tmp_path, caplog):
    watch = COLLAPSE | {"on_collapse": "rollback", "max_rollbacks": 2}
    run, section = began_run(tmp_path, faces, watch=watch)
    with pytest.raises(TrainingDivergedError, match="this run went back 2 times"):
        Training(run, section, seed=1, without_shards=[]).run()
    rollbacks = json.loads((run.began / "rollbacks.json").read_text())
    assert [(r["step"], r["to"], r["learning_rate_scale"]) for r in rollbacks] == [
        (10, 5, 0.5),
        (10, 5, 0.25),
    ]
    assert caplog.text.count("back to step 5\n") == 2
    # Whoever goes on from here does so at the lower rate.
    assert Training(run, section, seed=1, without_shards=[]).trainer.learning_rate_scale == 0.25


def test_a_training_that_recovers_after_going_back_comes_to_its_end(faces, tmp_path, monkeypatch):
    run, section = began_run(tmp_path, faces, watch=COLLAPSE | {"on_collapse": "rollback"})
    training = Training(run, section, seed=1, without_shards=[])
    seen = {5: 0.95, 10: 0.99, 15: 0.1}  # the collapse is at 15

    def look():
        step = training.trainer.num_steps
        return {"diversity_ratio": 0.97 if training._checkpoints.rollbacks() else seen[step]}

    monkeypatch.setattr(training, "_look_at_faces", look)
    training.run()
    assert [r.to for r in training._checkpoints.rollbacks()] == [10]
    lines = metrics.read(run.metrics)
    assert [line.step for line in lines] == [5, 10, 15, 20]
    rates = [line.learning_rate / section.learning_rate for line in lines]
    assert rates == pytest.approx([1, 1, 0.5, 0.5])
    assert Checkpoints(run).kept()[-1].name == "00000020"


def test_a_training_killed_while_it_goes_back_finishes_that_first(faces, tmp_path):
    run, section = began_run(tmp_path, faces)
    Training(run, section, seed=1, without_shards=[]).run()
    rollback = {"step": 20, "to": 10, "reason": "a test", "learning_rate_scale": 0.5}
    (run.began / "rollbacks.json").write_text(json.dumps([rollback]))  # and no more
    assert last_step(run) == 10
    training = Training(run, section, seed=1, without_shards=[])
    assert (training.trainer.num_steps, training.trainer.learning_rate_scale) == (10, 0.5)
    assert [path.name for path in Checkpoints(run).kept()] == ["00000010"]
    assert [line.step for line in metrics.read(run.metrics)] == [5, 10]
    assert not (run.began / "samples" / "00000020.png").exists()
    training.run()
    assert last_step(run) == 20


def test_losses_that_are_not_numbers_are_gone_back_behind_too(faces, tmp_path, monkeypatch):
    watch = {"on_collapse": "rollback", "min_diversity": 0.0}
    run, section = began_run(tmp_path, faces, watch=watch)
    training = Training(run, section, seed=1, without_shards=[])
    step = training.trainer.step

    def poisoned(images, z, share):
        first_time = training.trainer.num_steps == 12 and training.trainer.learning_rate_scale == 1
        step(images * float("nan") if first_time else images, z, share)

    monkeypatch.setattr(training.trainer, "step", poisoned)
    training.run()
    rollbacks = training._checkpoints.rollbacks()
    assert [(r.step, r.reason) for r in rollbacks] == [(15, "m_global is nan")]
    assert np.isfinite(metrics.read(run.metrics)[-1].m_global)


def test_a_stall_halves_the_rate_and_a_resumed_training_knows(faces, tmp_path, monkeypatch):
    run, section = began_run(tmp_path, faces, stall=5, steps=15)
    training = Training(run, section, seed=1, without_shards=[])
    training._plateau.best = 0.0  # nothing is better
    training.run()
    rates = [line.learning_rate / 1e-4 for line in metrics.read(run.metrics)]
    assert rates == pytest.approx([1, 0.5, 0.25])
    again = Training(run, section, seed=1, without_shards=[])
    assert again.trainer.learning_rate_scale == 0.125
    assert again._plateau == training._plateau


def test_the_moving_average_is_what_later_stages_get(faces, tmp_path):
    run, section = began_run(tmp_path, faces, ema=0.5)
    training = Training(run, section, seed=1, without_shards=[])
    training.run()
    published = weight_files.load(run.began / "generator", "generator")
    averaged = training.trainer.averaged.state_dict()
    assert all(torch.equal(published[name], averaged[name]) for name in averaged)
    assert not torch.equal(published["stem.weight"], training.trainer.generator.stem.weight)
