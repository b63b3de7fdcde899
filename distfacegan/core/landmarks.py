"""The 49 landmarks of the paper (section IV): their indices, their mirror image, their error.

Points are iBUG's 68 without the jaw and the two inner mouth corners, in iBUG's order: 0..9 brows,
10..18 nose, 19..30 eyes, 31..48 mouth. Left is the image's left. Coordinates are (x, y) in units
of the face's side, from its top left edge: the centre of pixel i of R is at (i + 0.5) / R.

B batch. Functions take numpy arrays and torch tensors alike unless they say otherwise.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

Points = TypeVar("Points", np.ndarray, torch.Tensor)

IBUG_49 = [i for i in range(17, 68) if i not in (60, 64)]

LEFT_EYE = slice(19, 25)
RIGHT_EYE = slice(25, 31)
NOSE_TIP = 13
LEFT_EYE_CORNER, RIGHT_EYE_CORNER = 19, 28  # the outer ones
LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER = 31, 37
MOUTH = slice(31, 49)

# Landmark i of the mirrored face is the mirror image of landmark MIRRORED[i].
MIRRORED = [
    *range(9, -1, -1),  # brows
    *(10, 11, 12, 13),  # nose bridge
    *range(18, 13, -1),  # nostrils
    *(28, 27, 26, 25, 30, 29),  # left eye: corner, upper lid, corner, lower lid
    *(22, 21, 20, 19, 24, 23),  # right eye
    *range(37, 30, -1),  # outer upper lip
    *range(42, 37, -1),  # outer lower lip
    *(45, 44, 43),  # inner upper lip
    *(48, 47, 46),  # inner lower lip
]


def points_49(points_68: Points) -> Points:
    """Keep the 49 landmarks among iBUG's 68: [..., 68, 2] -> [..., 49, 2]."""
    return points_68[..., IBUG_49, :]


def mirror(points: Points) -> Points:
    """Return the landmarks [..., 49, 2] of the face mirrored left to right.

    >>> points = np.random.default_rng(0).random((49, 2))
    >>> np.allclose(mirror(mirror(points)), points)
    True
    """
    mirrored = points[..., MIRRORED, :]  # a copy
    mirrored[..., 0] = 1 - mirrored[..., 0]
    return mirrored


def distance(points: Points, other: Points) -> Points:
    """Return the Euclidean distance between points: [..., 2] -> [...].

    >>> distance(np.array([0.0, 0.0]), np.array([3.0, 4.0])).item()
    5.0
    """
    return ((points - other) ** 2).sum(-1) ** 0.5


def eye_distance(points: Points) -> Points:
    """Return the distance of the outer eye corners: [..., 49, 2] -> [...]."""
    return distance(points[..., LEFT_EYE_CORNER, :], points[..., RIGHT_EYE_CORNER, :])


def nme(points: Points, truth: Points) -> Points:
    """Return each face's mean landmark error over the true distance of its outer eye corners.

    [..., 49, 2] -> [...]; 0.04 is 4%.

    >>> truth = np.random.default_rng(0).random((49, 2))
    >>> shift = np.array([0.1, 0.0]) * eye_distance(truth)  # a tenth of the eyes' distance
    >>> round(nme(truth + shift, truth).item(), 6)
    0.1
    """
    return distance(points, truth).mean(-1) / eye_distance(truth)


def five_points(points: np.ndarray) -> np.ndarray:
    """Reduce [..., 49, 2] to CelebA's five: eye centres, nose tip, mouth corners; the left first.

    Numpy only.
    """
    return np.stack(
        [
            points[..., LEFT_EYE, :].mean(-2),
            points[..., RIGHT_EYE, :].mean(-2),
            points[..., NOSE_TIP, :],
            points[..., LEFT_MOUTH_CORNER, :],
            points[..., RIGHT_MOUTH_CORNER, :],
        ],
        axis=-2,
    )


def inside(points: np.ndarray, *, margin: float = 0.1) -> np.ndarray:
    """Say for each face, bool [B], whether all landmarks [B, 49, 2] are in it, or nearly.

    They must lie inside the face widened by `margin` on each side. Numpy only.
    """
    # False where a point is not a number.
    return np.all((points >= -margin) & (points <= 1 + margin), axis=(1, 2))


def possible_shape(points: np.ndarray) -> np.ndarray:
    """Say for each face, bool [B], whether its landmarks [B, 49, 2] can be an upright face's.

    The right outer eye corner must lie at least 0.2 of the side to the right of the left one, and
    the mouth at least 0.1 below the eyes. Real faces in the cascade's boxes have at least 0.3 and
    0.25. False where a point is not a number. Numpy only.
    """
    points = np.where(np.isfinite(points).all(axis=(1, 2), keepdims=True), points, 0)
    eyes_apart = points[:, RIGHT_EYE_CORNER, 0] - points[:, LEFT_EYE_CORNER, 0] >= 0.2
    eyes_y = (points[:, LEFT_EYE, 1].mean(axis=1) + points[:, RIGHT_EYE, 1].mean(axis=1)) / 2
    mouth_below = points[:, MOUTH, 1].mean(axis=1) - eyes_y >= 0.1
    return eyes_apart & mouth_below
