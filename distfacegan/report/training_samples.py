"""Pictures that show whether a training goes well.

They are the faces of fixed latents over the steps, and the real faces nearest to generated faces.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from distfacegan.core.grids import tile
from distfacegan.core.neighbours import nearest
from distfacegan.core.seeding import uniform_latents
from distfacegan.report.contents import Contents
from distfacegan.report.pictures import Picture, data_uri, picture, read_picture, shrink, webp
from distfacegan.store.location import Location

COLUMNS, GAP = 8, 2  # faces in a row of the sample grids, and pixels between the faces
MAX_GRIDS, MAX_GRID_SIDE = 6, 544
MAX_FRAMES, FRAME_MS, LAST_FRAME_MS = 48, 200, 2000
FACE_SIDE, STEP_HEIGHT = 64, 22  # pixels in a frame
QUALITY = 70  # of the film's WebP, which takes a seventh of the bytes of lossless WebP
INK = (29, 39, 51)  # the text colour of the page


def grids(contents: Contents) -> list[Picture]:
    """Return some of the sample grids of fixed z, including the first and the last."""
    pictures = []
    for path in _spread(contents.samples, MAX_GRIDS):
        step = int(path.stem)
        grid = shrink(read_picture(path), MAX_GRID_SIDE)
        pictures.append(Picture(webp(grid), f"Generated faces after step {step}", f"step {step:,}"))
    return pictures


def film(contents: Contents) -> tuple[Picture, Picture] | None:
    """Return a film of the first row of the sample grids, and the last frame as a still picture.

    Returns None if there are fewer than two grids.
    """
    paths = _spread(contents.samples, MAX_FRAMES)
    if len(paths) < 2:
        return None
    frames = [_frame(path) for path in paths]
    first, last = int(paths[0].stem), int(paths[-1].stem)
    alt = f"Faces of {COLUMNS} fixed latents from step {first} to step {last}"
    return Picture(_animate(frames), alt), Picture(webp(frames[-1]), f"{alt}: the last of them")


def neighbours(contents: Contents) -> list[tuple[Picture, Picture]]:
    """Return generated faces of the first fixed z, each with the nearest real face."""
    generator, rows = contents.generator, contents.rows_to_look_among
    if generator is None or len(rows) == 0:
        return []
    real = contents.faces(rows)
    if real.shape[1] != generator.resolution:
        return []
    # These are the z of the first row of the sample grids.
    z = uniform_latents(contents.seed, range(COLUMNS), generator.latent_dim, stream="samples")
    made = contents.generate(z)
    return [
        (
            picture(face, f"Generated face of fixed latent {i}"),
            picture(
                real[j],
                f"Real face {rows[j]}, the nearest to generated face {i}",
                f"row {rows[j]} · {distance:.1f}",
                {"row": int(rows[j]), "distance": float(distance)},
            ),
        )
        for i, (face, j, distance) in enumerate(zip(made, *nearest(made, real), strict=True))
    ]


def _spread(paths: Sequence[Location], count: int) -> list[Location]:
    """Return at most `count` evenly spread paths, including the first and the last."""
    picked = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round())
    return [paths[int(i)] for i in picked]


def _frame(path: Location) -> np.ndarray:
    """Return the first row of a grid, with its step below: u8 [H, W, 3]."""
    grid = read_picture(path)
    side = (grid.shape[1] + GAP) // COLUMNS - GAP
    way = cv2.INTER_AREA if side > FACE_SIDE else cv2.INTER_CUBIC
    lefts = np.arange(COLUMNS) * (side + GAP)
    faces = [
        cv2.resize(grid[:side, left : left + side], (FACE_SIDE, FACE_SIDE), interpolation=way)
        for left in lefts
    ]
    strip = tile(np.stack(faces), COLUMNS, GAP)
    frame = cv2.copyMakeBorder(
        strip, 0, STEP_HEIGHT, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
    where = (0, len(frame) - 6)
    text = f"step {int(path.stem):,}"
    return cv2.putText(frame, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)


def _animate(frames: Sequence[np.ndarray]) -> str:
    """Encode frames as a film that repeats for ever."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    durations = [FRAME_MS] * len(others) + [LAST_FRAME_MS]
    data = io.BytesIO()
    # kmax=1 encodes every frame as a whole. Otherwise the encoder leaves out changes too small to
    # see in every frame, and a face that changes slowly would not change at all. OpenCV's encoder
    # has no such setting.
    settings = {"quality": QUALITY, "kmin": 0, "kmax": 1, "loop": 0, "duration": durations}
    first.save(data, "WEBP", save_all=True, append_images=others, **settings)
    return data_uri(data.getvalue(), "webp")
