"""L-Gen, the landmark generator: from a latent to 49 landmarks (section V, Table I, equation 4).

Legend: B batch, N rows, Z latent dimension, P landmarks, in [0, 1] of the face's side.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distfacegan.core.audit import Audit
from distfacegan.core.landmarks import nme
from distfacegan.core.seeding import permutation

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "elu": F.elu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """What may differ between the trials of a search for L-Gen. The defaults are Table I's."""

    depth: int = 3  # hidden layers
    width: int = 128  # nodes of each
    activation: str = "relu"
    learning_rate: float = 3e-4
    learning_rate_decay: str = "constant"  # "cosine": to zero, over the whole training
    weight_decay: float = 0.0  # decoupled from the gradient (AdamW, arXiv:1711.05101)
    batch: int = 16

    @property
    def shape(self) -> tuple[int, int, str, int]:
        """Depth, width, activation and batch: variants that agree in it can be trained together."""
        return self.depth, self.width, self.activation, self.batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial(Variant):
    """One trial of a search, as lgen/trials.json keeps it."""

    nme: float  # on the validation rows
    epochs: int
    seconds: float
    table_one: bool = False  # the variant is Table I's

    @property
    def variant(self) -> Variant:
        """What was tried."""
        names = (field.name for field in dataclasses.fields(Variant))
        return Variant(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """L-Gen's errors, as lgen/evaluation.json keeps them: mean NMEs, and the numbers of rows."""

    nme: float  # on the test rows, which neither training nor the choice has seen
    nme_mean_shape: float  # there, of the training rows' mean shape
    nme_validation: float  # of the chosen variant, on the rows that chose it
    nme_validation_table_one: float | None = None  # of Table I's variant, there
    rows_train: int
    rows_validation: int
    rows_test: int
    fresh: Audit | None = None  # on generated faces; None where there was no detector
    # On the photos' latents, against the photos' landmarks; None where L-Gen learnt from them.
    rows_photos: int | None = None
    nme_photos: float | None = None
    nme_photos_mean_shape: float | None = None

    @property
    def num_rows(self) -> int:
        """All rows: of training, validation and test."""
        return self.rows_train + self.rows_validation + self.rows_test


class LandmarkGenerator(nn.Module):
    """Table I: `depth` fully connected layers of `width` nodes, then one with a sigmoid."""

    def __init__(
        self,
        *,
        latent_dim: int = 64,
        depth: int = 3,
        width: int = 128,
        activation: str = "relu",
        num_points: int = 49,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, found {activation!r}"
            )
        widths = [latent_dim] + [width] * depth
        self.hidden = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(widths)
        )
        self.output = nn.Linear(widths[-1], 2 * num_points)
        self.activation = ACTIVATIONS[activation]

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, Z] to landmarks [B, P, 2]."""
        for layer in self.hidden:
            z = self.activation(layer(z))  # [B, W]
        return torch.sigmoid(self.output(z)).unflatten(1, (-1, 2))


def landmark_loss(output: Tensor, target: Tensor) -> Tensor:
    """loss = 1 / (B * 98) * sum (o_i - t_i)^2 (equation 4), over points [B, P, 2]."""
    return F.mse_loss(output, target)


def mean_shape(points: Tensor) -> Tensor:
    """Return the mean landmarks [P, 2] of [N, P, 2]: the baseline that any network must beat."""
    return points.mean(0)


@torch.no_grad()
def evaluate(network: LandmarkGenerator, z: Tensor, points: Tensor) -> dict[str, float]:
    """Return the loss (equation 4) and the mean NME over rows, of latents [N, Z] with landmarks."""
    device = network.output.weight.device
    predicted = network(z.to(device)).cpu()
    return score(predicted, points)


def score(predicted: Tensor, points: Tensor) -> dict[str, float]:
    """Return the loss (equation 4) and the mean NME of predicted landmarks against true ones.

    Both are [N, P, 2]; one shape [P, 2] is a prediction for every row.
    """
    predicted = predicted.expand_as(points)
    return {
        "loss": landmark_loss(predicted, points).item(),
        "nme": nme(predicted, points).mean().item(),
    }


def split(num_rows: int, held_out_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows 0 .. num_rows - 1 at random into training and held-out ones, both sorted.

    The held-out share is rounded, but neither side is left empty. Raises ValueError below 2 rows.
    """
    if num_rows < 2:
        raise ValueError(f"cannot hold out rows of {num_rows}: at least 2 are needed")
    num_held_out = min(max(round(num_rows * held_out_share), 1), num_rows - 1)
    order = permutation(seed, 0, num_rows)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])
