"""The expected error of a landmark, from the signs that come with it."""

import numpy as np
import pytest

from distfacegan.core import uncertainty
from distfacegan.core.landmarks import eye_distance
from tests.test_landmarks import upright_face


def test_networks_that_agree_have_no_spread():
    points = np.tile(upright_face(), (3, 5, 1, 1))
    assert uncertainty.spread(points).max() < 1e-6
    apart = points + np.array([-0.01, 0, 0.01])[:, None, None, None] * [1, 0]
    expected = 0.01 * (2 / 3) ** 0.5 / eye_distance(upright_face())
    np.testing.assert_allclose(uncertainty.spread(apart), expected, rtol=1e-5)


def test_a_sign_of_the_error_is_calibrated_to_it():
    """The errors are 0.01 and twice the sign, of each landmark, with noise."""
    random = np.random.default_rng(0)
    sign = random.uniform(0, 0.02, (600, 1)) + random.uniform(0, 0.001, (600, 49))
    errors = 0.01 + 2 * sign + random.normal(0, 0.003, (600, 49))
    found = uncertainty.calibrate({"spread": sign}, errors, "a judge")
    assert found.slope == pytest.approx([2.0], rel=0.02)
    assert np.mean(found.offset) == pytest.approx(0.01, rel=0.05)
    assert found.correlation > 0.98
    np.testing.assert_allclose(found.expected, found.found, rtol=0.03)
    assert np.all(np.diff(found.found) > 0)
    np.testing.assert_allclose(found.expect(sign[..., None]).mean(), errors.mean(), rtol=0.01)


def test_a_sign_of_nothing_expects_the_same_of_every_face():
    random = np.random.default_rng(0)
    sign, errors = random.uniform(0, 1, (600, 49)), random.uniform(0, 0.02, (600, 49))
    found = uncertainty.calibrate({"spread": sign, "disagreement": sign**2}, errors, "a judge")
    assert np.ptp(found.expected) < 0.1 * np.mean(found.found)
    assert abs(found.correlation) < 0.2


def test_no_error_below_zero_is_expected():
    random = np.random.default_rng(0)
    sign = random.uniform(0, 1, (100, 49))
    found = uncertainty.calibrate({"spread": sign}, 0.01 * sign, "a judge")
    assert found.expect(np.full((1, 49, 1), -5.0)).max() == 0
