"""L-Gen's errors on generated faces, and what is simpler beside them."""

import dataclasses

import numpy as np
import pytest

from distfacegan import weights
from distfacegan.core import audit
from distfacegan.core.audit import Audit, Judged
from distfacegan.core.landmarks import eye_distance, nme
from tests.test_landmarks import upright_face


@pytest.fixture
def faces():
    """Latents [200, 6] and landmarks that are linear in them."""
    random = np.random.default_rng(0)
    z = random.uniform(-1, 1, (200, 6)).astype(np.float32)
    linear = random.normal(0, 0.01, (6, 98))
    return z, upright_face() + (z @ linear).reshape(-1, 49, 2)


def test_a_linear_map_is_found_exactly(faces):
    z, points = faces
    found = audit.apply_linear(audit.linear_map(z[:100], points[:100]), z[100:])
    np.testing.assert_allclose(found, points[100:], atol=1e-6)


def test_the_error_of_the_landmarks_is_that_of_the_faces(faces):
    _, points = faces
    other = points + np.random.default_rng(1).normal(0, 0.01, points.shape)
    assert audit.nme_of_points(other, points).mean() == pytest.approx(nme(other, points).mean())


def test_a_second_detector_with_an_offset_of_its_own_judges_centred(faces):
    _, points = faces
    noise = np.random.default_rng(1).normal(0, 0.01, points.shape)
    second = points + np.float64([0, 0.1]) * eye_distance(points)[:, None, None]
    found = audit.judge(points, points + noise, second)
    assert found.lgen == pytest.approx(0.1, rel=0.1)
    assert found.lgen_centred < 0.005
    assert found.detector_centred > 0.01
    assert found.mean_shape_centred > 0.02


def test_lgen_that_is_of_no_use_is_complained_about():
    good = Audit(count=10, trusted=10, nme=0.012, nme_linear=0.018, nme_mean_shape=0.068)
    assert good.complaints == []
    as_linear = Audit(count=10, trusted=10, nme=0.018, nme_linear=0.018, nme_mean_shape=0.068)
    assert as_linear.complaints == [
        "L-Gen is no better than linear regression: 1.80% and 1.80%",
    ]
    as_mean = Audit(count=10, trusted=10, nme=0.034, nme_linear=0.05, nme_mean_shape=0.068)
    assert as_mean.complaints == ["L-Gen is not twice as good as the mean shape: 3.40% and 6.80%"]
    assert Audit(count=10, trusted=0).complaints == [
        "the detector trusts none of 10 generated faces"
    ]


def test_an_evaluation_is_read_as_it_was_written_and_of_0_1_0_too():
    known = {
        "nme": 0.1,
        "nme_mean_shape": 0.2,
        "nme_validation": 0.1,
        "rows_train": 8,
        "rows_validation": 1,
        "rows_test": 1,
    }
    names = [field.name for field in dataclasses.fields(Judged)]
    judged = dict.fromkeys(names, 0.01)
    fresh = {"count": 10, "trusted": 9, "nme": 0.01, "judged": judged, "of_the_future": 1}
    found = weights.parse_evaluation({**known, "fresh": fresh})
    assert found.fresh == Audit(count=10, trusted=9, nme=0.01, judged=Judged(**judged))
    of_old = {"generated": 200, "generated_trusted": 199, "nme_generated": 0.04}
    old = weights.parse_evaluation({**known, **of_old, "nme_generated_mean_shape": 0.05})
    assert old.fresh == Audit(count=200, trusted=199, nme=0.04, nme_mean_shape=0.05)
    assert weights.parse_evaluation(known).fresh is None
