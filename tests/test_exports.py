"""Export formats: what is written is read by the readers that users have, and by the report."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset
import yaml
import zarr

from distfacegan.errors import RunDirectoryError, SpecError
from distfacegan.sources.pts import read_pts
from distfacegan.store import files
from distfacegan.store.dataset import write_manifest
from distfacegan.store.exports import FORMATS, Sample, recorded_format
from distfacegan.store.exports.coco import Coco
from distfacegan.store.exports.export import Origin
from distfacegan.store.exports.parquet import Parquet
from distfacegan.store.exports.pts import Pts
from distfacegan.store.exports.webdataset import WebDataset
from distfacegan.store.exports.zarr import Zarr
from tests.jobs import load_spec

POINTS = np.random.default_rng(0).uniform(0.2, 0.8, (3, 49, 2)).astype(np.float32)
LATENTS = np.random.default_rng(1).uniform(-1, 1, (3, 8)).astype(np.float32)
SMOOTH = np.linspace(0, 255, 16, dtype=np.uint8)[:, None, None] * np.ones((1, 16, 3), np.uint8)
RED = np.array([200, 0, 0], np.uint8) * np.ones((16, 16, 1), np.uint8)


def samples():
    faces = (RED, SMOOTH, SMOOTH[::-1])
    return [Sample(7 + i, 5, LATENTS[i], faces[i], POINTS[i]) for i in range(3)]


def write(export, folder, shard=0, cut=None):
    for name, data in export.pack(shard, samples()):
        files.write_bytes(folder / name, data[:cut])


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
    write(export, tmp_path, cut=60)
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
    with pytest.raises(RunDirectoryError, match="the format 'lmdb'; this version reads coco, "):
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


def full_sample():
    """A sample of which everything is known."""
    return Sample(
        7,
        5,
        LATENTS[0],
        RED,
        POINTS[0],
        np.full(49, 0.01, np.float32),
        Origin("interpolate", (3, 9), (0.25, 0.75), step=2, steps=3),
        12.5,
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_keeps_all_that_is_known(kind, tmp_path):
    bare = Sample(8, None, None, SMOOTH, POINTS[1], key="a/b.jpg")
    for shard, sample in enumerate((full_sample(), bare)):
        for name, data in FORMATS[kind]().pack(shard, [sample]):
            files.write_bytes(tmp_path / name, data)
        [found] = FORMATS[kind]().read_first(tmp_path, shard, 9)
        for name, value in vars(sample).items():
            if name == "face":
                continue
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(getattr(found, name), value, atol=1e-6)
            else:
                assert getattr(found, name) == value


@pytest.mark.parametrize("kind", FORMATS)
def test_the_code_of_the_card_reads_the_files(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    write(FORMATS[kind](), tmp_path)
    code = "".join(line[4:] for line in FORMATS[kind].how_to_read.splitlines(keepends=True))
    assert len(code.splitlines()) <= 5
    seen = {}
    exec(code, seen)
    if kind == "coco":
        shown = np.reshape(seen["keypoints"], (49, 3))[:, :2] / 16
    elif kind == "pts":
        shown = (seen["landmarks"] + 0.5) / 16
    elif kind == "facesynthetics":
        shown = seen["landmarks"] / 16
    elif kind == "zarr":
        shown = seen["landmarks"][-1]
    else:
        shown = seen["landmarks"]
    np.testing.assert_allclose(shown, POINTS[2], atol=1e-4)


def test_pts_files_are_those_that_ingest_reads(tmp_path):
    write(Pts(), tmp_path)
    found = read_pts(tmp_path / "00000" / "000000008.pts")
    np.testing.assert_allclose((found + 0.5) / 16, POINTS[1], atol=1e-4)
    seen = cv2.imread(str(tmp_path / "00000" / "000000008.png"))
    np.testing.assert_array_equal(seen[:, :, ::-1], SMOOTH)


def test_pycocotools_finds_the_faces_and_their_49_keypoints(tmp_path):
    from pycocotools.coco import COCO

    write(Coco(), tmp_path)
    coco = COCO(tmp_path / "00000.json")
    [category] = coco.loadCats(coco.getCatIds(catNms=["face"]))
    assert len(category["keypoints"]) == 49
    assert coco.getImgIds() == [7, 8, 9]
    [annotation] = coco.loadAnns(coco.getAnnIds(imgIds=[9]))
    left, top, width, height = annotation["bbox"]
    points = np.reshape(annotation["keypoints"], (49, 3))[:, :2]
    np.testing.assert_allclose(points.min(0), [left, top], atol=1e-6)
    np.testing.assert_allclose(points.max(0), [left + width, top + height], atol=1e-6)
    assert (tmp_path / coco.loadImgs([9])[0]["file_name"]).exists()


def test_hugging_face_loads_pictures_and_landmarks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    write(Parquet(), tmp_path)
    found = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert isinstance(found.features["image"], datasets.Image)
    assert found[2]["index"] == 9
    np.testing.assert_array_equal(np.asarray(found[1]["image"]), SMOOTH)
    np.testing.assert_allclose(found[1]["landmarks"], POINTS[1], atol=1e-5)
    np.testing.assert_allclose(found[1]["z"], LATENTS[1])


def test_zarr_opens_a_group_of_arrays(tmp_path):
    write(Zarr(), tmp_path)
    group = zarr.open_group(tmp_path / "00000.zarr", mode="r")
    np.testing.assert_array_equal(group["image"][:], np.stack([RED, SMOOTH, SMOOTH[::-1]]))
    np.testing.assert_array_equal(group["z"][:], LATENTS)
    assert group["index"][:].tolist() == [7, 8, 9]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_documentation_has_the_code_of_every_format(kind):
    text = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text()
    assert FORMATS[kind].how_to_read in text
