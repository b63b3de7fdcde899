"""A small convolutional network that finds the landmarks of faces, and its training.

It is a detector for faces like those that it has learnt from. It also measures what a set of
labelled faces is worth: the error of a network that has learnt from them.

Legend: N faces, B batch, R side of a face, S side of what the network sees.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distfacegan.core.landmarks import MIRRORED, eye_distance

SIDE = 64  # S
CHANNELS = (3, 16, 32, 64, 96)  # of the picture, and after each convolution
HIDDEN = 256
NUM_POINTS = 49
# The augmentation of a training face: each value is uniform up to this bound on both sides.
MAX_TURN = math.radians(15)
MAX_SCALE = 0.15
MAX_SHIFT = 0.06  # sides of the face
MAX_GAIN, MAX_TINT = 0.3, 0.2  # of the colours in [-1, 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a regressor is trained: AdamW with a rate that falls to 0 along a cosine."""

    steps: int = 1500
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: int = 50  # steps in which the rate rises


class Regressor(nn.Module):
    """Four convolutions with batch normalisation, then two linear layers."""

    mean_shape: Tensor  # [49, 2], to which the network adds

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in itertools.pairwise(CHANNELS):
            blocks += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.features = nn.Sequential(*blocks, nn.Flatten())
        side = SIDE // 2 ** (len(CHANNELS) - 1)
        self.head = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(CHANNELS[-1] * side**2, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 2 * NUM_POINTS),
        )
        self.register_buffer("mean_shape", torch.zeros(NUM_POINTS, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Map faces [B, 3, S, S] in [-1, 1] to landmarks [B, 49, 2] in sides of the face."""
        return self.mean_shape + 0.1 * self.head(self.features(x)).unflatten(1, (-1, 2))


def to_input(faces: np.ndarray) -> Tensor:
    """Return what the network sees of RGB faces u8 [B, R, R, 3]: f32 [B, 3, S, S] in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float()
    if x.shape[-1] != SIDE:
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
    return x / 127.5 - 1


def relative_error(predicted: Tensor, points: Tensor) -> Tensor:
    """Return the mean absolute error of landmarks [B, 49, 2] over the distance of the eyes."""
    return ((predicted - points).abs().mean((1, 2)) / eye_distance(points)).mean()


def train(
    faces: np.ndarray,
    points: np.ndarray,
    schedule: Schedule,
    *,
    seed: int,
    others: tuple[np.ndarray, np.ndarray] | None = None,
    start: Regressor | None = None,
    device: str = "cpu",
) -> Regressor:
    """Train a regressor on RGB faces u8 [N, R, R, 3] with landmarks f32 [N, 49, 2].

    The training is a function of the seed, on one kind of device. Half of every batch is drawn from
    `others`, further faces with landmarks, if there are any. `start` is a regressor to go on from,
    which is changed.
    """
    sets = [(faces, points)] if others is None else [(faces, points), others]
    each = schedule.batch // len(sets)
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(seed)  # of the weights and the dropout
        network = start or Regressor()
        if start is None:
            network.mean_shape.copy_(torch.from_numpy(points).mean(0))
        network.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        adam = torch.optim.AdamW(network.parameters(), weight_decay=schedule.weight_decay)
        for step in range(schedule.steps):
            rate = schedule.learning_rate * min(1, (step + 1) / schedule.warm_up)
            for group in adam.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * step / schedule.steps)) / 2
            drawn = [_draw(some, known, each, random) for some, known in sets]
            seen, target = (torch.cat(parts) for parts in zip(*drawn, strict=True))
            x, target = augment(seen, target, random)
            x = x.to(device, memory_format=torch.channels_last)
            adam.zero_grad()
            relative_error(network(x), target.to(device)).backward()
            adam.step()
    return network.eval()


def _draw(
    faces: np.ndarray, points: np.ndarray, count: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw some of the faces with their landmarks, as the network sees them."""
    rows = torch.randint(len(faces), (count,), generator=random).numpy()
    return to_input(faces[rows]), torch.from_numpy(points[rows])


def augment(x: Tensor, points: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror, turn, scale, move and tint faces [B, 3, S, S] and landmarks [B, 49, 2] at random."""

    def uniform(bound: float, *shape: int) -> Tensor:
        return bound * (2 * torch.rand(len(x), *shape, generator=random) - 1)

    mirrored = uniform(1) < 0
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    points = torch.where(mirrored[:, None, None], _mirror(points), points)
    angle, scale = uniform(MAX_TURN), 1 + uniform(MAX_SCALE)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], dim=1).unflatten(1, (2, 2))
    shift = uniform(2 * MAX_SHIFT, 2, 1)  # 2: in `affine_grid` a side is 2 long
    # The map leads from a place in the result to its place in the face: points go the other way.
    grid = F.affine_grid(torch.cat([turn, shift], dim=2), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    points = torch.linalg.solve(turn, (2 * points - 1).mT - shift).mT / 2 + 0.5
    return x * (1 + uniform(MAX_GAIN, 1, 1, 1)) + uniform(MAX_TINT, 3, 1, 1), points


def _mirror(points: Tensor) -> Tensor:
    """Return the landmarks [B, 49, 2] of the mirrored faces."""
    return points[:, MIRRORED] * points.new_tensor([-1, 1]) + points.new_tensor([1, 0])
