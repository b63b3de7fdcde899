"""Networks that learn landmarks from real and from generated faces."""

import json
import shutil

import cv2
import numpy as np
import pytest

from distfacegan import pipeline
from distfacegan.core import usefulness
from distfacegan.core.detectors.regressor import RegressorDetector
from distfacegan.core.landmarks import nme
from distfacegan.core.usefulness import LabelledFaces, crop_alike
from distfacegan.errors import RunDirectoryError
from distfacegan.report.plots import errors
from distfacegan.stages.study import Training, trainings
from distfacegan.store.run_directory import RunDirectory
from tests.jobs import findings, load_spec
from tests.test_regressor import dots


def test_every_way_is_trained_with_every_amount_and_seed():
    found = trainings([5, 9], seeds=2)
    assert len(set(found)) == len(found) == 2 + 2 * 3 * 2
    assert Training("synthetic", 0, 1) in found
    assert Training("both", 9, 0) in found


def test_faces_of_another_crop_are_brought_to_the_real_ones():
    points = np.tile(np.linspace(0.3, 0.7, 49, dtype=np.float32)[:, None], (3, 1, 2))
    faces = np.zeros((3, 64, 64, 3), np.uint8)
    for face in faces:
        cv2.circle(face, (32 * 16 - 8, 32 * 16 - 8), 4 * 16, (255,) * 3, -1, shift=4)  # at 0.5
    wanted = LabelledFaces(faces, 0.5 * points + np.array([0.1, 0.3], np.float32))
    moved = crop_alike(LabelledFaces(faces, points), like=wanted)
    np.testing.assert_allclose(moved.points, wanted.points, atol=1e-6)
    light = moved.faces[0, :, :, 0].astype(float)
    places = (np.arange(64) + 0.5) / 64
    centre = [places @ light.sum(axis) / light.sum() for axis in (0, 1)]
    np.testing.assert_allclose(centre, [0.35, 0.55], atol=0.01)


@pytest.mark.parametrize("way", ["real", "synthetic", "synthetic first", "both"])
def test_every_way_learns_landmarks(way):
    real, synthetic = LabelledFaces(*dots(60)), LabelledFaces(*dots(60, seed=2))
    network = usefulness.train(way, real, synthetic, 120, seed=0, device="cpu")
    faces, truth = dots(40, seed=1)
    found = RegressorDetector(network).detect(faces)[0]
    mean = np.broadcast_to(real.points.mean(0), truth.shape)
    assert nme(found, truth).mean() < 0.8 * nme(mean, truth).mean()


def test_the_ways_differ_in_what_they_see():
    real, synthetic = LabelledFaces(*dots(20)), LabelledFaces(*dots(20, seed=2))
    states = [
        usefulness.train(way, real, synthetic, 4, seed=0, device="cpu").state_dict()
        for way in ("real", "synthetic", "synthetic first", "both")
    ]
    weights = {tuple(state["head.3.bias"].tolist()) for state in states}
    assert len(weights) == 4


def test_the_plot_draws_what_has_no_amount_as_a_level():
    drawn = errors(
        {"real": [(5, 0.1, 0.01), (9, 0.05, 0.0)], "synthetic": [(0, 0.2, 0.1)]}, "t", "l"
    )
    assert drawn.startswith("data:image/svg+xml")


@pytest.mark.ray
def test_a_study_is_made_resumed_and_reported(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "run")
    study = {"amounts": [20], "seeds": 1, "steps": 10, "faces": 30, "workers": 1}
    assert pipeline.run(load_spec(tmp_path, study=study)) == pipeline.DONE
    run = RunDirectory(tmp_path / "run")
    found = json.loads((run.study / "results.json").read_text())
    assert [each["way"] for each in found["networks"]] == [
        "synthetic",
        "real",
        "synthetic first",
        "both",
    ]
    assert all(0 < each["nme_mean"] < 1 for each in found["networks"])
    assert found["labels"] == "annotations"
    page = (run.report / "index.html").read_text()
    assert "What the synthetic faces are worth" in page
    assert "whose landmarks people have set" in page
    assert json.loads((run.report / "summary.json").read_text())["study"] == found
    assert not findings(run)

    (run.study / "00001.json").write_text("{}")
    [(stage, _)] = pipeline.verify(run)
    assert stage == "study"
    assert pipeline.run(load_spec(tmp_path, study=study)) == pipeline.DONE
    assert json.loads((run.study / "results.json").read_text()) == found

    with pytest.raises(RunDirectoryError, match=r"amounts asks for 99 real faces.*name at most"):
        pipeline.run(
            load_spec(tmp_path, study=study | {"amounts": [99]}), only=["study"], fresh=True
        )
