"""Export formats: what is written is read by the readers that users have, and by the report."""

import json

import numpy as np
import pytest
import webdataset

from distfacegan.errors import RunDirectoryError, SpecError
from distfacegan.store.dataset import write_manifest
from distfacegan.store.exports import FORMATS, Sample, recorded_format
from distfacegan.store.exports.webdataset import WebDataset
from tests.jobs import load_spec

POINTS = np.random.default_rng(0).uniform(0.2, 0.8, (3, 49, 2)).astype(np.float32)
LATENTS = np.random.default_rng(1).uniform(-1, 1, (3, 8)).astype(np.float32)
SMOOTH = np.linspace(0, 255, 16, dtype=np.uint8)[:, None, None] * np.ones((1, 16, 3), np.uint8)
RED = np.array([200, 0, 0], np.uint8) * np.ones((16, 16, 1), np.uint8)


def samples():
    faces = (RED, SMOOTH, SMOOTH[::-1])
    return [Sample(7 + i, 5, LATENTS[i], faces[i], POINTS[i]) for i in range(3)]


def write(export, folder, shard=0):
    for name, data in export.pack(shard, samples()):
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_reads_the_first_samples_it_wrote(kind, tmp_path):
    export = FORMATS[kind]()
    write(export, tmp_path, shard=4)
    found = export.read_first(tmp_path, 4, 2)
    assert [sample.index for sample in found] == [7, 8]
    for sample, wanted in zip(found, samples(), strict=False):
        assert sample.seed == wanted.seed
        np.testing.assert_array_equal(sample.z, wanted.z)
        np.testing.assert_allclose(sample.landmarks, wanted.landmarks, atol=1e-6)
        np.testing.assert_allclose(sample.face.astype(int), wanted.face, atol=6)  # JPEG loses
    assert len(export.read_first(tmp_path, 4, 99)) == 3


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_samples_are_the_same_bytes(kind):
    export = FORMATS[kind]()
    assert list(export.pack(0, samples())) == list(export.pack(0, samples()))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_shard_is_an_error_of_its_file(kind, tmp_path):
    export = FORMATS[kind]()
    with pytest.raises(OSError):
        export.read_first(tmp_path, 0, 2)
    for name, data in export.pack(0, samples()):
        (tmp_path / name).write_bytes(data[:700])
    with pytest.raises(ValueError):
        export.read_first(tmp_path, 0, 2)


# webdataset 1.0 leaves the tar file open for the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_library_reads_its_format(tmp_path):
    write(WebDataset(), tmp_path)
    read = list(
        webdataset.WebDataset(str(tmp_path / "00000.tar"), shardshuffle=False)
        .decode("rgb8")
        .to_tuple("__key__", "jpg", "json")
    )
    assert [key for key, _, _ in read] == ["000000007", "000000008", "000000009"]
    np.testing.assert_allclose(read[0][1].mean((0, 1)), [200, 0, 0], atol=4)  # red stays red
    labels = read[0][2]
    assert (labels["index"], labels["seed"], len(labels["z"])) == (7, 5, 8)
    np.testing.assert_allclose(labels["landmarks"], POINTS[0], atol=1e-6)
    np.testing.assert_allclose(labels["landmarks_px"], POINTS[0] * 16, atol=1e-3)


def test_a_recorded_format_is_made_again_with_its_settings():
    settings = {"count": 3, "format": "webdataset", "jpeg_quality": 80, "seed": 1}
    assert recorded_format(settings) == WebDataset(jpeg_quality=80)
    with pytest.raises(RunDirectoryError, match="the format 'lmdb'; this version reads webdataset"):
        recorded_format({"format": "lmdb"})


def test_the_keys_of_a_format_stand_beside_it_in_a_spec(tmp_path):
    spec = load_spec(tmp_path, synthesize={"count": 3, "jpeg_quality": 80})
    assert spec.synthesize.format == WebDataset(jpeg_quality=80)
    written = spec.synthesize.model_dump()
    assert (written["format"], written["jpeg_quality"]) == ("webdataset", 80)
    with pytest.raises(SpecError, match="jpeg_quality"):
        load_spec(tmp_path, synthesize={"count": 3, "jpeg_quality": 101})
    with pytest.raises(SpecError, match="webdataset"):
        load_spec(tmp_path, synthesize={"count": 3, "format": "webdatset"})


def test_the_card_says_how_the_dataset_is_read(tmp_path):
    names = ("name", "count", "shards", "resolution", "latent_dim", "generator", "lgen")
    manifest = dict.fromkeys((*names, "nme", "nme_mean_shape"), 8)
    write_manifest(tmp_path, manifest, WebDataset())
    assert WebDataset.how_to_read in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == 1
