"""A landmark detector that learns from labelled faces."""

import numpy as np
import pytest
import torch

from distfacegan import detector_training
from distfacegan.cli import main
from distfacegan.core import regressor
from distfacegan.core.detectors.regressor import Regressor, RegressorDetector
from distfacegan.core.landmarks import nme
from distfacegan.core.regressor import SIDE, Schedule, augment, to_input
from distfacegan.errors import CheckpointError, RunDirectoryError
from distfacegan.store.run_directory import RunDirectory
from tests.test_landmarks import upright_face


def dots(count, *, seed=0):
    """Black faces of 32 px, each with a white square, and landmarks that follow the square."""
    random = np.random.default_rng(seed)
    corners = random.integers(4, 24, (count, 2))
    faces = np.zeros((count, 32, 32, 3), np.uint8)
    for face, (x, y) in zip(faces, corners, strict=True):
        face[y : y + 4, x : x + 4] = 255
    move = (corners + 2) / 32 - 0.5
    return faces, (upright_face() + 0.5 * move[:, None]).astype(np.float32)


def test_augmentation_moves_the_landmarks_with_the_pixels():
    random = torch.Generator().manual_seed(0)
    x = torch.full((64, 3, SIDE, SIDE), -1.0)
    x[:, :, 20:23, 40:43] = 1  # around the pixel (41, 21)
    points = torch.full((64, 49, 2), 0.5)
    nose = 10  # the bridge is its own mirror image
    points[:, nose] = torch.tensor([41.5, 21.5]) / SIDE
    moved, found = augment(x, points, random)
    light = (moved - moved.amin((1, 2, 3), keepdim=True)).mean(1)
    light = light * (light > light.amax((1, 2), keepdim=True) / 3)
    places = (torch.arange(SIDE) + 0.5) / SIDE
    total = light.sum((1, 2))
    centre = torch.stack([light.sum(1) @ places / total, light.sum(2) @ places / total], dim=1)
    assert (centre - found[:, nose]).norm(dim=1).max() < 1.5 / SIDE
    assert (found[:, nose, 0] < 0.5).any()  # some were mirrored
    assert (found[:, nose, 0] > 0.5).any()


def test_a_regressor_learns_what_the_mean_shape_cannot():
    faces, points = dots(200)
    network = regressor.train(faces, points, Schedule(steps=150), seed=0)
    unseen, truth = dots(50, seed=1)
    found, score = RegressorDetector(network).detect(unseen)
    error = nme(found, truth).mean()
    assert error < 0.5 * nme(np.broadcast_to(points.mean(0), truth.shape), truth).mean()
    assert score.shape == (50, 49)
    alone = RegressorDetector(network).detect(unseen[7:8])[0]
    np.testing.assert_allclose(alone, found[7:8], atol=1e-5)


def test_training_is_a_function_of_the_seed():
    faces, points = dots(30)
    states = [
        regressor.train(faces, points, Schedule(steps=3), seed=seed).state_dict()
        for seed in (0, 0, 1)
    ]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert not torch.equal(states[0]["head.1.weight"], states[2]["head.1.weight"])


def test_training_can_go_on_from_another_network():
    faces, points = dots(30)
    start = regressor.train(faces, points, Schedule(steps=2), seed=0)
    mean = start.mean_shape.clone()
    found = regressor.train(faces, points + 0.1, Schedule(steps=2), seed=0, start=start)
    torch.testing.assert_close(found.mean_shape, mean)


def test_faces_of_any_side_are_brought_to_the_networks():
    faces = np.full((2, 100, 100, 3), 255, np.uint8)
    assert to_input(faces).shape == (2, 3, SIDE, SIDE)
    assert to_input(faces).max() == pytest.approx(1)


def test_what_is_no_regressor_is_refused_by_name(tmp_path):
    path = tmp_path / "regressor.safetensors"
    with pytest.raises(
        CheckpointError, match=r"is not the network of a trained detector: .*No such"
    ):
        Regressor(model=path).make()
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="train-detector"):
        Regressor(model=path).make()


@pytest.mark.ray
def test_the_command_trains_a_detector_that_a_spec_can_name(finished, tmp_path, capsys):
    assert main(["train-detector", str(finished.root), "--to", str(tmp_path), "--steps", "20"]) == 0
    said = capsys.readouterr().out
    assert "NME" in said
    assert "faces that were held out" in said
    detector = Regressor(model=tmp_path / "regressor.safetensors").make()
    points, _ = detector.detect(np.zeros((1, 32, 32, 3), np.uint8))
    assert np.isfinite(points).all()


@pytest.mark.ray
def test_a_run_without_labelled_faces_is_refused(finished, tmp_path, monkeypatch):
    with pytest.raises(RunDirectoryError, match="stage ingest is not finished"):
        detector_training.labelled_faces(RunDirectory(tmp_path), seed=0)
    monkeypatch.setattr(detector_training, "MIN_FACES", 1000)
    with pytest.raises(RunDirectoryError, match="faces have trusted landmarks, needed are 1000"):
        detector_training.labelled_faces(finished, seed=0)
    monkeypatch.undo()
    monkeypatch.setattr(detector_training, "MAX_FACES", 7)
    faces, points = detector_training.labelled_faces(finished, seed=0)
    assert faces.shape == (7, 32, 32, 3)
    assert points.shape == (7, 49, 2)
