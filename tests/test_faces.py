"""Faces: the largest is found, the crop is exact, and points stay on their features."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distfacegan.core.faces import crop_face, find_face, points_in_face, points_in_photo
from distfacegan.sources.procedural import render_face

SHARED = Path(__file__).parents[2] / "shared" / "data"


def box(x: float, y: float, side: float, height: float | None = None) -> np.ndarray:
    return np.array([x, y, side, side if height is None else height], np.float32)


def enlarged(photo: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def photo():
    return render_face(0, 0)[0]


def test_a_face_is_found_with_its_landmarks_inside():
    found = 0
    for row in range(20):
        picture, landmarks = render_face(0, row)
        face = find_face(picture)
        if face is not None:
            assert face.dtype == np.float32
            assert face.shape == (4,)
            assert face[2] == face[3]
            inside = points_in_face(landmarks, face)
            found += (inside > 0).all() and (inside < 1).all()
    assert found >= 17  # a wide open mouth reaches below the box


def test_no_face_is_none():
    assert find_face(np.full((200, 200, 3), 128, np.uint8)) is None
    assert find_face(np.zeros((5, 3, 3), np.uint8)) is None


def test_the_largest_of_two_faces_is_taken(photo):
    canvas = np.full((420, 700, 3), 128, np.uint8)
    canvas[100:292, 20:212] = photo
    canvas[30:390, 300:660] = enlarged(photo, 360)
    x, _, side, _ = find_face(canvas)
    assert x > 300
    assert side > 120


def test_a_small_face_is_found_where_there_is_no_large_one(photo):
    canvas = np.full((600, 600, 3), 128, np.uint8)
    canvas[300:492, 100:292] = photo
    alone, within = find_face(photo), find_face(canvas)
    assert abs(within - alone - box(100, 300, 0)).max() < 12


def test_the_box_of_a_large_photo_is_in_its_own_pixels(photo):
    small = enlarged(photo, 640)
    large = small.repeat(4, axis=0).repeat(4, axis=1)  # each pixel as 4 x 4: shrunk, it is `small`
    np.testing.assert_array_equal(find_face(large), 4 * find_face(small))


def test_a_crop_of_its_own_size_is_the_photo_itself(photo):
    np.testing.assert_array_equal(crop_face(photo, box(30, 40, 64), 64), photo[40:104, 30:94])


def test_a_crop_beyond_the_photo_repeats_its_border():
    photo = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    expected = photo[np.ix_([0, 0, 0, 1, 2, 3, 3, 3], [0, 0, 0, 1, 2, 3, 3, 3])]
    np.testing.assert_array_equal(crop_face(photo, box(-2, -2, 8), 8), expected)
    expected = photo[np.ix_([2, 3, 3], [3, 3, 3])]
    np.testing.assert_array_equal(crop_face(photo, box(3, 2, 3), 3), expected)


def test_shrinking_averages_whole_pixels():
    photo = np.zeros((4, 4, 3), np.uint8)
    photo[0, 0], photo[0, 1], photo[1, 0], photo[1, 1] = 10, 20, 30, 40
    assert crop_face(photo, box(0, 0, 4), 2)[:, :, 0].tolist() == [[25, 0], [0, 0]]


@pytest.mark.parametrize(
    "bad", [box(0, 0, 8, 9), box(0.5, 0, 8), box(0, 0, 0), box(float("nan"), 0, 8), box(50, 0, 8)]
)
def test_a_box_that_cannot_be_cropped_is_an_error(bad):
    with pytest.raises(ValueError, match="box"):
        crop_face(np.zeros((40, 50, 3), np.uint8), bad, 8)


def test_points_in_the_face_by_hand():
    # The box covers pixels 10..29: its edges are at 9.5 and 29.5, its middle at 19.5.
    points = np.array([[9.5, 9.5], [19.5, 29.5], [10, 10]])
    inside = points_in_face(points, box(10, 10, 20))
    assert inside.dtype == np.float32
    np.testing.assert_allclose(inside, [[0, 0], [0.5, 1], [0.025, 0.025]])


def test_points_come_back_from_the_face():
    points = np.random.default_rng(0).uniform(-20, 300, (49, 2)).astype(np.float32)
    face = box(-7, 31, 113)
    np.testing.assert_allclose(
        points_in_photo(points_in_face(points, face), face), points, atol=1e-4
    )


@pytest.mark.parametrize("resolution", [32, 64, 97, 128, 256])
@pytest.mark.parametrize("corner", [(40, 60), (-30, 100), (150, -13)])
def test_a_dot_stays_under_its_point(resolution, corner):
    # A blurred dot at a sub-pixel place; its centre of mass in the crop is where the point says.
    rows, columns = np.mgrid[0:200, 0:240]
    place = np.array([corner[0] + 61.3, corner[1] + 72.8])
    dot = 250 * np.exp(-((columns - place[0]) ** 2 + (rows - place[1]) ** 2) / (2 * 5**2))
    photo = np.repeat(np.round(dot).astype(np.uint8)[:, :, None], 3, axis=2)
    face = box(*corner, 128)
    crop = crop_face(photo, face, resolution)[:, :, 0].astype(float)
    v, u = np.mgrid[0:resolution, 0:resolution]
    mass = np.array([(crop * u).sum(), (crop * v).sum()]) / crop.sum()  # centres of pixels
    point = points_in_face(place[None], face)[0]
    np.testing.assert_allclose((mass + 0.5) / resolution, point, atol=0.05 / 128)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data: real photos")
@pytest.mark.parametrize(
    ("folder", "least"), [("celeba_half/img_align_celeba", 0.9), ("lfw", 0.97), ("helen", 0.85)]
)
def test_faces_are_found_in_real_photos(folder, least):
    files = sorted((SHARED / folder).glob("*.jpg"))[:40]
    found = [find_face(np.asarray(Image.open(file).convert("RGB"))) is not None for file in files]
    assert np.mean(found) >= least
