"""Which generated faces are left out of a data set."""

import json
import shutil
import tarfile

import numpy as np
import pytest

from distfacegan import pipeline
from distfacegan.core import neighbours
from distfacegan.core.quality import Bounds, Fault, contrast, find_faults, saturation
from distfacegan.core.uncertainty import Reliability
from distfacegan.errors import RunDirectoryError, SpecError
from distfacegan.store import shards
from distfacegan.store.run_directory import RunDirectory
from tests.jobs import findings, load_spec


def pictures(count=6):
    """Pictures that pass every usual bound."""
    return np.random.default_rng(0).integers(1, 255, (count, 32, 32, 3)).astype(np.uint8)


def test_contrast_and_saturation_are_shares():
    faces = pictures(3)
    faces[0] = 90
    faces[1, :16] = 0
    faces[1, 16:] = 255
    assert contrast(faces)[0] == 0
    assert contrast(faces)[1] == pytest.approx(0.5)
    assert saturation(faces).tolist()[:2] == [0, 1]


def test_every_fault_has_its_bound():
    faces = pictures()
    faces[0] = 90
    faces[1, :, ::2] = 255
    faces[4] = faces[3]
    bounds = Bounds(
        min_contrast=0.04,
        max_saturation=0.4,
        max_error=0.05,
        max_disagreement=0.1,
        min_distance=1,
        min_photo_distance=5,
    )
    found = find_faults(
        faces,
        bounds,
        error=np.array([0, 0, 0.06, 0, 0, 0]),
        disagreement=np.array([0.2, 0, 0, 0, 0, 0]),
        photo_distance=np.array([9, 9, 9, 9, 9, 4]),
    )
    assert found.tolist() == [
        Fault.FLAT,
        Fault.SATURATED,
        Fault.UNCERTAIN,
        Fault.NONE,
        Fault.DUPLICATE,
        Fault.NEAR_PHOTO,
    ]
    assert not find_faults(faces, Bounds(), error=np.ones(6)).any()


def test_the_distance_to_earlier_faces_is_that_of_the_nearest():
    faces = pictures()
    faces[5] = faces[1]
    found = neighbours.to_earlier(faces)
    assert found[0] == np.inf
    assert found[5] == 0
    assert found[3] == pytest.approx(neighbours.nearest(faces[3:4], faces[:3])[1][0], rel=1e-5)


def test_the_bound_of_a_share_lies_on_the_reliability_curve():
    curve = np.arange(1, 11) / 100
    known = Reliability(
        signs=["spread"],
        judge="any",
        offset=[],
        slope=[],
        expected=curve.tolist(),
        found=curve.tolist(),
        correlation=1.0,
    )
    assert known.bound(1) == np.inf
    assert known.bound(0.5) == pytest.approx(0.055)
    assert known.bound(0.95) == pytest.approx(0.1)


def test_a_bound_on_what_is_not_computed_is_refused(tmp_path):
    with pytest.raises(SpecError, match="set labels to detector or mean"):
        load_spec(tmp_path, synthesize={"count": 5, "filter": {"max_disagreement": 0.1}})


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run, without generated faces."""
    shutil.copytree(finished.root, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    run.clear("synthesize", ["synthetic"])
    return run


def read_labels(run):
    """Return the labels of two shards."""
    labels = []
    for name in ("00000.tar", "00001.tar"):
        with tarfile.open(run.synthetic / name) as tar:
            labels += [json.loads(tar.extractfile(n).read()) for n in tar.getnames()[1::2]]
    return labels


@pytest.mark.ray
def test_faces_that_are_left_out_are_counted_and_the_others_keep_their_index(copy, tmp_path):
    def synthesize(min_photo_distance):
        copy.clear("synthesize", ["synthetic"])
        bounds = {"min_distance": 0, "min_contrast": 0, "min_photo_distance": min_photo_distance}
        section = {"count": 60, "shard_rows": 30, "workers": 1, "filter": bounds}
        assert pipeline.run(load_spec(tmp_path, synthesize=section)) == pipeline.DONE
        return read_labels(copy)

    distances = [each["photo_distance"] for each in synthesize(0.001)]
    assert len(distances) == 60
    bound = float(np.median(distances))
    labels = synthesize(bound)
    totals = shards.totals(shards.read_markers(copy.markers("synthesize")))
    statuses = totals["statuses"]
    assert set(statuses) == {"ok", "near photo"}
    assert sum(statuses.values()) == 60
    assert len(labels) == statuses["ok"]
    assert min(each["photo_distance"] for each in labels) >= bound - 0.001  # it is rounded
    indices = [each["index"] for each in labels]
    assert indices == sorted(set(indices))
    assert not findings(copy)
    card = (copy.synthetic / "README.md").read_text()
    assert f"{statuses['ok']} of 60" in card
    assert f"{statuses['near photo']} near photo" in card


@pytest.mark.ray
def test_a_share_to_keep_needs_known_errors(copy, tmp_path):
    section = {"count": 60, "shard_rows": 30, "filter": {"keep": 0.5}}
    with pytest.raises(RunDirectoryError, match=r"keep is 0.5, but .* are not known"):
        pipeline.run(load_spec(tmp_path, synthesize=section))
