"""What the benchmarks work on: faces of a folder or procedural ones, and a small generator."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distfacegan.core.began import BeganTrainer
from distfacegan.core.faces import crop_face, find_face
from distfacegan.core.networks import Generator
from distfacegan.core.order import latents_of_step, rows_of_step
from distfacegan.core.pixels import to_images
from distfacegan.core.seeding import permutation
from distfacegan.errors import SourceError, UnreadablePhotoError
from distfacegan.sources import Source
from distfacegan.sources.folder import FolderSource
from distfacegan.sources.procedural import ProceduralFaces

log = logging.getLogger(__name__)

# The generator that is trained here.
SHAPE: dict[str, Any] = {"resolution": 32, "latent_dim": 64, "width": 16, "levels": 2}
SURROGATE_STEPS = 2500  # of the training of its surrogate: enough for one so small
TRAINING_FACES, TRAINING_STEPS, TRAINING_BATCH = 400, 500, 16
HYPERPARAMETERS: dict[str, Any] = {  # as in configs/began-quick.yaml
    "learning_rate": 1e-3,
    "gamma": 0.8,
    "lambda_k": 0.02,
}


def faces(photos: Path | None, count: int, resolution: int, seed: int = 0) -> Tensor:
    """Return faces [count, 3, R, R] in [-1, 1]: of random photos in a folder, or procedural.

    Raises SourceError where so many photos with a face cannot be found.
    """
    source: Source = (
        ProceduralFaces(2 * count, seed + 1) if photos is None else FolderSource(photos)
    )
    found: list[np.ndarray] = []
    for row in permutation(seed, 0, len(source.keys)).tolist():
        try:
            photo = source.read(row)
        except UnreadablePhotoError:
            continue
        box = find_face(photo)
        if box is not None:
            found.append(crop_face(photo, box, resolution))
        if len(found) == count:
            return to_images(np.stack(found), resolution)
    where = photos or "procedural faces"
    raise SourceError(f"{where}: {len(found)} photos with a face, {count} are needed")


def generator(seed: int = 0) -> Generator:
    """Train a small BEGAN on procedural faces: about a minute on two cores."""
    log.info("bench: trains a generator on %d procedural faces", TRAINING_FACES)
    real = faces(None, TRAINING_FACES, SHAPE["resolution"], seed + 1000)
    trainer = BeganTrainer(
        **SHAPE,
        steps=TRAINING_STEPS,
        seed=seed,
        learning_rate_decay="linear",
        loss="l1",
        **HYPERPARAMETERS,
    )
    for step in range(TRAINING_STEPS):
        rows = rows_of_step(seed, step, TRAINING_BATCH, len(real))
        z = latents_of_step(seed, step, TRAINING_BATCH, SHAPE["latent_dim"])
        trainer.step(real[rows], torch.from_numpy(z))
    return trainer.generator.eval().requires_grad_(False)
