"""A small network S(z) that imitates G's thumbnails, so that a search can ask it hundreds of times.

It is trained once for a generator, on thumbnails of G's own images: no face is needed.

Legend: B batch, Z latent dimension, P numbers of a thumbnail, W width.
"""

import collections
import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distfacegan.core import quasi_newton
from distfacegan.core.latent_model import LatentModel
from distfacegan.core.priors import Box
from distfacegan.core.seeding import permutation
from distfacegan.core.thumbnail import Linearisation, gauss_newton, thumbnails

LINEAR_SHARE = 0.7  # of G's derivative at 0: the initial weights of the linear part
SEARCH_STEPS, SEARCH_INTERIOR_STEPS = 30, 3  # of the search for a first guess
BATCH = 256
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-3


class Surrogate(nn.Module):
    """S(z), about G's thumbnail: two hidden layers of W nodes (SiLU), plus a linear map of z."""

    def __init__(self, *, latent_dim: int, thumbnail: int, width: int = 512) -> None:
        """Draw the weights; `thumbnail` is P."""
        super().__init__()
        self.first = nn.Linear(latent_dim, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, thumbnail)
        self.linear = nn.Linear(latent_dim, thumbnail, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, Z] to thumbnails [B, P]."""
        x = F.silu(self.second(F.silu(self.first(z))))
        return self.third(x) + self.linear(z)

    @torch.no_grad()
    def jacobian_at(self, z: Tensor) -> Tensor:
        """Return dS/dz [B, Z, P] at z [B, Z]."""
        first = self.first(z)
        second = self.second(F.silu(first))
        x = _silu_derivative(first)[:, :, None] * self.first.weight  # [B, W, Z]
        x = _silu_derivative(second)[:, :, None] * (self.second.weight @ x)
        return (self.third.weight @ x + self.linear.weight).mT

    def solve(self, target: Tensor, half_width: float) -> Tensor:
        """Return z [B, Z] in a box round 0 whose thumbnails come closest to target [B, P]."""
        z, bound = target.new_zeros(len(target), self.first.in_features), Box(half_width)

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
                state, evaluate, step=step, bound=bound, interior_steps=SEARCH_INTERIOR_STEPS
            )
        return state.z

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "Surrogate":
        """Build the surrogate whose weights these are, with its sizes."""
        (thumbnail, latent_dim), width = state["linear.weight"].shape, len(state["first.bias"])
        surrogate = cls(latent_dim=latent_dim, thumbnail=thumbnail, width=width)
        surrogate.load_state_dict(dict(state))
        return surrogate


def draw_thumbnails(
    model: LatentModel, seed: int, count: int, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Draw latents [count, Z] from the prior and its surroundings; return them and G's thumbnails.

    The thumbnails are f32 [count, P].
    """
    drawn = model.prior.draw_wide(seed, count, model.latent_dim, stream="surrogate")
    z = torch.from_numpy(drawn).to(model.device)
    with torch.inference_mode():
        found = torch.cat([thumbnails(model(part)).float() for part in z.split(batch)])
    return z, found.clone()


class SurrogateTraining:
    """The fit of a surrogate to G's thumbnails; it can be interrupted between steps."""

    def __init__(
        self,
        model: LatentModel,
        z: Tensor,
        targets: Tensor,
        *,
        seed: int,
        steps: int,
        width: int = 512,
    ) -> None:
        """Prepare `steps` steps on the latents and thumbnails that `draw_thumbnails` returned."""
        self.z, self.targets = z, targets
        self.seed, self.steps, self.num_steps = seed, steps, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.surrogate = Surrogate(
                latent_dim=model.latent_dim, thumbnail=targets.shape[1], width=width
            ).to(model.device)
        linear = Linearisation(model)
        with torch.no_grad():
            self.surrogate.linear.weight.copy_(LINEAR_SHARE * linear.jacobian.T)
            self.surrogate.third.bias.copy_(linear.thumbnail[0])
            self.surrogate.third.weight.mul_(0.1)
        self.adam = torch.optim.AdamW(
            self.surrogate.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )

    def step(self) -> None:
        """Do one step on a batch of thumbnails. No device sync."""
        done = self.num_steps / self.steps
        self.adam.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * done))
        rows = torch.from_numpy(self._rows()).to(self.z.device)
        loss = F.mse_loss(self.surrogate(self.z[rows]), self.targets[rows])
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
def unexplained(surrogate: Surrogate, z: Tensor, targets: Tensor) -> float:
    """Return the share of the thumbnails' variance that a surrogate misses: 0 where it is exact.

    `z` and `targets` are latents it has not been trained on, and G's thumbnails. A device sync.
    """
    error = (surrogate(z) - targets).square().mean()
    return (error / targets.var(0).mean()).item()


def _silu_derivative(x: Tensor) -> Tensor:
    """Return d silu(x) / dx."""
    share = torch.sigmoid(x)
    return share * (1 + x * (1 - share))
