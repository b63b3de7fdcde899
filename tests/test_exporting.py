"""A finished run's faces in other formats."""

import errno
import json
import shutil

import numpy as np
import pytest

from distfacegan import exporting
from distfacegan.cli import main
from distfacegan.exporting import ExportWorker, export, generated_of
from distfacegan.store import files, groups, shards
from distfacegan.store.exports import FORMATS, named_format
from distfacegan.store.exports.pts import Pts
from distfacegan.store.location import locate
from distfacegan.store.run_directory import RunDirectory

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_written_from_the_shards_that_are_there(finished, tmp_path, kind, capsys):
    to = tmp_path / "out"
    assert main(["export", str(finished.root), "--format", kind, "--to", str(to)]) == 0
    assert "200 faces in 10 shards" in capsys.readouterr().out
    for shard in shards.split(200, 20)[::9]:
        found = named_format(kind).read_first(to, shard.index, 99)
        for sample, wanted in zip(found, generated_of(finished, shard), strict=True):
            assert sample.index == wanted.index
            np.testing.assert_allclose(sample.landmarks, wanted.landmarks, atol=1e-6)
            atol = 40 if kind == "webdataset" else 0  # JPEG, a second time
            np.testing.assert_allclose(sample.face.astype(int), wanted.face, atol=atol)
    assert named_format(kind).how_to_read in (to / "README.md").read_text()


def test_photos_are_exported_with_their_keys_and_latents(finished, tmp_path):
    assert "shards" in export(finished, named_format("parquet"), tmp_path / "out", "photos")
    z = np.load(tmp_path / "out" / "latents.npy")
    keys = (tmp_path / "out" / "keys.txt").read_text().splitlines()
    latents = groups.open_group(finished.latents, "latents")
    good = groups.read(latents, "status") == 1
    assert len(z) == len(keys) == len(good)
    np.testing.assert_array_equal(z[good], groups.read(latents, "z")[good])
    assert np.isnan(z[~good]).all()
    for sample in named_format("parquet").read_first(tmp_path / "out", 3, 99):
        assert sample.key == keys[sample.index]
        np.testing.assert_array_equal(sample.z, z[sample.index])
    assert "real people" in (tmp_path / "out" / "README.md").read_text()


def test_an_export_that_was_killed_goes_on(finished, tmp_path, monkeypatch):
    run, written = ExportWorker.run, []

    def killed(self, shard):
        if shard.index == 3:
            raise KeyboardInterrupt
        return run(self, shard)

    monkeypatch.setattr(ExportWorker, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        export(finished, Pts(), tmp_path / "out", "synthetic")
    monkeypatch.setattr(
        ExportWorker, "run", lambda self, shard: written.append(shard.index) or run(self, shard)
    )
    export(finished, Pts(), tmp_path / "out", "synthetic")
    assert written == list(range(3, 10))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["kept"] == 200


def test_large_exports_are_done_by_ray(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "ON_RAY", 10)
    assert "200 faces" in export(finished, Pts(), tmp_path / "out", "synthetic")
    assert len(list((tmp_path / "out").glob("*/*.pts"))) == 200


def test_an_export_goes_to_an_object_store(finished, tmp_path):
    to = locate("s3://faces/exported")
    assert "200 faces" in export(finished, named_format("parquet"), to, "synthetic")
    assert named_format("parquet").read_first(to, 9, 1)[0].index == 180


def test_mistakes_are_told_in_one_line_each(finished, tmp_path, capsys, monkeypatch):
    def message(*arguments):
        assert main(["export", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    to = tmp_path / "out"
    said = message(finished.root, "--format", "coc", "--to", to)
    assert "no format 'coc' (did you mean coco?)" in said

    nothing = RunDirectory(tmp_path / "nothing")
    files.write_bytes(nothing.job, b"name: nothing\n")
    said = message(nothing.root, "--format", "coco", "--to", to)
    assert "the stage synthesize is not finished" in said
    said = message(nothing.root, "--format", "coco", "--to", to, "--what", "photos")
    assert "the stage landmarks is not finished" in said

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    said = message(finished.root, "--format", "coco", "--to", tmp_path / "mine")
    assert "is not empty and holds no export" in said

    assert main(["export", str(finished.root), "--format", "coco", "--to", str(to)]) == 0
    capsys.readouterr()
    said = message(finished.root, "--format", "pts", "--to", to)
    assert "its export_format is coco, this export's is pts" in said

    (tmp_path / "file").write_text("")
    assert "file" in message(finished.root, "--format", "coco", "--to", tmp_path / "file")

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_bytes", full)
    said = message(finished.root, "--format", "coco", "--to", tmp_path / "full")
    assert "No space left on device" in said
    assert "full" in said


def test_a_shard_of_which_nothing_is_left_is_exported_too(finished, tmp_path):
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(finished.root, copy.root)
    status = groups.open_group(copy.latents, "landmarks")["status"]
    status[:10] = 3
    export(copy, named_format("parquet"), tmp_path / "out", "photos")
    assert not (tmp_path / "out" / "00000.parquet").exists()
    assert (tmp_path / "out" / "00001.parquet").exists()
