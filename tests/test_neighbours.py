"""The nearest faces, against distances worked out by hand and by plain subtraction."""

import math

import cv2
import numpy as np
import pytest

from distfacegan.core import neighbours
from distfacegan.core.neighbours import nearest, nearest_ratio


def grey(*levels, side=32) -> np.ndarray:
    """Return one face of one grey for each level."""
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


def noise(count, side=16, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize(
    ("levels", "indices", "distances"),
    [
        ((10,), [0], [10.0]),  # from 0
        ((120, 200), [1, 2], [20.0, 55.0]),  # from 100; from 255
        ((100, 50), [1, 0], [0.0, 50.0]),  # the same; as far from 0 as from 100: the first
    ],
)
def test_the_nearest_face_and_its_distance(levels, indices, distances):
    found = nearest(grey(*levels), grey(0, 100, 255))
    assert [values.tolist() for values in found] == [indices, distances]
    assert [values.dtype for values in found] == [np.int64, np.float32]


def test_the_distance_is_the_root_of_the_mean_over_pixels_and_colours():
    face, other = grey(0), grey(0)
    other[0, :16, :, 0] = 60  # half of the pixels, one of three colours: 60 / 6**0.5
    assert nearest(face, other)[1] == pytest.approx(60 / math.sqrt(6))


def test_pictures_are_compared_by_the_means_of_their_areas():
    checked = grey(0)
    checked[0, ::2, ::2] = checked[0, 1::2, 1::2] = 200  # every 2 x 2 pixels have the mean 100
    assert nearest(checked, grey(90, 110.5))[0] == 0
    assert nearest(checked, grey(103))[1] == 3


def test_many_faces_are_compared_as_each_with_each(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    faces, among = noise(20, side=48), noise(30, side=48, seed=1)
    small = [
        np.stack([cv2.resize(face, (16, 16), interpolation=cv2.INTER_AREA) for face in some])
        for some in (faces, among)
    ]
    difference = small[0][:, None].astype(float) - small[1][None]
    distances = np.sqrt((difference**2).mean(axis=(2, 3, 4)))
    indices, found = nearest(faces, among)
    np.testing.assert_array_equal(indices, distances.argmin(axis=1))
    np.testing.assert_allclose(found, distances.min(axis=1), rtol=1e-6)


def test_a_face_finds_itself_at_no_distance_in_any_block(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    faces = noise(30)
    faces[0], faces[29] = 0, 255  # the largest sums
    indices, distances = nearest(faces, faces)
    assert indices.tolist() == list(range(30))
    assert not distances.any()


def test_the_ratio_is_that_of_the_medians():
    real = grey(0, 10, 20, 40, 80)  # to the nearest other: 10, 10, 10, 20, 40
    assert nearest_ratio(grey(0, 15, 100), real) == pytest.approx(0.5)  # 0, 5, 20: median 5
    assert nearest_ratio(grey(50, 100), real) == pytest.approx(1.5)  # 10, 20: median 15


def test_a_copying_generator_has_no_distance_and_a_fresh_one_that_of_real_faces(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    real = noise(300)
    assert nearest_ratio(real[:50], real) == 0
    assert nearest_ratio(noise(300, seed=1), real) == pytest.approx(1, abs=0.01)


def test_real_faces_that_are_all_alike_have_no_ratio():
    assert math.isnan(nearest_ratio(grey(1, 2), grey(7, 7, 7)))


@pytest.mark.parametrize(
    ("measure", "faces", "among"),
    [
        (nearest, grey(0), grey(0, side=16)),
        (nearest, grey(0), grey(0)[:0]),
        (nearest_ratio, grey(0), grey(0)),
    ],
)
def test_faces_that_cannot_be_compared_are_refused(measure, faces, among):
    with pytest.raises(ValueError, match=r"cannot compare faces|at least 2 real faces"):
        measure(faces, among)
