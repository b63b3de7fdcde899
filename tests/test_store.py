"""What is on disk: files, shards, the latent store, checkpoints, the generated dataset."""

import errno
import json
import os
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import zarr

from distfacegan.errors import CheckpointError, RunDirectoryError
from distfacegan.store import files, groups, shards, weight_files
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.schema import GROUPS
from distfacegan.store.shards import Shard, Status
from tests.jobs import findings


def photos(store, rows=10, shard_rows=4, side=16):
    return groups.create_group(store, "photos", num_rows=rows, shard_rows=shard_rows, R=side)


def faces(shard, seed=0):
    """Return one shard of every array of photos/, from a seed."""
    random = np.random.default_rng(seed)
    rows = len(shard)
    return {
        "image": random.integers(0, 255, (rows, 16, 16, 3), dtype=np.uint8),
        "box": random.random((rows, 4), dtype=np.float32),
        "key": np.array([f"{row:06d}.jpg" for row in shard.rows], dtype=object),
        "brightness": np.full(len(shard), 0.5, np.float32),
        "status": np.full(rows, Status.OK, np.uint8),
    }


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "deep" / "a.json"
    files.write_json(path, {"a": 1})
    files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 2}
    assert os.listdir(path.parent) == ["a.json"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write_bytes(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("rows", "shard_rows", "expected"),
    [
        (10, 4, [(0, 0, 4), (1, 4, 8), (2, 8, 10)]),
        (8, 4, [(0, 0, 4), (1, 4, 8)]),
        (3, 4, [(0, 0, 3)]),
        (0, 4, []),
    ],
)
def test_rows_are_split_into_shards(rows, shard_rows, expected):
    assert list(shards.split(rows, shard_rows)) == [Shard(*parts) for parts in expected]


def test_every_array_comes_back_as_it_was_committed(tmp_path):
    group = photos(tmp_path / "s.zarr")
    for shard in groups.plan(group):
        groups.commit(group, tmp_path / "m", shard, faces(shard, shard.index), time.time())
    again = groups.open_group(tmp_path / "s.zarr", "photos")
    for shard in groups.plan(again):
        for name, expected in faces(shard, shard.index).items():
            np.testing.assert_array_equal(groups.read(again, name, shard), expected)


def test_a_shard_of_rows_is_one_file_of_every_array(tmp_path):
    group = photos(tmp_path / "s.zarr")
    for shard in groups.plan(group):
        groups.commit(group, tmp_path / "m", shard, faces(shard), time.time())
    for name in GROUPS["photos"]:
        chunks = tmp_path / "s.zarr" / "photos" / name / "c"
        assert sum(path.is_file() for path in chunks.rglob("*")) == 3


def test_a_marker_says_what_was_written(tmp_path):
    group = photos(tmp_path / "s.zarr")
    shard = groups.plan(group)[2]
    arrays = faces(shard)
    arrays["status"][1] = Status.NO_FACE
    groups.commit(group, tmp_path / "m", shard, arrays, time.time() - 2)
    [marker] = shards.read_markers(tmp_path / "m")
    assert (marker.shard, marker.start, marker.stop) == (2, 8, 10)
    assert marker.statuses == {"ok": 1, "no face": 1}
    assert 2 <= marker.seconds < 10
    names = ("image", "box", "key", "brightness", "status")
    assert set(marker.digests) == {f"photos/{name}" for name in names}
    assert shards.done(tmp_path / "m") == {2}


def test_of_two_workers_at_one_shard_the_first_one_counts(tmp_path):
    group = photos(tmp_path / "s.zarr")
    shard = groups.plan(group)[1]
    first, second = faces(shard, seed=1), faces(shard, seed=2)
    made = groups.commit(group, tmp_path / "m", shard, first, time.time())
    assert groups.commit(group, tmp_path / "m", shard, second, time.time()) == made
    np.testing.assert_array_equal(groups.read(group, "image", shard), first["image"])


def test_a_commit_of_the_wrong_arrays_writes_nothing(tmp_path):
    group = photos(tmp_path / "s.zarr")
    shard = groups.plan(group)[0]
    arrays = faces(shard)
    del arrays["box"]
    with pytest.raises(KeyError, match="photos holds"):
        groups.commit(group, tmp_path / "m", shard, arrays, time.time())
    assert shards.done(tmp_path / "m") == set()
    assert not (tmp_path / "s.zarr" / "photos" / "image" / "c").exists()


def test_a_group_of_another_shape_is_refused_by_array(tmp_path):
    photos(tmp_path / "s.zarr", side=16)
    with pytest.raises(RunDirectoryError) as caught:
        photos(tmp_path / "s.zarr", side=32)
    assert "image: uint8 [10, 16, 16, 3]" in str(caught.value)
    assert "uint8 [10, 32, 32, 3]" in str(caught.value)


def test_a_group_whose_making_was_interrupted_is_made_again(tmp_path):
    group = photos(tmp_path / "s.zarr")
    del group.attrs["shard_rows"]  # written last
    assert groups.num_rows(photos(tmp_path / "s.zarr", rows=6)) == 6


def test_a_missing_group_says_which_stage_is_missing(tmp_path):
    zarr.open_group(tmp_path / "s.zarr", mode="a")
    with pytest.raises(RunDirectoryError, match="no group 'latents'"):
        groups.open_group(tmp_path / "s.zarr", "latents")


def test_a_flipped_bit_is_an_error_and_never_a_wrong_face(tmp_path):
    group = photos(tmp_path / "s.zarr")
    shard = groups.plan(group)[0]
    groups.commit(group, tmp_path / "m", shard, faces(shard), time.time())
    [path] = [p for p in (tmp_path / "s.zarr/photos/image/c").rglob("*") if p.is_file()]
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunDirectoryError, match=r"photos/image, rows 0 to 4"):
        groups.read(group, "image", shard)


def test_a_lost_file_is_an_error_and_never_a_black_face(tmp_path):
    group = photos(tmp_path / "s.zarr")
    shard = groups.plan(group)[0]
    arrays = faces(shard) | {"image": np.zeros((4, 16, 16, 3), np.uint8)}  # all fill, yet stored
    groups.commit(group, tmp_path / "m", shard, arrays, time.time())
    assert (groups.read(group, "image", shard) == 0).all()
    [path] = [p for p in (tmp_path / "s.zarr/photos/image/c").rglob("*") if p.is_file()]
    path.unlink()
    with pytest.raises(RunDirectoryError, match=r"photos/image: shard 0 .* is missing"):
        groups.read(group, "image", shard)


def test_a_discarded_shard_can_be_written_again_though_it_was_damaged(tmp_path):
    group = photos(tmp_path / "s.zarr")
    shard = groups.plan(group)[2]  # the short one, which Zarr would read before writing
    groups.commit(group, tmp_path / "m", shard, faces(shard), time.time())
    [path] = [p for p in (tmp_path / "s.zarr/photos/image/c/2").rglob("*") if p.is_file()]
    path.write_bytes(b"rubbish")
    groups.discard(group, shard)
    shards.marker_path(tmp_path / "m", 2).unlink()
    groups.commit(group, tmp_path / "m", shard, faces(shard), time.time())
    np.testing.assert_array_equal(groups.read(group, "image", shard), faces(shard)["image"])


def test_a_checkpoint_comes_back_with_its_meta(tmp_path):
    state = {"w": torch.arange(6.0).reshape(2, 3).t()}  # not contiguous
    weight_files.save(tmp_path / "c", {"generator": state}, {"step": 3})
    assert torch.equal(weight_files.load(tmp_path / "c", "generator")["w"], state["w"])
    assert weight_files.read_meta(tmp_path / "c")["step"] == 3
    assert weight_files.damaged(tmp_path / "c") == []


def test_damaged_weights_are_refused_by_name(tmp_path):
    weight_files.save(tmp_path / "c", {"generator": {"w": torch.zeros(100)}}, {})
    path = tmp_path / "c" / "generator.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        weight_files.load(tmp_path / "c", "generator")
    assert "its content has changed" in weight_files.damaged(tmp_path / "c")[0]


def test_weights_in_a_pickle_are_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    torch.save(Bomb(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"weights in pickle files .* are refused"):
        weight_files.load(tmp_path / "w.pth", "generator")
    assert not (tmp_path / "exploded").exists()


def test_missing_weights_say_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match="no weights at"):
        weight_files.load(tmp_path / "nothing.safetensors", "generator")


def test_old_checkpoints_are_pruned_and_the_newest_stay(tmp_path):
    for step in (1, 2, 10, 11):
        weight_files.save(tmp_path / f"{step:08d}", {"g": {"w": torch.zeros(1)}}, {})
    (tmp_path / "00000009").mkdir()
    (tmp_path / "00000009" / "g.safetensors").touch()  # what a killed save leaves in a store
    (tmp_path / ".00000012.partial").mkdir()  # and on a disk
    weight_files.prune(tmp_path, keep=2)
    assert [path.name for path in weight_files.checkpoints(tmp_path)] == ["00000010", "00000011"]
    assert sorted(os.listdir(tmp_path)) == ["00000010", "00000011"]


def test_a_run_is_not_resumed_with_other_settings(tmp_path):
    run = RunDirectory(tmp_path)
    run.begin("ingest", {"seed": 0, "source": {"kind": "folder", "photos": 3}}, {})
    run.begin("ingest", {"seed": 0, "source": {"kind": "folder", "photos": 3}}, {})
    with pytest.raises(RunDirectoryError) as caught:
        run.begin("ingest", {"seed": 1, "source": {"kind": "folder", "photos": 4}}, {})
    assert "seed: 0 on disk, 1 asked" in str(caught.value)
    assert "source.photos: 3 on disk, 4 asked" in str(caught.value)
    assert "kind" not in str(caught.value)


def test_a_run_is_not_resumed_with_other_inputs(tmp_path):
    run = RunDirectory(tmp_path)
    run.begin("invert", {}, {"generator": "aa"})
    with pytest.raises(RunDirectoryError, match="generator: aa on disk, bb asked"):
        run.begin("invert", {}, {"generator": "bb"})


def test_the_identity_of_a_stage_follows_its_inputs(tmp_path):
    identities = set()
    for number, photos in enumerate(["aa", "aa", "bb"]):
        run = RunDirectory(tmp_path / str(number))
        run.begin("landmarks", {"detector": "onnx"}, {"photos": photos})
        identities.add(run.identity("landmarks"))
    assert len(identities) == 2


def test_a_second_job_is_refused_by_the_name_of_the_first(tmp_path):
    run = RunDirectory(tmp_path)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from distfacegan.store.run_directory import RunDirectory\n"
        f"with RunDirectory(Path({str(tmp_path)!r})).lock('the-first'):\n"
        "    print('locked', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"locked\n"
        assert run.holder()["job"] == "the-first"
        with (
            pytest.raises(RunDirectoryError, match=f"'the-first' .*process {first.pid}"),
            run.lock("the-second"),
        ):
            pass
        first.kill()  # a lock ends with its process, however that dies
    with run.lock("the-second"):
        pass
    assert run.holder() is None


def test_a_damaged_record_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(RunDirectoryError, match=r"a\.json is damaged"):
        files.read_json(path)
    with pytest.raises(ValueError):
        files.write_json(path, {"loss": float("nan")})  # which no other reader would take


def test_verify_mends_a_damaged_record_and_names_what_else_is_wrong(tmp_path):
    run = RunDirectory(tmp_path)
    for stage in ("ingest", "landmarks"):
        run.begin(stage, {"seed": 1}, {})
        run.record_path(stage).write_text("{broken")
    found = findings(run)
    assert [finding.partition(":")[0] for finding in found] == ["ingest", "landmarks"]
    assert not run.record_path("landmarks").exists()
    assert findings(run) == []


def test_sums_are_added_and_spelled(tmp_path):
    plan = shards.split(4, 2)
    for shard, sums in zip(
        plan, ({"retried": 1, "loss_gained": 0.25}, {"retried": 2}), strict=True
    ):
        shards.mark_done(
            tmp_path, shard, statuses={"ok": 2}, digests={}, started=time.time(), sums=sums
        )
    older = json.loads((tmp_path / "00000.json").read_text())
    totals = shards.totals(shards.read_markers(tmp_path))
    assert totals["sums"] == {"retried": 3, "loss_gained": 0.25}
    words = shards.in_words(totals["statuses"], {"retried": 30_000, "loss_gained": 0.25})
    assert words == "4 ok; 30000 retried, 0.25 loss gained"
    del older["sums"], older["digest"]  # as markers were before
    (tmp_path / "00000.json").write_text(json.dumps(older))
    assert shards.totals(shards.read_markers(tmp_path))["sums"] == {"retried": 2}


def test_verify_names_markers_that_are_no_markers_of_the_run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin("ingest", {}, {})
    group = groups.create_group(run.latents, "photos", num_rows=4, shard_rows=2, R=16)
    for shard in groups.plan(group):
        groups.commit(group, run.markers("ingest"), shard, faces(shard), time.time())
    markers = run.markers("ingest")
    (markers / "00007.json").write_bytes((markers / "00000.json").read_bytes())
    (markers / "00001.json").write_bytes((markers / "00000.json").read_bytes())
    found = "\n".join(findings(run))
    assert "00007.json: its marker tells of shard 0" in found
    assert "shard 1 (rows 2 to 3): its marker tells of shard 0" in found
    assert shards.done(markers) == {0}
    assert findings(run) == []
