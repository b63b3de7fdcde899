"""Procedural faces: the same picture from the same numbers, landmarks that lie on what is drawn."""

import dataclasses
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from distfacegan.core.faces import find_face, points_in_face
from distfacegan.errors import SourceError
from distfacegan.sources.procedural import ProceduralFaces, render_face
from distfacegan.sources.procedural.faces import SIZE
from distfacegan.sources.procedural.head import THETA_MAX, Head, place_features
from distfacegan.sources.procedural.raster import Camera, Surface, draw
from distfacegan.sources.procedural.traits import Light, Pose, sample_traits

NUM_FACES = 200
LEFT_BROW, RIGHT_BROW, BRIDGE, NOSTRILS = slice(0, 5), slice(5, 10), slice(10, 14), slice(14, 19)
LEFT_EYE, RIGHT_EYE, LIPS, MOUTH = slice(19, 25), slice(25, 31), slice(31, 43), slice(43, 49)


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    """200 pictures [N, 192, 192, 3] and their landmarks [N, 49, 2]."""
    pictures, landmarks = zip(*(render_face(3, row) for row in range(NUM_FACES)), strict=True)
    return np.stack(pictures), np.stack(landmarks)


@pytest.fixture(scope="module")
def boxes(faces: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray | None]:
    return [find_face(picture) for picture in faces[0]]


def test_a_face_is_a_picture_and_49_points_of_it(faces):
    pictures, landmarks = faces
    assert pictures.shape == (NUM_FACES, SIZE, SIZE, 3)
    assert pictures.dtype == np.uint8
    assert landmarks.shape == (NUM_FACES, 49, 2)
    assert landmarks.dtype == np.float32
    assert landmarks.min() > 0
    assert landmarks.max() < SIZE - 1


def test_rows_come_out_the_same_in_any_order_and_in_another_process():
    digest = (
        "import hashlib; from distfacegan.sources.procedural import render_face;"
        "faces = [render_face(5, row) for row in (2, 0, 1)];"
        "print(*(hashlib.sha256(p.tobytes() + l.tobytes()).hexdigest() for p, l in faces))"
    )
    other = subprocess.run(
        [sys.executable, "-c", digest], capture_output=True, text=True, check=True
    )
    here: dict[str, object] = {}
    exec(digest.replace("print(*(", "found = list((").replace("(2, 0, 1)", "(0, 1, 2)"), here)
    found = here["found"]
    assert isinstance(found, list)
    assert other.stdout.split() == [found[2], found[0], found[1]]


def test_rows_and_seeds_make_different_faces():
    first, _ = render_face(1, 0)
    assert not np.array_equal(first, render_face(1, 1)[0])
    assert not np.array_equal(first, render_face(2, 0)[0])


def test_the_size_of_the_picture_scales_the_face():
    small, small_points = render_face(3, 1)
    large, large_points = render_face(3, 1, size=384)
    assert large.shape == (384, 384, 3)
    np.testing.assert_allclose((large_points + 0.5) / 2, small_points + 0.5, atol=1e-3)
    shrunk = cv2.resize(large, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(float) - small).mean() < 4


def test_opencv_finds_nearly_every_face(faces, boxes):
    assert sum(box is not None for box in boxes) >= 0.96 * NUM_FACES
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in faces[0]]
    found = [len(cascade.detectMultiScale(grey, 1.1, 5)) > 0 for grey in greys]
    assert np.mean(found) >= 0.95


def test_the_box_that_opencv_finds_sits_on_the_face(faces, boxes):
    found = [(p, box) for p, box in zip(faces[1], boxes, strict=True) if box is not None]
    points = np.stack([points_in_face(p, box) for p, box in found])
    inside = ((points >= 0) & (points <= 1)).all(axis=(1, 2))
    assert inside.mean() >= 0.9  # a wide open mouth reaches below it
    assert (points.mean(axis=1).std(axis=0) < 0.06).all()


def test_landmarks_are_in_the_order_of_ibug(faces):
    for points in faces[1]:
        for curve in (LEFT_BROW, RIGHT_BROW, NOSTRILS):
            assert (np.diff(points[curve, 0]) > 0).all()
        assert (np.diff(points[BRIDGE, 1]) > 0).all()
        for outline in (LEFT_EYE, RIGHT_EYE, LIPS):  # clockwise on the screen: a positive area
            assert cv2.contourArea(points[outline], oriented=True) > 0
            assert points[outline, 0].argmin() == 0
        assert points[LEFT_EYE, 0].max() < points[RIGHT_EYE, 0].min()
        assert (points[MOUTH, 0].argsort()[[0, 1]] % 5 == 0).all()  # 61 and 67 are on the left


def test_eyes_lips_and_brows_are_drawn_where_the_landmarks_are(faces):
    """Beside a landmark's curve the skin, inside it the feature: darker, whiter or redder."""
    dark_pupils, dark_brows, red_lips = [], [], []
    for row, (picture, points) in enumerate(zip(*faces, strict=True)):
        traits = sample_traits(3, row)
        brow = points[LEFT_BROW if traits.pose.yaw > 0 else RIGHT_BROW]  # the one turned to us
        below = brow + (points[LEFT_EYE].mean(axis=0) - points[LEFT_BROW].mean(axis=0)) * 0.4
        if sum(traits.look.hair) < 0.5 * sum(traits.look.skin):
            dark_brows.append(_brightness(picture, brow) - _brightness(picture, below))
        eye = points[LEFT_EYE if traits.pose.yaw > 0 else RIGHT_EYE]
        mask = np.zeros((SIZE, SIZE), np.uint8)
        cv2.fillPoly(mask, [np.round(eye).astype(np.int32)], 255)
        inside = picture[mask > 0].mean(axis=1)
        dark_pupils.append(inside.max() - inside.min())
        lip, chin = (points[LIPS][9] + points[MOUTH][4]) / 2, points[LIPS][9] + [0, 7]
        red_lips.append(_redness(picture, lip) - _redness(picture, chin))
    assert np.mean(np.array(dark_pupils) > 40) > 0.9
    assert len(dark_brows) > 50
    assert np.mean(np.array(dark_brows) < 0) > 0.95
    assert np.mean(np.array(red_lips) > 0) > 0.9


def test_a_spot_painted_on_a_landmark_is_seen_at_the_landmark():
    """The picture and the landmarks come of the same surface: exact to a fraction of a pixel."""
    light = Light(direction=(0.0, 0.0, 1.0), key=(0, 0, 0), ambient=(1, 1, 1), rim=0.0)
    distances = []
    for row in range(8):
        traits = sample_traits(9, row)
        head, camera = Head(traits.shape, traits.expression), Camera(traits.pose, 384)
        landmarks = render_face(9, row, size=384)[1]
        sheet, (rows, thetas) = head.sheet(), head.locate(head.features.landmarks)
        for point in (0, 13, 19, 28, 31, 37, 47):
            spot = _paint_spot(float(rows[point]), float(thetas[point]))
            picture = np.zeros((384, 384, 3), np.float32)
            draw(picture, Surface(sheet, spot, gloss=0), camera, light)
            weight = picture[..., 0] ** 2
            if weight.max() < 100:
                continue  # turned away from the camera
            y, x = (np.average(axis, weights=weight) for axis in np.indices(weight.shape))
            distances.append(np.hypot(*(landmarks[point] - [x, y])))
    assert len(distances) > 40
    assert np.median(distances) < 0.5
    assert np.max(distances) < 2


def test_turning_the_head_moves_the_nose_the_way_that_it_turns():
    positions = Head(*_plain()[:2]).landmarks()

    def nose(**pose: float) -> np.ndarray:
        still = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "scale": 1.0, "shift": (0.0, 0.0)}
        camera = Camera(Pose(**(still | pose)), SIZE)
        points = camera.project(camera.turn(positions))[:2].T
        return points[13] - (points[19] + points[28]) / 2  # from between the eyes

    assert nose()[0] == pytest.approx(0, abs=1e-3)
    assert nose(yaw=0.3)[0] > 3
    assert nose(yaw=-0.3)[0] < -3
    assert nose(pitch=0.2)[1] > nose()[1] > nose(pitch=-0.2)[1]
    assert nose(roll=0.2)[0] < -3  # clockwise: the chin goes to the left


def test_expressions_move_their_landmarks_and_no_others():
    shape, rest, change = _plain()
    still = place_features(shape, rest).landmarks
    opened = place_features(shape, change(open=0.8)).landmarks
    raised = place_features(shape, change(brow=1.0)).landmarks
    smiling = place_features(shape, change(smile=1.0)).landmarks
    moved = [np.abs(points - still).max(axis=1) > 0 for points in (opened, raised)]
    assert not moved[0][:31].any()
    assert opened[40, 1] < still[40, 1] - 0.1  # the lower lip falls
    assert moved[1][:10].all()
    assert not moved[1][10:].any()
    assert smiling[31, 1] > still[31, 1]  # the corners of the mouth rise and part
    assert smiling[37, 0] - smiling[31, 0] > still[37, 0] - still[31, 0]


def test_a_still_face_is_symmetric():
    points = place_features(*_plain()[:2]).landmarks
    mirror = cv2.flip(points[LEFT_BROW], 0) * [-1, 1]
    np.testing.assert_allclose(points[RIGHT_BROW], mirror, atol=1e-12)
    np.testing.assert_allclose(points[37], points[31] * [-1, 1], atol=1e-12)


def test_faces_vary_in_colour_pose_and_expression(faces):
    pictures, landmarks = faces
    small = np.stack([cv2.resize(p, (32, 32), interpolation=cv2.INTER_AREA) for p in pictures])
    pairs = np.abs(small[:100].astype(float) - small[100:]).mean(axis=(1, 2, 3))
    assert pairs.mean() > 25
    # Beyond where the face stands and how large it is: centred, in distances of the eyes' corners.
    apart = np.linalg.norm(landmarks[:, 28] - landmarks[:, 19], axis=-1)[:, None, None]
    shapes = (landmarks - landmarks.mean(axis=1, keepdims=True)) / apart
    spread = np.linalg.norm(shapes - shapes.mean(axis=0), axis=-1).mean()
    assert 0.04 < spread < 0.12


def test_the_source_names_reads_and_annotates_its_rows():
    source = pickle.loads(pickle.dumps(ProceduralFaces(count=12, seed=4)))
    assert list(source.keys) == [f"{row:06d}" for row in range(12)]
    picture, landmarks = render_face(4, 11)
    np.testing.assert_array_equal(source.read(11), picture)
    np.testing.assert_array_equal(source.annotation(11), landmarks)
    with pytest.raises(IndexError, match="row 12 of 12"):
        source.read(12)


def test_fingerprints_tell_sources_apart():
    one = ProceduralFaces(count=12, seed=4).fingerprint()
    assert one == ProceduralFaces(count=12, seed=4).fingerprint()
    assert one != ProceduralFaces(count=13, seed=4).fingerprint()
    assert one != ProceduralFaces(count=12, seed=5).fingerprint()


@pytest.mark.parametrize("count", [0, -1, 2.5, "10", None, True])
def test_a_count_that_is_no_count_is_refused(count):
    with pytest.raises(SourceError, match="count is"):
        ProceduralFaces(count=count)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_a_seed_that_is_no_seed_is_refused(seed):
    with pytest.raises(SourceError, match="seed is"):
        ProceduralFaces(count=1, seed=seed)


def _plain():
    """A symmetric shape, a face at rest, and a function that changes the expression."""
    traits = sample_traits(0, 0)
    rest = dataclasses.replace(
        traits.expression, open=0.0, smile=0.0, brow=0.0, brow_tilt=0.0, lids=0.8, gaze=(0.0, 0.0)
    )
    return traits.shape, rest, lambda **changes: dataclasses.replace(rest, **changes)


def _paint_spot(row: float, theta: float) -> np.ndarray:
    """Black, but for a small white spot at a row and theta of the head's surface."""
    rows, columns = 600, 640
    spot = np.zeros((rows, columns, 3), np.uint8)
    centre = [(theta / (2 * THETA_MAX) + 0.5) * columns - 0.5, row * rows - 0.5]
    x, y = (round(c * 16) for c in centre)
    return cv2.circle(spot, (x, y), 64, (255, 255, 255), -1, cv2.LINE_AA, 4)


def _sample(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The colours at points [P, 2], f32 [P, 3]."""
    at = np.atleast_2d(points).astype(np.float32)
    return cv2.remap(picture.astype(np.float32), at[:, 0], at[:, 1], cv2.INTER_LINEAR)[:, 0]


def _brightness(picture: np.ndarray, points: np.ndarray) -> float:
    return float(_sample(picture, points).mean())


def _redness(picture: np.ndarray, points: np.ndarray) -> float:
    red, green, _ = _sample(picture, points).mean(axis=0)
    return float(red / (green + 1))
