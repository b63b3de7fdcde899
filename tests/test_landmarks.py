"""The 49 landmarks: indices, mirror image, error, plausibility."""

import numpy as np
import pytest
import torch

from distfacegan.core import landmarks


def upright_face() -> np.ndarray:
    """Return landmarks f32 [49, 2] drawn by hand: a face seen from the front."""

    def ring(x: float, y: float, width: float, height: float, count: int) -> list[tuple]:
        """Points round an ellipse from its left end over the top, as iBUG goes."""
        angles = np.pi + 2 * np.pi * np.arange(count) / count
        return [(x + width / 2 * np.cos(a), y + height / 2 * np.sin(a)) for a in angles]

    brows = [(x, 0.3) for x in (0.2, 0.25, 0.3, 0.35, 0.4, 0.6, 0.65, 0.7, 0.75, 0.8)]
    nose = [(0.5, y) for y in (0.4, 0.45, 0.5, 0.55)]
    nostrils = [(x, 0.6) for x in (0.42, 0.46, 0.5, 0.54, 0.58)]
    eyes = ring(0.32, 0.4, 0.12, 0.04, 6) + ring(0.68, 0.4, 0.12, 0.04, 6)
    mouth = ring(0.5, 0.75, 0.3, 0.1, 12) + [(x, 0.74) for x in (0.45, 0.5, 0.55)]
    mouth += [(x, 0.76) for x in (0.55, 0.5, 0.45)]
    return np.array(brows + nose + nostrils + eyes + mouth, np.float32)


def test_the_49_are_ibugs_without_the_jaw_and_the_inner_mouth_corners():
    points_68 = np.stack([np.arange(68), np.zeros(68)], axis=1)
    kept = landmarks.points_49(points_68)[:, 0].tolist()
    assert len(kept) == 49
    assert sorted(set(range(68)) - set(kept)) == [*range(17), 60, 64]
    assert kept == sorted(kept)


def test_named_landmarks_are_ibugs():
    ibug = landmarks.IBUG_49
    assert ibug[landmarks.LEFT_EYE] == [36, 37, 38, 39, 40, 41]
    assert ibug[landmarks.RIGHT_EYE] == [42, 43, 44, 45, 46, 47]
    assert (ibug[landmarks.LEFT_EYE_CORNER], ibug[landmarks.RIGHT_EYE_CORNER]) == (36, 45)
    assert (ibug[landmarks.LEFT_MOUTH_CORNER], ibug[landmarks.RIGHT_MOUTH_CORNER]) == (48, 54)
    assert ibug[landmarks.NOSE_TIP] == 30


def test_mirroring_pairs_landmarks_as_the_face_alignment_library_does():
    from face_alignment.utils import shuffle_lr

    pairs_68 = shuffle_lr(torch.arange(68)[None, :, None, None]).flatten().tolist()
    expected = [landmarks.IBUG_49.index(pairs_68[i]) for i in landmarks.IBUG_49]
    assert expected == landmarks.MIRRORED


def test_a_symmetrical_face_is_its_own_mirror_image():
    face = upright_face()
    np.testing.assert_allclose(landmarks.mirror(face), face, atol=1e-6)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_mirroring_twice_changes_nothing(library):
    points = library(np.random.default_rng(0).random((3, 49, 2)))
    before = points + 0
    mirrored = landmarks.mirror(points)
    assert bool((points == before).all())  # the argument stays as it was
    assert not bool((mirrored == points).all())
    np.testing.assert_allclose(landmarks.mirror(mirrored), points, atol=1e-12)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_nme_is_the_mean_distance_over_the_true_distance_of_the_outer_eye_corners(library):
    truth = np.zeros((2, 49, 2))
    truth[:, landmarks.RIGHT_EYE_CORNER] = (0.3, 0.4)  # 0.5 from the other corner, at (0, 0)
    points = truth.copy()
    points[0] += (0.03, 0.04)  # all points 0.05 off: 0.05 / 0.5
    points[1, 0] += (0, 0.49)  # one of 49 points 0.49 off: 0.01 / 0.5
    error = landmarks.nme(library(points), library(truth))
    np.testing.assert_allclose(error, [0.1, 0.02])


def test_nme_does_not_depend_on_the_unit():
    rng = np.random.default_rng(1)
    points, truth = rng.random((2, 4, 49, 2))
    np.testing.assert_allclose(
        landmarks.nme(points * 128, truth * 128), landmarks.nme(points, truth)
    )


def test_five_points_are_celebas_in_celebas_order():
    five = landmarks.five_points(upright_face()[None])[0]
    expected = [(0.32, 0.4), (0.68, 0.4), (0.5, 0.55), (0.35, 0.75), (0.65, 0.75)]
    np.testing.assert_allclose(five, expected, atol=1e-6)


def quarter_turn(face: np.ndarray) -> np.ndarray:
    return np.stack([1 - face[:, 1], face[:, 0]], axis=1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda face: face, True),
        (lambda face: face * 0.7 + 0.15, True),
        (
            lambda face: face + np.array([0, 0.29]),
            True,
        ),  # the lower lip at 1.09: just inside the margin
        (lambda face: face + np.array([0, 0.35]), False),
        (lambda face: face * 0.2 + 0.4, False),  # collapsed
        (lambda face: np.full_like(face, 0.5), False),
        (lambda face: 1 - face, False),  # upside down
        (quarter_turn, False),
        (lambda face: face * (1, 0.1) + (0, 0.5), False),  # mouth at the eyes
        (lambda face: np.where(np.arange(49)[:, None] == 7, np.nan, face), False),
        (lambda face: np.where(np.arange(49)[:, None] == 7, np.inf, face), False),
    ],
)
def test_only_an_upright_face_inside_the_crop_can_be_one(change, expected):
    faces = np.stack([change(upright_face()), upright_face()])
    found = landmarks.inside(faces) & landmarks.possible_shape(faces)
    assert found.tolist() == [expected, True]
