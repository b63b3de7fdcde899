"""A look: a comparison of the generator's faces of fixed z with real faces."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from distfacegan.core.began import BeganTrainer
from distfacegan.core.collapse import encoder_distance
from distfacegan.core.diversity import diversity
from distfacegan.core.neighbours import nearest_ratio
from distfacegan.core.pixels import to_faces, to_images
from distfacegan.core.seeding import uniform_latents
from distfacegan.stages.feed import StoredFaces

NUM_FACES = 512  # generated faces, and real faces, that are compared
NUM_NEAREST = 64  # generated faces whose nearest real face is searched for
NUM_AMONG = 1024  # real faces among which the nearest is searched for
BATCH = 64


class Look:
    """Holds the z and the real faces, which are the same in every look."""

    def __init__(self, faces: StoredFaces, trainer: BeganTrainer, seed: int) -> None:
        self._real = faces.sample(NUM_AMONG, seed)
        dim = trainer.generator.latent_dim
        self._z = torch.from_numpy(uniform_latents(seed, range(NUM_FACES), dim, stream="samples"))
        some = self._real[:NUM_FACES]
        self._real_diversity = diversity(some) if len(some) > 1 else 0.0

    def __call__(self, trainer: BeganTrainer) -> tuple[np.ndarray, dict[str, float]]:
        """Return the generated faces, u8 [512, r, r, 3], and the measures by name.

        Nothing is measured if there is only one real face, or if all real faces are the same.
        Generated faces with values that are not finite get the diversity ratio 0.
        """
        generator = trainer.averaged or trainer.generator
        encoder = trainer.discriminator.encoder
        faces, codes, finite = [], [], True
        with torch.inference_mode():
            for z in self._z.split(BATCH):
                images = generator(z.to(trainer.device))
                finite = finite and bool(images.isfinite().all())
                faces.append(to_faces(images))
                codes.append(_numpy(encoder(images)))
            of_real = [
                _numpy(encoder(to_images(self._real[i : i + BATCH], device=trainer.device)))
                for i in range(0, min(NUM_FACES, len(self._real)), BATCH)
            ]
        made = np.concatenate(faces)
        if self._real_diversity == 0.0:
            return made, {}
        if not finite:
            return made, {"diversity_ratio": 0.0}
        found = {
            "diversity_ratio": diversity(made) / self._real_diversity,
            "encoder_distance": encoder_distance(np.concatenate(codes), np.concatenate(of_real)),
            "nearest_ratio": nearest_ratio(made[:NUM_NEAREST], self._real),
        }
        return made, {name: value for name, value in found.items() if math.isfinite(value)}


def _numpy(codes: Tensor) -> np.ndarray:
    return codes.float().cpu().numpy()
