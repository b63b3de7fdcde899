"""The training of L-Gens (equation 4): networks of one shape are trained at once.

Legend: K networks, N rows, B batch, Z latent dimension, W width, P landmarks.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from distfacegan.core.lgen import ACTIVATIONS, LandmarkGenerator, Variant
from distfacegan.core.seeding import permutation
from distfacegan.core.step_graph import StepGraph

DECAYS: dict[str, Callable[[float], float]] = {  # of the share of the training that is over
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
# The gradient for the input of an activation, from that for its output, its input and its output.
GRADIENTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "relu": lambda g, x, y: torch.ops.aten.threshold_backward(g, x, 0),
    "elu": lambda g, x, y: torch.ops.aten.elu_backward(g, 1, 1, 1, False, x),
    "silu": lambda g, x, y: torch.ops.aten.silu_backward(g, x),
    "tanh": lambda g, x, y: torch.ops.aten.tanh_backward(g, y),
}


def train(
    z: Tensor,
    points: Tensor,
    variant: Variant,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    epochs: int = 1000,
    seed: int,
    device: str | torch.device = "cpu",
) -> LandmarkGenerator:
    """Train an L-Gen on latents f32 [N, Z] and landmarks f32 [N, P, 2].

    Weights and the order of the rows are functions of the seed.
    """
    [network] = train_together(
        z, points, [variant], betas=betas, epochs=epochs, seeds=[seed], device=device
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
    `on_epoch(epoch, networks)` is called after each epoch, from 1. What it raises ends the
    training.
    Raises ValueError for variants of different shapes or batch sizes.
    """
    shapes = {variant.shape for variant in variants}
    if len(shapes) != 1:
        raise ValueError(f"only variants of one shape are trained together, found {shapes}")
    [(_, _, activation, size)] = shapes
    device = torch.device(device)
    networks = [
        _new(variant, seed, z.shape[1], points.shape[1]).to(device)
        for variant, seed in zip(variants, seeds, strict=True)
    ]
    stacked = _Stacked(networks, activation)
    z, points = z.to(device), points.flatten(1).to(device)  # all rows stay there: 0.7 KB each
    # AdamW without weight decay is Adam, the paper's.
    groups = [
        {
            "params": [weights],
            "lr": torch.tensor(variant.learning_rate, device=device),
            "weight_decay": variant.weight_decay,
        }
        for weights, variant in zip(stacked.parameters, variants, strict=True)
    ]
    adam = torch.optim.AdamW(groups, betas=betas, fused=True, capturable=device.type == "cuda")

    def step(z_batch: Tensor, points_batch: Tensor) -> None:
        stacked.differentiate(z_batch, points_batch)
        adam.step()

    fast_step = StepGraph(step) if device.type == "cuda" else step
    for epoch in range(epochs):
        for group, variant in zip(adam.param_groups, variants, strict=True):
            decay = DECAYS[variant.learning_rate_decay](epoch / epochs)
            group["lr"].fill_(variant.learning_rate * decay)
        order = np.stack([permutation(seed, epoch, len(z)) for seed in seeds])
        rows = torch.from_numpy(order).to(device)  # [K, N]
        batches = zip(z[rows].split(size, dim=1), points[rows].split(size, dim=1), strict=True)
        for z_batch, points_batch in batches:
            full = z_batch.shape[1] == size  # the last batch of an epoch can be smaller
            (fast_step if full else step)(z_batch, points_batch)
        if on_epoch is not None:
            on_epoch(epoch + 1, networks)
    for weight in (weight for network in networks for weight in network.parameters()):
        weight.data = weight.data.clone()  # of its own again
    return networks


def _new(variant: Variant, seed: int, latent_dim: int, num_points: int) -> LandmarkGenerator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LandmarkGenerator(
            latent_dim=latent_dim,
            depth=variant.depth,
            width=variant.width,
            activation=variant.activation,
            num_points=num_points,
        )


class _Stacked:
    """The weights of K networks of one shape in one tensor [K, weights], and their gradients.

    The parameters of the networks become views of this tensor. Autograd would spend more time on
    its own bookkeeping than on such small products, so the gradients are written out.
    """

    def __init__(self, networks: Sequence[LandmarkGenerator], activation: str) -> None:
        self._act, self._act_gradient = ACTIVATIONS[activation], GRADIENTS[activation]
        own = [list(network.parameters()) for network in networks]
        flatten = nn.utils.parameters_to_vector
        weights = torch.stack([flatten(each) for each in own]).detach()
        gradients = torch.zeros_like(weights)
        self.parameters = [nn.Parameter(each) for each in weights]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        split = functools.partial(_split, shapes=[weight.shape for weight in own[0]])
        self._layers, self._gradients = split(weights), split(gradients)
        for k, each in enumerate(own):
            stacked = (tensor[k] for layer in self._layers for tensor in layer)
            for parameter, weight in zip(each, stacked, strict=True):
                parameter.data = weight

    @torch.no_grad()
    def differentiate(self, z: Tensor, target: Tensor) -> None:
        """Write the gradients of equation 4, of each network's own, over latents [K, B, Z].

        The targets are [K, B, 2 P].
        """
        inputs, before = [z], []  # of each layer: its input, and its output before the activation
        for weight, bias in self._layers:
            before.append(torch.baddbmm(bias[:, None], inputs[-1], weight.mT))
            last = len(before) == len(self._layers)
            inputs.append(torch.sigmoid(before[-1]) if last else self._act(before[-1]))
        output = inputs[-1]
        g = (output - target) * (2 / output[0].numel())  # of the mean square
        g = torch.ops.aten.sigmoid_backward(g, output)
        for i in reversed(range(len(self._layers))):
            for_weight, for_bias = self._gradients[i]
            torch.bmm(g.mT, inputs[i], out=for_weight)
            torch.sum(g, dim=1, out=for_bias)
            if i > 0:
                g = torch.bmm(g, self._layers[i][0])
                g = self._act_gradient(g, before[i - 1], inputs[i])


def _split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[tuple[Tensor, Tensor]]:
    """Return views of [K, weights]: of each layer, weight [K, out, in] and bias [K, out]."""
    parts = flat.split([shape.numel() for shape in shapes], dim=1)
    views = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
    return list(zip(views[::2], views[1::2], strict=True))
