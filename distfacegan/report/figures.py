"""The page's pictures of faces: pixels as data URIs, landmarks as vector marks above them."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from distfacegan.core.grids import encode, tile
from distfacegan.core.landmarks import nme
from distfacegan.errors import RunDirectoryError
from distfacegan.report import mirror
from distfacegan.report.contents import Contents, Table, choose
from distfacegan.store.location import Location

GRID_FACES = 64
NUM_LABELLED = 12  # faces of a figure that shows landmarks
MAX_SIDE = 128  # pixels of a face on the page; larger ones are shrunk
MAX_GRIDS = 6
MAX_GRID_SIDE = 544
DETECTED, GENERATED = "detected", "generated"  # kinds of marks, coloured by the page's style


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of the page; `marks` are kinds of landmarks and SVG paths in a 100 x 100 box."""

    uri: str
    alt: str
    label: str = ""
    marks: Sequence[tuple[str, str]] = ()
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)  # that the label says


def draw(contents: Contents) -> dict[str, Any]:
    """Return the pictures of every figure; those of a stage that has not run are empty."""
    return {
        "random_faces": random_faces(contents),
        "training_samples": training_samples(contents),
        "reconstructions": reconstructions(contents),
        "detections": detections(contents),
        "test_examples": test_examples(contents),
        "labelled_faces": labelled_faces(contents),
        "ways": ways_to_mirror(contents),
        "synthetic": synthetic_samples(contents),
    }


def numbers(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers below the pictures, for the summary."""
    return {
        "reconstructions": {
            name: [dict(made.numbers) for _, made in pairs]
            for name, pairs in drawn["reconstructions"].items()
        },
        "test_examples": [dict(shown.numbers) for shown in drawn["test_examples"]],
        "mirror": [{**way[0].numbers, **way[-1].numbers} for way in drawn["ways"]],
    }


def random_faces(contents: Contents) -> dict[str, Picture]:
    """Fig. 3: grids of generated and of real faces, each where there are some."""
    grids = {"generated": contents.generated_faces, "real": contents.real_faces}
    return {
        kind: Picture(_uri(_grid(faces)), f"{len(faces[:GRID_FACES])} {kind} faces in a grid")
        for kind, faces in grids.items()
        if faces is not None
    }


def training_samples(contents: Contents) -> list[Picture]:
    """Return sample grids of fixed z over the training, the first and the last among them."""
    paths = contents.samples
    picked = np.unique(np.linspace(0, len(paths) - 1, min(MAX_GRIDS, len(paths))).round())
    pictures = []
    for path in (paths[int(i)] for i in picked):
        step = int(path.stem)
        grid = shrink(_read_picture(path), MAX_GRID_SIDE)
        pictures.append(Picture(_uri(grid), f"Generated faces after step {step}", f"step {step:,}"))
    return pictures


def reconstructions(contents: Contents) -> dict[str, list[tuple[Picture, Picture]]]:
    """Fig. 4: pairs of photo and G(z), random ones, the best and the worst by equation 3."""
    photos, latents = contents.photos, contents.latents
    if photos is None or latents is None or contents.generator is None:
        return {}
    rows = np.flatnonzero(np.isfinite(contents.losses))
    order = rows[np.argsort(contents.losses[rows], kind="stable")]
    groups = {"random": random_rows(contents), "best": order[:4], "worst": order[-4:][::-1]}
    return {
        name: _pairs(contents, photos, latents, some) for name, some in groups.items() if len(some)
    }


def random_rows(contents: Contents) -> np.ndarray:
    """Return the rows that stand for all inverted ones on the page."""
    return choose(np.flatnonzero(np.isfinite(contents.losses)), 12)


def detections(contents: Contents) -> list[Picture]:
    """Fig. 5: random faces with their detected landmarks."""
    if contents.photos is None or contents.landmarks is None:
        return []
    rows = contents.landmarks.sample(NUM_LABELLED)
    if len(rows) == 0:
        return []
    points = contents.landmarks.read("points", rows)
    return [
        picture(face, f"Face {row} with its detected landmarks", f"row {row}", detected=own)
        for row, face, own in zip(rows, contents.photos.read("image", rows), points, strict=True)
    ]


def test_examples(contents: Contents) -> list[Picture]:
    """Return test photos with detected landmarks and, in another colour, L-Gen's of their z."""
    rows = choose(contents.test_rows, NUM_LABELLED)
    network = contents.held_out_lgen
    if len(rows) == 0 or network is None or not (contents.photos and contents.latents):
        return []
    assert contents.landmarks is not None
    truth = contents.landmarks.read("points", rows)
    made = _landmarks(network, contents.latents.read("z", rows))
    return [
        picture(
            face,
            f"Test face {row} with detected landmarks and L-Gen's",
            f"NME {100 * error:.1f}%",
            {"row": int(row), "nme": float(error)},
            detected=own,
            generated=points,
        )
        for row, face, own, points, error in zip(
            rows, contents.photos.read("image", rows), truth, made, nme(made, truth), strict=True
        )
    ]


def labelled_faces(contents: Contents) -> list[Picture]:
    """Fig. 8: G(z) with the landmarks L-Gen(z), for random z."""
    if contents.lgen is None or contents.z is None or contents.generated_faces is None:
        return []
    some = slice(GRID_FACES, GRID_FACES + NUM_LABELLED)  # others than in Fig. 3
    faces, points = contents.generated_faces[some], _landmarks(contents.lgen, contents.z[some])
    return [
        picture(face, "Generated face with L-Gen's landmarks", generated=own)
        for face, own in zip(faces, points, strict=True)
    ]


def ways_to_mirror(contents: Contents) -> list[list[Picture]]:
    """Fig. 9: for some photos, the photo, 16 faces on the line to its mirror image, the mirror."""
    if contents.photos is None or contents.generator is None or contents.latents is None:
        return []
    rows = random_rows(contents)[:3]
    if len(rows) == 0:
        return []
    photos = contents.shrink(contents.photos.read("image", rows))
    ends, losses = mirror.invert_mirrored(contents, contents.photos, rows)
    starts = contents.latents.read("z", rows)
    return [
        [
            picture(
                photo,
                f"Photo {row}",
                f"row {row} · {own:.3f}",
                {"row": int(row), "loss": float(own)},
            ),
            *_way(contents, mirror.way(start, end)),
            picture(
                photo[:, ::-1],
                f"Photo {row} mirrored",
                f"mirror · {mirrored:.3f}",
                {"mirror_loss": float(mirrored)},
            ),
        ]
        for row, photo, start, end, own, mirrored in zip(
            rows, photos, starts, ends, contents.losses[rows], losses, strict=True
        )
    ]


def synthetic_samples(contents: Contents) -> list[Picture]:
    """Return the first samples of the generated dataset, as their files hold them."""
    return [
        Picture(
            "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(),
            f"Synthetic face {labels['index']} with its landmarks",
            f"{labels['index']:09d}",
            [(GENERATED, _path(np.array(labels["landmarks"])))],
        )
        for jpeg, labels in contents.synthetic(NUM_LABELLED)
    ]


def picture(
    face: np.ndarray,
    alt: str,
    label: str = "",
    numbers: Mapping[str, float] | None = None,
    **marks: np.ndarray,
) -> Picture:
    """Make a picture of a face u8 [R, R, 3] with kinds of landmarks [49, 2] in units of it."""
    paths = [(kind, _path(points)) for kind, points in marks.items()]
    return Picture(_uri(shrink(face, MAX_SIDE)), alt, label, paths, numbers or {})


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return a picture u8 [H, W, 3] with its longer side at most `side`."""
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def _pairs(
    contents: Contents, photos: Table, latents: Table, rows: np.ndarray
) -> list[tuple[Picture, Picture]]:
    shrunk = contents.shrink(photos.read("image", rows))
    faces = contents.generate(latents.read("z", rows))
    return [
        (
            picture(photo, f"Photo {row}", f"row {row}"),
            picture(
                face,
                f"Reconstruction of photo {row}",
                f"{loss:.3f}",
                {"row": int(row), "loss": float(loss)},
            ),
        )
        for row, photo, face, loss in zip(rows, shrunk, faces, contents.losses[rows], strict=True)
    ]


def _way(contents: Contents, z: np.ndarray) -> list[Picture]:
    last = len(z) - 1
    marks: list[dict[str, Any]] = [{} for _ in z]
    if contents.lgen is not None:
        marks = [{GENERATED: points} for points in _landmarks(contents.lgen, z)]
    return [
        picture(face, f"Face {i} of {last} on the way to the mirror image", f"{i}/{last}", **own)
        for i, (face, own) in enumerate(zip(contents.generate(z), marks, strict=True))
    ]


def _landmarks(network: torch.nn.Module, z: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(z)).numpy()


def _grid(faces: np.ndarray) -> np.ndarray:
    return tile(np.stack([shrink(face, MAX_SIDE) for face in faces[:GRID_FACES]]), columns=8)


def _path(points: np.ndarray) -> str:
    """Return an SVG path with a dot, where its caps are round, at every finite point [P, 2]."""
    return "".join(f"M{100 * x:.1f} {100 * y:.1f}h.01" for x, y in points if np.isfinite(x + y))


def _uri(pixels: np.ndarray) -> str:
    """Encode pixels without loss; WebP is a third smaller than PNG."""
    return "data:image/webp;base64," + base64.b64encode(encode(pixels, ".webp")).decode()


def _read_picture(path: Location) -> np.ndarray:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if pixels is None:
        raise RunDirectoryError(f"{path} is damaged: it is no picture; delete it")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
