"""The mean offset of a detector, measured on annotated faces."""

import numpy as np
import pytest

from distfacegan import calibrations
from distfacegan.core.calibration import calibrate, errors, mean_offset, without_offset
from distfacegan.core.landmarks import MIRRORED, eye_distance, five_points
from distfacegan.errors import RunDirectoryError
from tests.test_landmarks import upright_face


@pytest.fixture
def truth():
    """Forty upright faces, which differ a little."""
    noise = np.random.default_rng(0).normal(0, 0.01, (40, 49, 2))
    return (upright_face() + noise).astype(np.float32)


def test_deviation_is_in_distances_of_the_eyes():
    """A face whose eyes are 0.4 apart (corners) and 0.2 (centres), all points 0.04 too low."""
    truth = np.zeros((49, 2), np.float32)
    truth[19:25], truth[25:31] = [0.4, 0.4], [0.6, 0.4]
    truth[19], truth[28] = [0.3, 0.4], [0.7, 0.4]
    low = truth + np.float32([0, 0.04])
    assert errors(low[None], truth[None])[0] == pytest.approx(0.04 / 0.4, rel=1e-4)
    five = np.stack([truth[19:25].mean(0), truth[25:31].mean(0), truth[13], truth[31], truth[37]])
    eyes = np.linalg.norm(five[1] - five[0])
    assert errors(low[None], five[None])[0] == pytest.approx(0.04 / eyes, rel=1e-4)


def test_an_offset_that_all_faces_share_is_found_and_taken_off(truth):
    """Each landmark has an offset of its own, the same on a face and on its mirror image."""
    offset = np.random.default_rng(1).normal(0, 0.03, (49, 2)).astype(np.float32)
    offset = (offset + offset[MIRRORED] * (-1, 1)) / 2
    points = truth + offset * eye_distance(truth)[:, None, None]
    found = calibrate(points, truth, "a detector")
    np.testing.assert_allclose(found.offset, offset, atol=2e-3)
    assert (found.num_faces, found.num_points) == (40, 49)
    assert found.nme > 0.02
    assert found.nme_calibrated < found.nme / 10


def test_an_offset_that_faces_do_not_share_cannot_be_taken_off(truth):
    points = truth + np.random.default_rng(1).normal(0, 0.02, truth.shape)
    found = calibrate(points, truth, "a detector")
    assert found.nme_calibrated > 0.9 * found.nme


def test_five_points_stand_for_their_parts_of_the_face(truth):
    low = truth + np.float32([0, 0.02]) * eye_distance(truth)[:, None, None]
    offset = mean_offset(low, five_points(truth))
    np.testing.assert_allclose(offset, np.tile([0, 0.02], (49, 1)), atol=1e-3)
    np.testing.assert_allclose(without_offset(low, offset), truth, atol=1e-3)


def test_a_calibration_is_read_as_it_was_written(truth, tmp_path):
    found = calibrate(truth + 0.01, truth, "a detector")
    calibrations.save(tmp_path / "landmarks" / calibrations.NAME, found)
    assert calibrations.load(tmp_path) == found  # of a run directory
    assert calibrations.load(tmp_path / "landmarks" / calibrations.NAME) == found
    with pytest.raises(RunDirectoryError, match="no calibration of a detector at"):
        calibrations.load(tmp_path / "landmarks")
    (tmp_path / "bad.json").write_text('{"detector": "a", "offset": [[0, 0]]}')
    with pytest.raises(RunDirectoryError, match="is damaged"):
        calibrations.load(tmp_path / "bad.json")
