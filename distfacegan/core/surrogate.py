"""A small network that knows G's pooled picture, and can be asked hundreds of times for one G.

Trained on G's own pictures, so it needs no face; made once for a generator.

Legend: B batch, Z latent dimension, P numbers of a picture, W width.
"""

import collections
import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distfacegan.core import quasi_newton
from distfacegan.core.frozen import FrozenGenerator
from distfacegan.core.picture import Linearisation, gauss_newton, pool
from distfacegan.core.seeding import permutation, uniform_latents

AMPLITUDES = (0.6, 2.0)  # of the latents learnt from: photos need some beyond the prior's box
LINEAR_SHARE = 0.7  # of G's derivative at 0, at which the linear part starts
SEARCH_STEPS, SEARCH_INTERIOR_STEPS = 30, 3  # on the surrogate, to find a start
BATCH = 256
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-3


class Surrogate(nn.Module):
    """S(z), G's picture: two hidden layers of W nodes (SiLU), and a linear part beside them."""

    known_radius = AMPLITUDES[1]  # of the box in which it says where to start

    def __init__(self, *, latent_dim: int, picture: int, width: int = 512) -> None:
        super().__init__()
        self.first = nn.Linear(latent_dim, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, picture)
        self.linear = nn.Linear(latent_dim, picture, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, Z] to pictures [B, P]."""
        x = F.silu(self.second(F.silu(self.first(z))))
        return self.third(x) + self.linear(z)

    @torch.no_grad()
    def jacobian_at(self, z: Tensor, picture: Tensor | None = None) -> Tensor:
        """Return dS/dz [B, Z, P] at z [B, Z]; what G's picture there is makes no difference."""
        first = self.first(z)
        second = self.second(F.silu(first))
        x = _silu_derivative(first)[:, :, None] * self.first.weight  # [B, W, Z]
        x = _silu_derivative(second)[:, :, None] * (self.second.weight @ x)
        return (self.third.weight @ x + self.linear.weight).mT

    def solve(self, target: Tensor, radius: float) -> Tensor:
        """Return the z [B, Z] in a box whose pictures come closest to `target` [B, P]."""
        z = target.new_zeros(len(target), self.first.in_features)

        def evaluate(z: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                loss = (target - self(z)).abs().mean(1)
                (gradient,) = torch.autograd.grad(loss.sum(), z)
            return loss.detach(), gradient

        with torch.no_grad():
            residual = target - self(z)
        hessian = gauss_newton(self.jacobian_at(z), residual)
        state = quasi_newton.begin(z, *evaluate(z), hessian)
        for step in range(2, SEARCH_STEPS + 1):
            state = quasi_newton.advance(
                state, evaluate, step=step, radius=radius, interior_steps=SEARCH_INTERIOR_STEPS
            )
        return state.z

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "Surrogate":
        """Build the surrogate whose weights these are, with its sizes."""
        (picture, latent_dim), width = state["linear.weight"].shape, len(state["first.bias"])
        surrogate = cls(latent_dim=latent_dim, picture=picture, width=width)
        surrogate.load_state_dict(dict(state))
        return surrogate


def draw_pictures(
    generator: FrozenGenerator, seed: int, count: int, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Return latents [count, Z], beyond the box too, and G's pictures of them [count, P]."""
    drawn = uniform_latents(seed, range(count), generator.latent_dim + 1, stream="surrogate")
    low, high = AMPLITUDES
    amplitude = low + (high - low) * (drawn[:, -1:] + 1) / 2
    z = torch.from_numpy(amplitude * drawn[:, :-1]).to(generator.device)
    with torch.inference_mode():
        pictures = torch.cat([pool(generator(part)).float() for part in z.split(batch)])
    return z, pictures.clone()


class SurrogateTraining:
    """The fit of a surrogate to G's pictures; it can be interrupted between steps."""

    def __init__(
        self,
        generator: FrozenGenerator,
        z: Tensor,
        pictures: Tensor,
        *,
        seed: int,
        steps: int,
        width: int = 512,
    ) -> None:
        """Prepare `steps` steps on what `draw_pictures` returned."""
        self.z, self.pictures = z, pictures
        self.seed, self.steps, self.num_steps = seed, steps, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.surrogate = Surrogate(
                latent_dim=generator.latent_dim, picture=self.pictures.shape[1], width=width
            ).to(generator.device)
        known = Linearisation(generator)
        with torch.no_grad():
            self.surrogate.linear.weight.copy_(LINEAR_SHARE * known.jacobian.T)
            self.surrogate.third.bias.copy_(known.picture[0])
            self.surrogate.third.weight.mul_(0.1)
        self.adam = torch.optim.AdamW(
            self.surrogate.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )

    def step(self) -> None:
        """Do one step on a batch of pictures. No device sync."""
        done = self.num_steps / self.steps
        self.adam.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * done))
        rows = torch.from_numpy(self._rows()).to(self.z.device)
        loss = F.mse_loss(self.surrogate(self.z[rows]), self.pictures[rows])
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.num_steps += 1

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors that a resumed training needs: of "surrogate" and of "optimizer"."""
        moments = self.adam.state_dict()["state"]
        return {
            "surrogate": self.surrogate.state_dict(),
            "optimizer": {f"{i}.{name}": moments[i][name] for i in moments for name in moments[i]},
        }

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue, bit for bit, from what `state` returned after one step or more."""
        moments: dict[int, dict[str, Tensor]] = collections.defaultdict(dict)
        for key, tensor in state["optimizer"].items():
            i, name = key.split(".")
            moments[int(i)][name] = tensor
        groups = self.adam.state_dict()["param_groups"]
        self.adam.load_state_dict({"state": dict(moments), "param_groups": groups})
        self.surrogate.load_state_dict(dict(state["surrogate"]))
        self.num_steps = int(moments[0]["step"])

    def _rows(self) -> np.ndarray:
        per_epoch = max(1, len(self.z) // BATCH)
        epoch, batch = divmod(self.num_steps, per_epoch)
        order = permutation(self.seed, epoch, len(self.z))
        return order[batch * BATCH : (batch + 1) * BATCH].copy()


@torch.no_grad()
def unexplained(surrogate: Surrogate, z: Tensor, pictures: Tensor) -> float:
    """Return the share of the pictures' variance that a surrogate misses, in [0, 1] if it is good.

    On latents that it has not learnt from. A device sync.
    """
    error = (surrogate(z) - pictures).square().mean()
    return (error / pictures.var(0).mean()).item()


def _silu_derivative(x: Tensor) -> Tensor:
    """Return d silu(x) / dx."""
    share = torch.sigmoid(x)
    return share * (1 + x * (1 - share))
