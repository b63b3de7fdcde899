"""Boundary Equilibrium GAN (section II, equations 1 and 2; Berthelot et al., arXiv:1703.10717).

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distfacegan.core.losses import LOSSES, code_error
from distfacegan.core.networks import Discriminator, Generator
from distfacegan.core.step_graph import StepGraph
from distfacegan.errors import CheckpointError

Scalar = TypeVar("Scalar", float, Tensor)

# Factors of the learning rate, by how much of the training's second half is over.
DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


@dataclasses.dataclass(frozen=True)
class Equilibrium:
    """The proportional controller that keeps D and G in balance (equation 2).

    Works on numbers, and on 0-dim tensors of any device without a device sync.

    >>> k, m_global = Equilibrium(gamma=0.5, lambda_k=0.1).update(0.0, loss_real=0.4, loss_fake=0.1)
    >>> f"{k:.2f} {m_global:.2f}"  # 0 + 0.1 (0.5 * 0.4 - 0.1), and 0.4 + |0.5 * 0.4 - 0.1|
    '0.01 0.50'
    """

    gamma: float = 0.5  # diversity ratio E[L(G(z))] / E[L(x)], in [0, 1]
    lambda_k: float = 1e-3  # learning rate of k_t

    def update(self, k: Scalar, loss_real: Scalar, loss_fake: Scalar) -> tuple[Scalar, Scalar]:
        """Return k_{t+1}, clipped to [0, 1], and the convergence measure M_global."""
        balance = self.gamma * loss_real - loss_fake
        return _clip(k + self.lambda_k * balance), loss_real + abs(balance)


class BeganTrainer:
    """G, D, their Adams and k: one `step` is one update of all of them.

    Under torch.distributed every rank gives its own part of the batch. Gradients, losses and k are
    those of the whole batch, so all ranks stay equal.
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
        skip_connections: bool = False,
        latent_constraint: float = 0.0,
        ema: float = 0.0,
        precision: str = "fp32",
        device: str | torch.device = "cpu",
        compiled: bool = False,
    ) -> None:
        """Build both networks from the seed.

        `steps` is the length of the whole training. `learning_rate_decay` "linear" or "cosine" lets
        the learning rate fall to zero over its second half. `loss` names one of LOSSES.
        `latent_constraint` is BEGAN-CS's alpha, the weight of `code_error` in L_D. `ema` is the
        decay of a moving average of G's weights, 0 for none. `precision` is "fp32", or "bf16" for
        automatic mixed precision. `compiled` networks pass through torch.compile at the first
        step, which takes a minute.
        """
        _check_choice("loss", loss, LOSSES)
        _check_choice("learning_rate_decay", learning_rate_decay, DECAYS)
        _check_choice("precision", precision, ("fp32", "bf16"))
        self.loss, self.steps = LOSSES[loss], steps
        self.learning_rate, self.decay = learning_rate, DECAYS[learning_rate_decay]
        self.learning_rate_scale = 1.0  # lowered from outside: on a plateau, after a collapse
        self.latent_constraint, self.ema = latent_constraint, ema
        self.equilibrium = Equilibrium(gamma=gamma, lambda_k=lambda_k)
        self.device = torch.device(device)
        rounds = precision == "bf16"
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=rounds)

        shape: dict[str, Any] = {"resolution": resolution, "latent_dim": latent_dim}
        shape |= {"width": width, "levels": levels, "skip_connections": skip_connections}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator, self.discriminator = Generator(**shape), Discriminator(**shape)
        self.networks = nn.ModuleDict(
            {"generator": self.generator, "discriminator": self.discriminator}
        )
        self.networks.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False) if ema else None
        # One Adam serves both networks: it updates every number by that number's gradient alone.
        self.rate = torch.tensor(learning_rate, device=self.device)
        self.adam = _adam(self.networks, self.rate, betas)
        self.num_steps = 0
        self.k, self.loss_real, self.loss_fake, self.m_global = torch.zeros(4, device=self.device)
        self._m_global_sum, self._since = torch.zeros((), device=self.device), 0
        self._share_one_buffer()
        make: Callable[[Any], Any] = torch.compile if compiled else lambda function: function
        self._loss_of_fake, self._loss_of_real = make(self._generated), make(self._reconstructed)
        self._backward: Callable[[Tensor, Tensor], None] = self._differentiate
        if self.device.type != "cpu":
            self._backward = StepGraph(self._differentiate)

    def step(self, faces: Tensor, z: Tensor, share: float = 1.0) -> None:
        """Train on faces [B, 3, R, R] and latents [B, Z], and update k. No device sync.

        z is both z_D and z_G, as in the code of BEGAN's authors. So one pass forward and back over
        the generated faces gives the gradient of L_G and of the generated faces' part of L_D.
        `share` is this rank's share of the whole batch.
        """
        faces = faces.to(self.device, memory_format=torch.channels_last)
        z = z.to(self.device)
        self._backward(faces, z)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._sums.mul_(share))

        self.rate.fill_(self._learning_rate())
        self.adam.step()
        if self.averaged is not None:
            both = self.averaged, self.generator
            averages, weights = ([p.data for p in g.parameters()] for g in both)
            # The decay starts low: otherwise the average would long resemble the initial weights.
            decay = min(self.ema, (1 + self.num_steps) / (10 + self.num_steps))
            torch._foreach_lerp_(averages, weights, 1.0 - decay)
        self.loss_real, self.loss_fake = self._losses.clone()
        k, self.m_global = self.equilibrium.update(self.k, self.loss_real, self.loss_fake)
        self.k.copy_(k)  # in place, because the CUDA graph reads k at this address
        self._m_global_sum += self.m_global
        self.num_steps += 1

    def _differentiate(self, faces: Tensor, z: Tensor) -> None:
        """Put the losses of this rank's batch, and the gradients of L_G and L_D, into `_sums`."""
        self._sums.zero_()
        with self._autocast:
            generated, loss_fake = self._loss_of_fake(z, faces.dtype)
            loss_real = self._loss_of_real(faces)
        loss_fake.backward()  # G's gradient of L_G; D's gradient of L(G(z))
        # D's gradient of L_D = L(x) - k_t L(G(z_D)) (equation 2): backward adds that of L(x).
        self._gradient_d.mul_(-self.k)
        loss_real.backward()
        if self.latent_constraint:
            with self._autocast:
                code = self.discriminator.encoder(generated.detach())
            (self.latent_constraint * code_error(code.to(z.dtype), z)).backward()
        self._losses.copy_(torch.stack([loss_real, loss_fake]).detach())

    def _generated(self, z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return G(z), and L(G(z))."""
        generated = self.generator(z).to(dtype)
        return generated, self._reconstructed(generated)

    def _reconstructed(self, v: Tensor) -> Tensor:
        """Return L(v)."""
        return self.loss(v, self.discriminator(v))

    def _share_one_buffer(self) -> None:
        """Make the losses and all gradients views of one tensor, which ranks then sum."""
        parameters = list(self.networks.parameters())
        num_losses, num_d = 2, sum(p.numel() for p in self.discriminator.parameters())
        total = num_losses + sum(p.numel() for p in parameters)
        self._sums = torch.zeros(total, device=self.device, dtype=parameters[0].dtype)
        self._losses, self._gradient_d = self._sums[:num_losses], self._sums[total - num_d :]
        start = num_losses
        for parameter in parameters:
            parameter.grad = self._sums.as_strided(parameter.shape, parameter.stride(), start)
            start += parameter.numel()

    def metrics(self) -> dict[str, float]:
        """Return loss_real, loss_fake, m_global, k and learning_rate of the last step.

        m_global_mean is the mean over the steps since the last call. A device sync.
        """
        names = ("loss_real", "loss_fake", "m_global", "k", "m_global_mean")
        mean = self._m_global_sum / max(1, self.num_steps - self._since)
        last = (self.loss_real, self.loss_fake, self.m_global, self.k)
        numbers = dict(zip(names, torch.stack([*last, mean]).tolist(), strict=True))
        self._begin_mean()
        return {**numbers, "learning_rate": self._learning_rate(self.num_steps - 1)}

    def _begin_mean(self) -> None:
        self._m_global_sum.zero_()
        self._since = self.num_steps

    @property
    def state_groups(self) -> list[str]:
        """The names of the groups of `state`."""
        return list(self._tensors())

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return a copy, on the CPU, of all that a resumed training needs.

        "generator" and "discriminator" are their weights, "averaged" those of the moving average,
        if there is one; "optimizers" holds step, k, learning_rate_scale and Adam's moments, named
        "<moment>.<network>.<weight>".
        """
        return {
            group: {name: _portable(tensor) for name, tensor in tensors.items()}
            for group, tensors in self._tensors().items()
        }

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue, bit for bit, from what `state` returned.

        Raises CheckpointError with the name of a tensor that does not fit, and changes nothing.
        """
        tensors = self._tensors()
        for group, of_group in tensors.items():
            _check_same_tensors(group, of_group, state.get(group, {}))
        for group, of_group in tensors.items():
            for name, tensor in of_group.items():
                tensor.copy_(state[group][name])
        self.num_steps = int(tensors["optimizers"]["step"])
        self.learning_rate_scale = float(tensors["optimizers"]["learning_rate_scale"])
        for of_parameter in self.adam.state.values():
            of_parameter["step"].fill_(self.num_steps)
        self._begin_mean()

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of the checkpoint: not copies, except of plain numbers."""
        optimizers = {
            "step": torch.tensor(self.num_steps),
            "learning_rate_scale": torch.tensor(self.learning_rate_scale, dtype=torch.float64),
            "k": self.k,
        }
        for name, parameter in self.networks.named_parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                optimizers[f"{moment}.{name}"] = self.adam.state[parameter][moment]
        averaged = {} if self.averaged is None else {"averaged": self.averaged.state_dict()}
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizers": optimizers,
            **averaged,
        }

    def _learning_rate(self, step: int | None = None) -> float:
        """Return the learning rate of a step; default: of the next one."""
        step = self.num_steps if step is None else step
        done = min(max(step / (self.steps / 2) - 1.0, 0.0), 1.0)
        return self.learning_rate * self.learning_rate_scale * self.decay(done)


def _adam(networks: nn.Module, rate: Tensor, betas: tuple[float, float]) -> torch.optim.Adam:
    """Return an Adam whose moments, which it otherwise makes at its first step, are there now."""
    adam = torch.optim.Adam(networks.parameters(), lr=rate, betas=betas, fused=True)
    for parameter in networks.parameters():
        adam.state[parameter] = {
            "step": torch.zeros((), device=rate.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return adam


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
    here, there = ({n: list(t.shape) for n, t in side.items()} for side in (expected, found))
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise CheckpointError(
                f"the checkpoint does not fit: {group}/{name} is {there.get(name, 'absent')}, "
                f"expected {here.get(name, 'absent')}"
            )
