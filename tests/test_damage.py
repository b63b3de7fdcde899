"""Damage and mixtures on disk: what `verify` and `run` know, and what they do about it."""

import dataclasses
import json
import re
import shutil
import time

import pytest
import torch

from distfacegan import pipeline
from distfacegan.cli import main
from distfacegan.errors import RunDirectoryError
from distfacegan.store import files, groups, metrics, shards, weight_files
from distfacegan.store.checkpoints import Checkpoints
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard
from tests.jobs import assert_equal_runs, findings, load_spec


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
    return list(shards.own(run.markers("ingest"), run.identity("ingest")))


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


# The second group holds the digests of some files of the first.
COVERED = [
    """job.yaml began/generator/meta.json began/checkpoints/00000200/meta.json began/metrics.jsonl
    lgen/trials.json synthetic/README.md report/index.html shards/synthesize/00003.json""",
    "lgen/final/meta.json lgen/evaluation.json synthetic/manifest.json report/summary.json",
]


def flip(path):
    """Flip the lowest bit of a letter or digit in the middle of a text file."""
    data = bytearray(path.read_bytes())
    places = [match.start() for match in re.finditer(rb"(?<=[0-9a-z])[2-8](?=[0-9a-z])", data)]
    data[places[len(places) // 2]] ^= 1
    path.write_bytes(data)


@pytest.mark.ray
@pytest.mark.parametrize("covered", COVERED, ids=["files", "digests"])
def test_a_flipped_bit_in_what_is_trusted_is_seen_and_made_good(
    finished, tmp_path, capsys, covered
):
    paths = covered.split()
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(finished.root, run.root)
    for path in paths:
        flip(run.root / path)
    assert main(["verify", str(run.root)]) == 1
    said = capsys.readouterr().out
    names = [re.sub("/meta.json|shards/|/00003.json", "", path) for path in paths]
    assert [name for name in names if name not in said] == []
    assert len(said.splitlines()) == len(paths) + 1
    assert pipeline.run(load_spec(tmp_path)) == pipeline.DONE
    assert findings(run) == []
    assert_equal_runs(run, finished)
    lost = len(metrics.read(finished.metrics)) - len(metrics.read(run.metrics))
    assert lost == ("began/metrics.jsonl" in paths)


def test_changed_settings_in_a_record_are_seen_and_nothing_is_deleted(photos):
    path = photos.record_path("ingest")
    path.write_text(path.read_text().replace('"resolution": 16', '"resolution": 17'))
    assert main(["verify", str(photos.root)]) == 2
    with pytest.raises(RunDirectoryError, match="distfacegan verify"):
        own(photos)
    assert shards.done(photos.markers("ingest")) == {0, 1, 2, 3}


def test_a_text_with_a_seal_is_the_text_and_a_comment():
    sealed = files.seal_text("a: 1\n")
    assert sealed.startswith("a: 1\n# Digest")
    assert files.is_whole_text(sealed)
    assert files.is_whole_text("a: 2\n")  # as earlier versions wrote it
    assert not files.is_whole_text(sealed.replace("1", "2", 1))


def test_a_seal_outlives_what_json_changes(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, files.seal({"b": {10: (1, 2), 9: None}, "a": 0.1}))
    assert files.read_json(path)["b"] == {"10": [1, 2], "9": None}
    assert files.read_json(path) == files.seal(files.read_json(path))


def checkpoints(run):
    """Write the checkpoints of steps 5, 10 and 15."""
    found = Checkpoints(run)
    for step in (5, 10, 15):
        found.write(step, {"generator": {"w": torch.full((9,), float(step))}}, {"step": step})
    return found


@pytest.mark.parametrize("name", ["generator.safetensors", "meta.json"])
@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, name, harm):
    run = RunDirectory(tmp_path)
    found = checkpoints(run)
    path = run.began / "checkpoints" / "00000015" / name
    data = path.read_bytes()
    changed = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    path.write_bytes(data[: len(data) // 2] if harm == "truncated" else changed)
    assert found.resume().meta["step"] == 10
    assert "the checkpoint of step 15 is damaged" in caplog.text
    assert "distfacegan verify" in caplog.text
    assert [path.name for path in found.kept()] == ["00000005", "00000010"]


def test_a_training_without_a_whole_checkpoint_starts_again(tmp_path):
    found = checkpoints(RunDirectory(tmp_path))
    for path in found.kept():
        (path / "generator.safetensors").write_bytes(b"")
    assert found.resume().checkpoint is None
    assert found.kept() == []


def test_damaged_rollbacks_are_said_and_nothing_is_deleted(tmp_path):
    found = checkpoints(RunDirectory(tmp_path))
    found.roll_back(12, "collapsed", 0.5)
    path = tmp_path / "began" / "rollbacks.json"
    path.write_text(path.read_text().replace('"to": 5', '"to": 4'))
    [finding] = found.verify()
    assert (finding.kind, str(path) in str(finding)) == ("unreadable", True)
    assert len(list((tmp_path / "began" / "checkpoints").iterdir())) == 1


def test_damaged_lines_of_metrics_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (5, 10, 15):
        metrics.append(path, metrics.MetricsLine(step, 0.2, 0.1, 0.3, 0.0, 1e-4, 80.0))
    path.write_text(path.read_text().replace('"step": 10', '"step": 11'))
    with pytest.raises(RunDirectoryError, match=r"line 2.*distfacegan verify"):
        metrics.read(path)
    assert metrics.mend(path) == 1
    assert [line.step for line in metrics.read(path)] == [5, 15]
    with path.open("a") as file:  # as earlier versions wrote it
        file.write(json.dumps(metrics.MetricsLine(20, 1, 1, 1, 1, 1, 1).to_json()) + "\n")
    assert metrics.mend(path) == 0


def test_every_message_about_damage_names_the_way_out(photos, tmp_path):
    shards.marker_path(photos.markers("ingest"), 0).write_text("{")
    weight_files.save(tmp_path / "w", {"g": {"w": torch.ones(9)}}, {})
    cut = tmp_path / "w" / "g.safetensors"
    cut.write_bytes(cut.read_bytes()[:-5])
    record = tmp_path / "r" / "stages" / "began.json"
    files.write_bytes(record, b"[]")
    for read in (
        lambda: list(shards.read_markers(photos.markers("ingest"))),
        lambda: weight_files.load(tmp_path / "w", "g"),
        lambda: RunDirectory(tmp_path / "r").record("began"),
    ):
        with pytest.raises(Exception, match="distfacegan verify"):
            read()
