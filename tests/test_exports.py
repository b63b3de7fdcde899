"""Export formats: what is written is read by the readers that users have, and by the report."""

import json

import numpy as np
import pytest
import webdataset
import yaml

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


MANIFEST = {
    "name": "little: a test",
    "count": 1500,
    "shards": 3,
    "resolution": 64,
    "generator": "of-g",
    "lgen": "of-l",
    "labels": "lgen",
    "seed": 8,
    "sampler": {"kind": "interpolate", "steps": 5},
    "nme": 0.01,
    "nme_mean_shape": 0.06,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_card_says_how_the_dataset_is_read_in_the_form_of_the_hub(tmp_path, kind):
    write_manifest(tmp_path, MANIFEST, FORMATS[kind]())
    text = (tmp_path / "README.md").read_text()
    assert FORMATS[kind].how_to_read in text
    assert "sampler `interpolate`, steps 5; seed 8" in text
    assert "The error on generated faces is not known" in text
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == 1
    _, head, _ = text.split("---\n", 2)
    found = yaml.safe_load(head)
    assert found["pretty_name"] == "little: a test"
    assert found["size_categories"] == ["1K<n<10K"]
    patterns = [each["data_files"] for each in found.get("configs", [])]
    assert patterns == [p for p in [FORMATS[kind].data_files] if p]


def test_the_card_says_what_was_measured_and_what_was_left_out(tmp_path):
    known = {
        "kept": 1400,
        "dropped": {"flat": 60, "near photo": 40},
        "nme_generated": 0.0123,
        "nme_generated_linear": 0.02,
        "nme_generated_mean_shape": 0.07,
        "calibration": {"num_faces": 300, "nme": 0.0273},
        "photos": {"source": "folder", "count": 2000, "faces": 1988},
        "coverage": {"turn": [{"group": "turned", "photos": 9, "found": 0.5}]},
    }
    write_manifest(tmp_path, MANIFEST | known, WebDataset())
    text = (tmp_path / "README.md").read_text()
    for words in (
        "1400 of 1500 faces",
        "60 flat, 40 near photo",
        "0.0123 of the distance",
        "on 300 photos that people have annotated: 0.0273",
        "`folder` (2000 photos, 1988 with a",
        "| turned | 9 | 50.0% |",
    ):
        assert words in text
