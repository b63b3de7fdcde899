"""The figures of the page: the faces that are shown and the labels below them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from distfacegan.core.grids import tile
from distfacegan.core.landmarks import mirror as mirrored
from distfacegan.core.landmarks import nme
from distfacegan.report import mirror, training_samples
from distfacegan.report.contents import Contents
from distfacegan.report.pictures import MAX_SIDE, Picture, picture, shrink, webp
from distfacegan.report.tables import Table, choose
from distfacegan.store import groups
from distfacegan.store.shards import Status

GRID_FACES = 64
UNTRUSTED = [
    Status.LANDMARKS_NOT_TRUSTED,
    Status.POINTS_OUTSIDE,
    Status.IMPOSSIBLE_SHAPE,
    Status.LOW_SCORE,
    Status.VIEWS_DISAGREE,
]
NUM_LABELLED = 12  # the number of faces in a figure with landmarks
DETECTED, GENERATED = "detected", "generated"  # kinds of marks; page.html gives each its colour


def draw(contents: Contents) -> dict[str, Any]:
    """Return the pictures of every figure. The figures of a stage that has not run are empty."""
    return {
        "random_faces": random_faces(contents),
        "training_samples": training_samples.grids(contents),
        "training_film": training_samples.film(contents),
        "neighbours": training_samples.neighbours(contents),
        "reconstructions": reconstructions(contents),
        "detections": detections(contents),
        "doubtful": doubtful(contents),
        "test_examples": test_examples(contents),
        "labelled_faces": labelled_faces(contents),
        "ways": ways_to_mirror(contents),
        "synthetic": synthetic_samples(contents),
    }


def numbers(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers in the labels of the pictures, for summary.json."""
    return {
        "reconstructions": {
            name: [dict(made.numbers) for _, made in pairs]
            for name, pairs in drawn["reconstructions"].items()
        },
        "neighbours": [dict(real.numbers) for _, real in drawn["neighbours"]],
        "test_examples": [dict(shown.numbers) for shown in drawn["test_examples"]],
        "mirror": [
            {**way[0].numbers, **way[1].numbers, **way[-1].numbers} for way in drawn["ways"]
        ],
    }


def random_faces(contents: Contents) -> dict[str, Picture]:
    """Fig. 3: a grid of generated faces and a grid of real faces, each only if there are any."""
    grids = {"generated": contents.generated_faces, "real": contents.real_faces}
    return {
        kind: Picture(webp(_grid(faces)), f"{len(faces[:GRID_FACES])} {kind} faces in a grid")
        for kind, faces in grids.items()
        if faces is not None
    }


def reconstructions(contents: Contents) -> dict[str, list[tuple[Picture, Picture]]]:
    """Fig. 4: pairs of photo and G(z): random pairs, and the best and the worst by equation 3."""
    photos, latents = contents.photos, contents.latents
    if photos is None or latents is None or contents.generator is None:
        return {}
    rows = np.flatnonzero(np.isfinite(contents.losses))
    order = rows[np.argsort(contents.losses[rows], kind="stable")]
    shown = {"random": random_rows(contents), "best": order[:4], "worst": order[-4:][::-1]}
    return {
        name: _pairs(contents, photos, latents, some) for name, some in shown.items() if len(some)
    }


def random_rows(contents: Contents) -> np.ndarray:
    """Return the random inverted rows that the page shows."""
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


def doubtful(contents: Contents) -> list[Picture]:
    """Return the faces whose landmarks are least to be trusted, each with its status.

    First come faces whose landmarks are not trusted, then those whose two views differ the most.
    """
    if contents.photos is None or contents.landmarks is None:
        return []
    status = groups.read(contents.landmarks.group, "status")
    apart = groups.read(contents.landmarks.group, "disagreement")
    doubt = np.where((status == Status.OK) & np.isfinite(apart), apart, -1.0)
    doubt[np.isin(status, UNTRUSTED)] = np.inf
    rows = np.argsort(-doubt, kind="stable")[:NUM_LABELLED]
    rows = np.sort(rows[doubt[rows] > 0])
    if len(rows) == 0:
        return []
    points = contents.landmarks.read("points", rows)
    return [
        picture(
            face,
            f"Face {row}, whose landmarks are in doubt",
            f"row {row} · {Status(status[row]).label}",
            detected=own,
        )
        for row, face, own in zip(rows, contents.photos.read("image", rows), points, strict=True)
    ]


def test_examples(contents: Contents) -> list[Picture]:
    """Return test photos with their detected landmarks and, in another colour, L-Gen(z)."""
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
    some = slice(GRID_FACES, GRID_FACES + NUM_LABELLED)  # not the faces of Fig. 3
    faces, points = contents.generated_faces[some], _landmarks(contents.lgen, contents.z[some])
    return [
        picture(face, "Generated face with L-Gen's landmarks", generated=own)
        for face, own in zip(faces, points, strict=True)
    ]


def ways_to_mirror(contents: Contents) -> list[list[Picture]]:
    """Fig. 9: for some photos: the photo, 16 faces between the two, and its mirror image."""
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
    """Return the first samples of the generated dataset, read from its files."""
    return [
        picture(
            sample.face,
            f"Synthetic face {sample.index} with its landmarks",
            f"{sample.index:09d}",
            generated=sample.landmarks,
        )
        for sample in contents.synthetic(NUM_LABELLED)
    ]


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
    last, faces = len(z) - 1, contents.generate(z)
    marks: list[dict[str, Any]] = [{} for _ in z]
    of_way = {"largest_step": largest_step(faces)}
    if contents.lgen is not None:
        points = _landmarks(contents.lgen, z)
        marks = [{GENERATED: own} for own in points]
        of_way["largest_landmark_step"] = largest_step(points)
        of_way["mirror_nme"] = float(nme(points[-1], mirrored(points[0])))
    return [
        picture(
            face,
            f"Face {i} of {last} on the way to the mirror image",
            f"{i}/{last}",
            {} if i else of_way,
            **own,
        )
        for i, (face, own) in enumerate(zip(faces, marks, strict=True))
    ]


def largest_step(way: np.ndarray) -> float:
    """Return the largest step of a way [n, ...] over the mean step; 1 if all steps are equal."""
    steps = np.abs(np.diff(way.astype(np.float64), axis=0)).reshape(len(way) - 1, -1).mean(axis=1)
    return float(steps.max() / steps.mean()) if steps.any() else 1.0


def _landmarks(network: torch.nn.Module, z: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(z)).numpy()


def _grid(faces: np.ndarray) -> np.ndarray:
    return tile(np.stack([shrink(face, MAX_SIDE) for face in faces[:GRID_FACES]]), columns=8)
