"""`distfacegan train-detector`: a landmark detector that learns from a run's labelled faces."""

from __future__ import annotations

import logging

import numpy as np
import torch

from distfacegan.core import lgen, regressor
from distfacegan.core.detectors.regressor import RegressorDetector
from distfacegan.core.landmarks import nme
from distfacegan.core.regressor import Schedule
from distfacegan.core.seeding import permutation
from distfacegan.errors import RunDirectoryError
from distfacegan.store import groups, weight_files
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

log = logging.getLogger(__name__)

STATE = "regressor"  # the name of the weights' file
MIN_FACES, MAX_FACES = 20, 20_000
HELD_OUT = 0.1


def labelled_faces(run: RunDirectory, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return faces u8 [N, R, R, 3] with trusted landmarks, and these landmarks, f32 [N, 49, 2].

    Of more than MAX_FACES a random part is returned. Raises RunDirectoryError below MIN_FACES.
    """
    for stage in ("ingest", "landmarks"):
        if not run.finished(stage):
            raise RunDirectoryError(
                f"{run.root}: the stage {stage} is not finished; finish it with `distfacegan run`"
            )
    photos, landmarks = (groups.open_group(run.latents, name) for name in ("photos", "landmarks"))
    rows = np.flatnonzero(groups.read(landmarks, "status") == Status.OK)
    if len(rows) < MIN_FACES:
        raise RunDirectoryError(
            f"{run.root}: {len(rows)} faces have trusted landmarks, needed are {MIN_FACES} "
            "(`distfacegan status` counts the faces of each status)"
        )
    chosen = np.sort(rows[permutation(seed, 0, len(rows))[:MAX_FACES]])
    faces = []
    for shard in groups.plan(photos):
        within = chosen[(chosen >= shard.start) & (chosen < shard.stop)] - shard.start
        if len(within):
            faces.append(groups.read(photos, "image", shard)[within])
    return np.concatenate(faces), groups.read(landmarks, "points")[chosen]


def train(run: RunDirectory, folder: Location, schedule: Schedule, *, seed: int) -> str:
    """Train a detector on a run's labelled faces, write it into a folder, and say how good it is.

    A tenth of the faces is held out of the training; the error is measured on it.
    """
    faces, points = labelled_faces(run, seed=seed)
    rows, held_out = lgen.split(len(faces), HELD_OUT, seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    log.info("learning from %d faces, %d steps on %s", len(rows), schedule.steps, device)
    network = regressor.train(faces[rows], points[rows], schedule, seed=seed, device=device)
    truth = points[held_out]
    found = RegressorDetector(network, device=device).detect_twice(faces[held_out]).points
    mean = np.broadcast_to(points[rows].mean(axis=0), truth.shape)
    errors = {
        "nme": float(nme(found, truth).mean()),
        "nme_mean_shape": float(nme(mean, truth).mean()),
    }
    meta = {"seed": seed, "faces": len(rows), "faces_held_out": len(held_out), **errors}
    weight_files.save(folder, {STATE: network.cpu().state_dict()}, meta)
    return (
        f"NME {errors['nme']:.4f} on {len(held_out)} faces that were held out, mean shape "
        f"{errors['nme_mean_shape']:.4f}\n"
        f"landmarks: {{detector: regressor, model: {folder / STATE}.safetensors}}"
    )
