"""The real faces nearest to given ones: does the generator copy what it was trained on?

Legend: B faces, N faces to look among, r side of a face, D = 3 * 16 * 16 numbers of a thumbnail.
"""

import cv2
import numpy as np

SIDE = 16  # pixels of a thumbnail: faces are compared, not every pixel of theirs
BLOCK = 512  # faces looked among at once
_MIDDLE = 128


def nearest(faces: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of faces u8 [B, r, r, 3] its nearest one of `among` u8 [N, r, r, 3].

    That is its index, i64 [B] (the first of equals), and its distance, f32 [B]: the root of the
    mean squared difference of their thumbnails, 16 x 16 pixels, in units of 0..255. Raises
    ValueError where the sides differ or there is nothing to look among.
    """
    if faces.shape[1:] != among.shape[1:] or len(among) == 0:
        raise ValueError(f"cannot compare faces {faces.shape} with faces {among.shape}")
    return nearest_thumbnails(thumbnails(faces), thumbnails(among))


def nearest_ratio(generated: np.ndarray, real: np.ndarray) -> float:
    """Return how near generated faces are to real ones; far below 1 the generator copies.

    This is the median distance of generated faces u8 [B, r, r, 3] to the nearest real one, u8
    [N, r, r, 3], over the median distance of real ones to the nearest other. NaN if most real faces
    occur twice. Raises ValueError for fewer than 2 real faces.
    """
    if len(real) < 2:
        raise ValueError(f"nearest_ratio needs at least 2 real faces, found {len(real)}")
    _, of_generated = nearest(generated, real)
    small = thumbnails(real)
    _, of_real = nearest_thumbnails(small, small, others=True)
    usual = float(np.median(of_real))
    return float(np.median(of_generated)) / usual if usual else float("nan")


def nearest_thumbnails(
    faces: np.ndarray, among: np.ndarray, *, others: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `nearest` returns, of thumbnails i8 [B, D] among others i8 [N, D].

    With `others` face i is not its own neighbour.
    """
    faces = faces.astype(np.float32)
    indices, squares = np.zeros(len(faces), np.int64), np.full(len(faces), np.inf)
    rows = np.arange(len(faces))
    norms = (faces**2).sum(axis=1, dtype=np.float64)
    for start in range(0, len(among), BLOCK):
        block = among[start : start + BLOCK].astype(np.float32)
        # |a - b|^2 = |a|^2 + |b|^2 - 2 ab: one matrix product [B, BLOCK].
        found = norms[:, None] + (block**2).sum(axis=1, dtype=np.float64) - 2 * faces @ block.T
        if others:
            own = rows[start : start + BLOCK]
            found[own, own - start] = np.inf
        best = found.argmin(axis=1)
        nearer = found[rows, best] < squares
        indices[nearer], squares[nearer] = start + best[nearer], found[rows, best][nearer]
    return indices, np.sqrt(squares / faces.shape[1]).astype(np.float32)


def thumbnails(faces: np.ndarray) -> np.ndarray:
    """Return thumbnails, at most 16 x 16 pixels, as i8 [N, D].

    A float32 product of such numbers is exact in any order, because 3 * 16^2 * 128^2 < 2^24.
    """
    side = min(SIDE, faces.shape[1])
    small = [cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA) for face in faces]
    shape = (len(faces), 3 * side**2)
    return (np.reshape(small, shape).astype(np.int16) - _MIDDLE).astype(np.int8)


def to_earlier(faces: np.ndarray) -> np.ndarray:
    """Return how far each of faces u8 [B, r, r, 3] is from the nearest earlier one: f32 [B].

    The distance is that of `nearest`; the first face has inf.
    """
    small = thumbnails(faces).astype(np.float32)
    norms = (small**2).sum(axis=1)
    squares = norms[:, None] + norms - 2 * small @ small.T
    earlier = np.tri(len(faces), k=-1, dtype=bool)
    return np.sqrt(np.where(earlier, squares, np.inf).min(axis=1, initial=np.inf) / small.shape[1])
