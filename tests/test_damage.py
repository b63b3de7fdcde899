"""Damage and mixtures on disk: what `verify` and `run` know, and what they do about it."""

import dataclasses
import time

import pytest

from distfacegan.errors import RunDirectoryError
from distfacegan.store import files, groups, shards
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard
from tests.jobs import findings


@pytest.fixture
def photos(tmp_path):
    """A run with a finished stage ingest: 4 shards of 2 blank rows."""
    run = RunDirectory(tmp_path / "run")
    run.begin("ingest", {"resolution": 16}, {})
    group = groups.create_group(run.latents, "photos", num_rows=8, shard_rows=2, R=16)
    for shard in groups.plan(group):
        commit(run, group, dataclasses.replace(shard, made_of=run.identity("ingest")))
    run.note("ingest", rows=8, shards=4)
    run.end("ingest", finished=True, started=time.time())
    return run


def commit(run, group, shard):
    rows = groups.blank(group, len(shard))
    return groups.commit(group, run.markers("ingest"), shard, rows, time.time())


def own(run):
    return shards.own(run.markers("ingest"), run.identity("ingest"))


def mix_in(run, index):
    """Let a worker of a job with other settings write a shard; return the shard."""
    group = groups.open_group(run.latents, "photos")
    shard = dataclasses.replace(groups.plan(group)[index], made_of="of another job")
    shards.marker_path(run.markers("ingest"), index).unlink()
    commit(run, group, shard)
    return shard


def test_verify_names_a_shard_that_was_made_with_other_settings(photos):
    assert findings(photos) == []
    mix_in(photos, 2)
    [finding] = findings(photos)
    assert "shard 2 (rows 4 to 5): made with other settings or inputs" in finding
    assert shards.done(photos.markers("ingest")) == {0, 1, 3}
    assert not photos.finished("ingest")


def test_run_makes_a_shard_again_that_was_made_with_other_settings(photos, caplog):
    assert len(own(photos)) == 4
    mix_in(photos, 1)
    assert [marker.shard for marker in own(photos)] == [0, 2, 3]
    assert "made with other settings or inputs are made again: 1" in caplog.text
    assert shards.done(photos.markers("ingest")) == {0, 2, 3}


def test_a_worker_does_not_write_over_a_shard_of_other_settings(photos):
    group = groups.open_group(photos.latents, "photos")
    ours = dataclasses.replace(groups.plan(group)[0], made_of="of this job")
    before = files.read_json(shards.marker_path(photos.markers("ingest"), 0))
    with pytest.raises(RunDirectoryError, match=r"made shard 0 .* with other settings"):
        commit(photos, group, ours)
    assert files.read_json(shards.marker_path(photos.markers("ingest"), 0)) == before


def test_a_marker_of_an_earlier_version_stays_valid(photos):
    path = shards.marker_path(photos.markers("ingest"), 3)
    path.unlink()
    commit(photos, groups.open_group(photos.latents, "photos"), Shard(3, 6, 8))
    assert files.read_json(path)["made_of"] is None
    assert findings(photos) == []
    assert len(own(photos)) == 4
