"""What generated faces are worth: networks learn landmarks from them, and are tested on real faces.

All ways train for the same number of steps on equally augmented faces.

Legend: N faces, R side of a face.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import cv2
import numpy as np

from distfacegan.core import regressor
from distfacegan.core.regressor import Regressor, Schedule

Way = Literal["real", "synthetic", "synthetic first", "both"]
FINE_TUNING = 0.5  # of the learning rate, for the real faces after the synthetic ones


@dataclasses.dataclass(frozen=True)
class LabelledFaces:
    """Faces with landmarks."""

    faces: np.ndarray  # u8 [N, R, R, 3]
    points: np.ndarray  # f32 [N, 49, 2], in sides of the face

    def __getitem__(self, rows: np.ndarray | slice) -> LabelledFaces:
        return LabelledFaces(self.faces[rows], self.points[rows])

    def __len__(self) -> int:
        return len(self.faces)


def train(
    way: Way, real: LabelledFaces, synthetic: LabelledFaces, steps: int, *, seed: int, device: str
) -> Regressor:
    """Train a regressor in one way, for `steps` steps.

    real: on the real faces alone. synthetic: on the generated faces alone. synthetic first: half
    of the steps on the generated faces, the others on the real ones. both: half of every batch is
    real.
    """
    learn = functools.partial(regressor.train, seed=seed, device=device)
    of_real, of_synthetic = (real.faces, real.points), (synthetic.faces, synthetic.points)
    if way == "synthetic first":
        half = Schedule(steps=steps // 2)
        tuning = dataclasses.replace(half, learning_rate=FINE_TUNING * half.learning_rate)
        return learn(*of_real, tuning, start=learn(*of_synthetic, half))
    faces, points = of_synthetic if way == "synthetic" else of_real
    others = of_synthetic if way == "both" else None
    return learn(faces, points, Schedule(steps=steps), others=others)


def crop_alike(faces: LabelledFaces, like: LabelledFaces) -> LabelledFaces:
    """Move and scale all faces alike, so that their mean shape lies as that of others.

    Generators are trained on faces that are cropped in different ways. Pixels beyond a face repeat
    its border.
    """
    own, wanted = faces.points.mean(axis=0), like.points.mean(axis=0)
    scale = float(np.linalg.norm(wanted - wanted.mean(0)) / np.linalg.norm(own - own.mean(0)))
    shift = wanted.mean(axis=0) - scale * own.mean(axis=0)
    side = faces.faces.shape[1]
    # Points are in sides from the top left edge; OpenCV counts from the centre of the first pixel.
    offset = side * shift + (scale - 1) / 2
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    moved = [
        cv2.warpAffine(face, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
        for face in faces.faces
    ]
    points = (scale * faces.points + shift).astype(np.float32)
    return LabelledFaces(np.stack(moved), points)
