"""L-Gen, the landmark generator: from a latent to 49 landmarks (section V, Table I, equation 4).

Legend: B batch, N rows, Z latent dimension, P landmarks, in [0, 1] of the face's side.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

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
DECAYS: dict[str, Callable[[float], float]] = {  # of the share of the training that is over
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
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


def train(
    z: Tensor,
    points: Tensor,
    variant: Variant,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    epochs: int = 1000,
    seed: int,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[int, LandmarkGenerator], None] | None = None,
) -> LandmarkGenerator:
    """Train an L-Gen on latents f32 [N, Z] and landmarks f32 [N, P, 2].

    Weights and the order of the rows are functions of the seed. `on_epoch(epoch, network)` is
    called after each epoch, from 1; what it raises ends the training.
    """

    def of_one(epoch: int, networks: list[LandmarkGenerator]) -> None:
        if on_epoch is not None:
            on_epoch(epoch, networks[0])

    [network] = train_together(
        z,
        points,
        [variant],
        betas=betas,
        epochs=epochs,
        seeds=[seed],
        device=device,
        on_epoch=of_one,
    )
    return network


def train_together(
    z: Tensor,
    points: Tensor,
    variants: Sequence[Variant],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    epochs: int = 1000,
    seeds: Sequence[int],
    device: str | torch.device = "cpu",
    on_epoch: Callable[[int, list[LandmarkGenerator]], None] | None = None,
) -> list[LandmarkGenerator]:
    """Train K L-Gens of one shape and batch size at once, each as `train` would alone.

    The networks are small: one batched product for all of them takes little longer than one alone.
    Raises ValueError for variants of different shapes or batch sizes.
    """
    shapes = {variant.shape for variant in variants}
    if len(shapes) != 1:
        raise ValueError(f"only variants of one shape are trained together, found {shapes}")
    [(depth, width, activation, size)] = shapes
    networks = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = LandmarkGenerator(
                latent_dim=z.shape[1],
                depth=depth,
                width=width,
                activation=activation,
                num_points=points.shape[1],
            )
        networks.append(network.to(device))
    weights = list(zip(*(network.parameters() for network in networks), strict=True))
    stacked = [_stack(own) for own in weights]
    z, points = z.to(device), points.flatten(1).to(device)  # all rows stay there: 0.7 KB each
    # AdamW without weight decay is Adam, the paper's.
    groups = [
        {"params": list(network.parameters()), "weight_decay": variant.weight_decay}
        for network, variant in zip(networks, variants, strict=True)
    ]
    adam = torch.optim.AdamW(groups, betas=betas, fused=True)
    for epoch in range(epochs):
        for group, variant in zip(adam.param_groups, variants, strict=True):
            decay = DECAYS[variant.learning_rate_decay](epoch / epochs)
            group["lr"] = variant.learning_rate * decay
        order = np.stack([permutation(seed, epoch, len(z)) for seed in seeds])
        rows = torch.from_numpy(order).to(device)  # [K, N]
        batches = zip(z[rows].split(size, dim=1), points[rows].split(size, dim=1), strict=True)
        for z_batch, points_batch in batches:
            output = _forward(stacked, ACTIVATIONS[activation], z_batch)
            # Equation 4 of each, summed: no network's loss depends on another's weights.
            loss = len(variants) * F.mse_loss(output, points_batch)
            for own, gradient in zip(weights, torch.autograd.grad(loss, stacked), strict=True):
                # The fused optimizer (PyTorch 2.13) reads a transposed gradient as if it were not.
                for weight, its_gradient in zip(own, gradient.contiguous(), strict=True):
                    weight.grad = its_gradient
            adam.step()
        if on_epoch is not None:
            on_epoch(epoch + 1, networks)
    for weight in itertools.chain.from_iterable(weights):
        weight.data = weight.data.clone()  # of its own again
    return networks


def _stack(weights: Sequence[nn.Parameter]) -> Tensor:
    """Return a weight of K networks as one tensor [K, ...], of which each becomes a view.

    So the optimizer of the networks updates what is returned.
    """
    stacked = torch.stack([weight.detach() for weight in weights])
    for weight, own in zip(weights, stacked, strict=True):
        weight.data = own
    return stacked.requires_grad_()


def _forward(
    stacked: Sequence[Tensor], activation: Callable[[Tensor], Tensor], z: Tensor
) -> Tensor:
    """Map latents [K, B, Z] to landmarks [K, B, 2 P] by K networks."""
    *hidden, (weight, bias) = zip(stacked[::2], stacked[1::2], strict=True)
    for each, its_bias in hidden:
        z = activation(torch.baddbmm(its_bias[:, None], z, each.mT))
    return torch.sigmoid(torch.baddbmm(bias[:, None], z, weight.mT))


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
