"""Small pictures of a data set's faces, which the report's browser shows.

thumbnails/00004-0.webp  the first SHEET faces of a shard with their landmarks, COLUMNS in a row
thumbnails/00004.npy     the indices of all, and the expected errors of their landmarks
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from distfacegan.store.exports import Sample
from distfacegan.store.location import Location

FOLDER = "thumbnails"
SIDE = 64  # pixels of a face
COLUMNS = 25
SHEET = 2500  # faces of a file: WebP pictures have at most 16,383 pixels on a side
QUALITY = 70  # of the WebP files
DOT = (60, 216, 255)  # of a landmark, BGR
TABLE = np.dtype([("index", np.int64), ("error", np.float32)])


def pack(shard: int, samples: Sequence[Sample]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of the files of a shard."""
    for start in range(0, len(samples), SHEET):
        name = f"{FOLDER}/{shard:05d}-{start // SHEET}.webp"
        yield name, _sheet(samples[start : start + SHEET])
    errors = [np.nan if s.uncertainty is None else s.uncertainty.mean() for s in samples]
    table = np.empty(len(samples), TABLE)
    table["index"], table["error"] = [sample.index for sample in samples], errors
    buffer = io.BytesIO()
    np.save(buffer, table)
    yield f"{FOLDER}/{shard:05d}.npy", buffer.getvalue()


def read_table(folder: Location, shard: int) -> np.ndarray | None:
    """Return the indices and errors of a shard, a TABLE [n]; None if there is none."""
    path = folder / FOLDER / f"{shard:05d}.npy"
    return np.load(io.BytesIO(path.read_bytes())) if path.exists() else None


def _sheet(samples: Sequence[Sample]) -> bytes:
    """Return the picture of all samples."""
    rows = -(-len(samples) // COLUMNS)
    sheet = np.zeros((rows * SIDE, COLUMNS * SIDE, 3), np.uint8)
    for place, sample in enumerate(samples):
        top, left = SIDE * (place // COLUMNS), SIDE * (place % COLUMNS)
        sheet[top : top + SIDE, left : left + SIDE] = _drawn(sample)
    done, data = cv2.imencode(".webp", sheet, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert done
    return data.tobytes()


def _drawn(sample: Sample) -> np.ndarray:
    """Return a face of SIDE pixels with dots at its landmarks, BGR."""
    shrinks = sample.face.shape[0] > SIDE
    how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    face = cv2.resize(cv2.cvtColor(sample.face, cv2.COLOR_RGB2BGR), (SIDE, SIDE), interpolation=how)
    for x, y in (sample.landmarks * SIDE).astype(int).clip(0, SIDE - 1):
        face[y, x] = DOT
    return face
