"""What shows whether a training goes well: its fixed latents over the steps, and copied faces."""

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

COLUMNS, GAP = 8, 2  # of a grid that training writes
MAX_GRIDS, MAX_GRID_SIDE = 6, 544
MAX_FRAMES, FRAME_MS, LAST_FRAME_MS = 48, 200, 2000
FACE_SIDE, STEP_HEIGHT = 64, 22  # pixels in a frame
QUALITY = 70  # of the film's WebP: a seventh of the bytes of one without loss
INK = (29, 39, 51)  # the page's


def grids(contents: Contents) -> list[Picture]:
    """Return sample grids of fixed z over the training, the first and the last among them."""
    pictures = []
    for path in _spread(contents.samples, MAX_GRIDS):
        step = int(path.stem)
        grid = shrink(read_picture(path), MAX_GRID_SIDE)
        pictures.append(Picture(webp(grid), f"Generated faces after step {step}", f"step {step:,}"))
    return pictures


def film(contents: Contents) -> tuple[Picture, Picture] | None:
    """Return the first row of the sample grids as they follow each other: moving, and its end.

    None where there are fewer than two.
    """
    paths = _spread(contents.samples, MAX_FRAMES)
    if len(paths) < 2:
        return None
    frames = [_frame(path) for path in paths]
    first, last = int(paths[0].stem), int(paths[-1].stem)
    alt = f"Faces of {COLUMNS} fixed latents from step {first} to step {last}"
    return Picture(_animate(frames), alt), Picture(webp(frames[-1]), f"{alt}: the last of them")


def neighbours(contents: Contents) -> list[tuple[Picture, Picture]]:
    """Return generated faces of the first fixed z, each with the real face nearest to it."""
    generator, rows = contents.generator, contents.rows_to_look_among
    if generator is None or len(rows) == 0:
        return []
    real = contents.faces(rows)
    if real.shape[1] != generator.resolution:
        return []
    # The z of the grids.
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
    """Return at most `count` paths, evenly spread, the first and the last among them."""
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
    """Encode frames as a film that begins again after its last one."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    durations = [FRAME_MS] * len(others) + [LAST_FRAME_MS]
    data = io.BytesIO()
    # kmax=1 makes every frame a whole one. Else the encoder leaves out changes too small to see,
    # frame after frame: a face that changes slowly stays behind. OpenCV's cannot be told.
    settings = {"quality": QUALITY, "kmin": 0, "kmax": 1, "loop": 0, "duration": durations}
    first.save(data, "WEBP", save_all=True, append_images=others, **settings)
    return data_uri(data.getvalue(), "webp")
