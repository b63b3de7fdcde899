"""Boundary Equilibrium GAN (section II, equations 1 and 2; Berthelot et al., arXiv:1703.10717).

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from distfacegan.core.networks import Discriminator, Generator
from distfacegan.core.seeding import permutation, uniform_latents
from distfacegan.errors import CheckpointError

Scalar = TypeVar("Scalar", float, Tensor)

PIXEL_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"l2": torch.square, "l1": torch.abs}
DECAYS: dict[str, Callable[[float], float]] = {  # of the share of the second half that is over
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


def reconstruction_loss(v: Tensor, reconstruction: Tensor, loss: str = "l2") -> Tensor:
    """L(v) = |v - D(v)|^2 (equation 1), the mean over images, channels and pixels.

    The paper squares ("l2"); BEGAN itself takes the absolute value ("l1").
    """
    return PIXEL_LOSSES[loss](v - reconstruction).mean()


def discriminator_loss(loss_real: Scalar, loss_fake: Scalar, k: Scalar) -> Scalar:
    """L_D = L(x) - k_t L(G(z_D)) (equation 2)."""
    return loss_real - k * loss_fake


@dataclasses.dataclass(frozen=True)
class Equilibrium:
    """The proportional controller that keeps D and G in balance (equation 2).

    Works on numbers and on 0-dim tensors of any device; on tensors without a device sync.
    """

    gamma: float = 0.5  # diversity ratio E[L(G(z))] / E[L(x)], in [0, 1]
    lambda_k: float = 1e-3  # learning rate of k_t

    def update(self, k: Scalar, loss_real: Scalar, loss_fake: Scalar) -> tuple[Scalar, Scalar]:
        """Return k_{t+1}, clipped to [0, 1], and the convergence measure M_global."""
        balance = self.gamma * loss_real - loss_fake
        return _clip(k + self.lambda_k * balance), loss_real + abs(balance)


class BeganTrainer:
    """G, D, their Adams and k: one `step` is one update of all of them.

    Under torch.distributed every rank gives its own part of the batch; gradients and losses are
    averaged over ranks, so that all ranks stay equal, k included.
    """

    def __init__(
        self,
        *,
        resolution: int,
        latent_dim: int,
        width: int,
        levels: int,
        steps: int,
        seed: int,
        learning_rate: float = 1e-4,
        learning_rate_decay: str = "constant",
        betas: tuple[float, float] = (0.5, 0.999),
        gamma: float = 0.5,
        lambda_k: float = 1e-3,
        loss: str = "l2",
        precision: str = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        """Build both networks from the seed.

        `steps` is the length of the whole training: over its second half the learning rate falls
        to zero when `learning_rate_decay` is "linear" or "cosine". `precision` is "fp32", or
        "bf16" for automatic mixed precision.
        """
        _check_choice("loss", loss, PIXEL_LOSSES)
        _check_choice("learning_rate_decay", learning_rate_decay, DECAYS)
        _check_choice("precision", precision, ("fp32", "bf16"))
        self.loss, self.precision, self.steps = loss, precision, steps
        self.learning_rate, self.decay = learning_rate, DECAYS[learning_rate_decay]
        self.equilibrium = Equilibrium(gamma=gamma, lambda_k=lambda_k)
        self.device = torch.device(device)

        shape = {"resolution": resolution, "latent_dim": latent_dim}
        shape |= {"width": width, "levels": levels}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator, self.discriminator = Generator(**shape), Discriminator(**shape)
        self.networks = nn.ModuleDict(
            {"generator": self.generator, "discriminator": self.discriminator}
        )
        self.networks.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # One Adam for both: its update of a number depends on that number's gradient alone.
        self.adam = torch.optim.Adam(
            self.networks.parameters(), lr=learning_rate, betas=betas, fused=True
        )
        for parameter in self.networks.parameters():  # what Adam would only make at its first step
            self.adam.state[parameter] = {
                "step": torch.zeros((), device=self.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        self.num_steps = 0
        self.k, self.loss_real, self.loss_fake, self.m_global = torch.zeros(4, device=self.device)

    def step(self, faces: Tensor, z: Tensor) -> None:
        """Train on faces [B, 3, R, R] and latents [B, Z], and update k. No device sync.

        z serves as z_D and as z_G, as in the code of BEGAN's authors: one pass forward and back
        over the generated faces then gives L_G's gradient and the fake half of L_D's.
        """
        faces = faces.to(self.device, memory_format=torch.channels_last)
        self.adam.param_groups[0]["lr"] = self._learning_rate()
        self.adam.zero_grad()

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            generated = self.generator(z.to(self.device)).to(faces.dtype)
            loss_fake = reconstruction_loss(generated, self.discriminator(generated), self.loss)
            loss_real = reconstruction_loss(faces, self.discriminator(faces), self.loss)

        loss_fake.backward()  # L_G for theta_G, and L(G(z)) for theta_D
        theta_d = list(self.discriminator.parameters())
        gradients_fake = [parameter.grad for parameter in theta_d]
        self.discriminator.zero_grad()
        loss_real.backward()
        # L_D is linear in its two losses, so equation 2 holds for their gradients as well.
        for parameter, gradient_fake in zip(theta_d, gradients_fake, strict=True):
            parameter.grad = discriminator_loss(parameter.grad, gradient_fake, self.k)

        losses = torch.stack([loss_real.detach(), loss_fake.detach()])
        gradients = [p.grad for p in self.networks.parameters() if p.grad is not None]
        _average_over_ranks([losses, *gradients])
        self.adam.step()
        self.loss_real, self.loss_fake = losses
        self.k, self.m_global = self.equilibrium.update(self.k, self.loss_real, self.loss_fake)
        self.num_steps += 1

    def metrics(self) -> dict[str, float]:
        """Return step, loss_real, loss_fake, m_global, k and learning_rate of the last step.

        A device sync.
        """
        names = ("loss_real", "loss_fake", "m_global", "k")
        values = torch.stack([getattr(self, name) for name in names]).tolist()
        return {
            "step": self.num_steps,
            **dict(zip(names, values, strict=True)),
            "learning_rate": self.adam.param_groups[0]["lr"],
        }

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return a copy, on the CPU, of all that a resumed training needs.

        "generator" and "discriminator" are their weights; "optimizers" holds step, k and Adam's
        moments, named "<moment>.<network>.<weight>".
        """
        return {
            group: {name: _portable(tensor) for name, tensor in tensors.items()}
            for group, tensors in self._tensors().items()
        }

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue, bit for bit, from what `state` returned.

        Raises CheckpointError naming the tensor that does not fit; then nothing was changed.
        """
        tensors = self._tensors()
        for group, of_group in tensors.items():
            _check_same_tensors(group, of_group, state.get(group, {}))
        for group, of_group in tensors.items():
            for name, tensor in of_group.items():
                tensor.copy_(state[group][name])
        self.num_steps = int(tensors["optimizers"]["step"])
        for of_parameter in self.adam.state.values():
            of_parameter["step"].fill_(self.num_steps)

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of the checkpoint themselves, not copies (but for the step)."""
        optimizers = {"step": torch.tensor(self.num_steps), "k": self.k}
        for name, parameter in self.networks.named_parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                optimizers[f"{moment}.{name}"] = self.adam.state[parameter][moment]
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizers": optimizers,
        }

    def _learning_rate(self) -> float:
        half = self.steps / 2
        return self.learning_rate * self.decay(min(max(self.num_steps / half - 1.0, 0.0), 1.0))


def rows_of_step(seed: int, step: int, batch: int, num_rows: int) -> np.ndarray:
    """Return the rows of a step's batch, whatever the number of ranks: i64 [batch].

    The steps walk through one endless row of epochs, each a permutation of all rows.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // num_rows
    rows = [
        permutation(seed, int(epoch), num_rows)[positions[epochs == epoch] % num_rows]
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(rows)


def latents_of_step(seed: int, step: int, count: int, dim: int) -> np.ndarray:
    """Return the latents of a step's batch, whatever the number of ranks: f32 [count, dim]."""
    return uniform_latents(seed, range(step * count, (step + 1) * count), dim, stream="began")


def _average_over_ranks(tensors: list[Tensor]) -> None:
    """Replace tensors by their means over ranks, in one all-reduce."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    means = (flat / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def _clip(k: Scalar) -> Scalar:
    return k.clamp(0.0, 1.0) if isinstance(k, Tensor) else min(max(k, 0.0), 1.0)


def _portable(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU in the row-major order that safetensors asks for."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def _check_choice(name: str, found: str, choices: Collection[str]) -> None:
    if found not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {found!r}")


def _check_same_tensors(
    group: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> None:
    """Raise CheckpointError unless both hold the same names with the same shapes."""
    for name in sorted(expected.keys() | found.keys()):
        shapes = [
            str(list(side[name].shape)) if name in side else "absent" for side in (found, expected)
        ]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"the checkpoint does not fit: {group}/{name} is {shapes[0]}, expected {shapes[1]}"
            )
