"""Ways to invert a generator that the project's own are held against.

Each yields z [B, Z] and the loss [B] of equation 3 after every evaluation of G.

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from distfacegan.core.networks import Generator
from distfacegan.core.objective import reconstruction_error

HISTORY = 10  # pairs that L-BFGS remembers
LONGEST_STEP = 1.5  # of L-BFGS, which has no line search here

Steps = Iterator[tuple[Tensor, Tensor]]


def loop(generator: Generator, face: Tensor, z: Tensor) -> Steps:
    """The paper's Adam as it is usually written: one face [1, 3, R, R] at a time.

    Row-major tensors, weights that take gradients too, a look at the loss in every step.
    """
    generator = copy.deepcopy(generator).requires_grad_()
    z = z.clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=0.1)
    while True:
        adam.zero_grad()
        loss = reconstruction_error(face, generator(z))
        loss.sum().backward()
        loss.sum().item()
        yield z.detach().clone(), loss.detach()
        adam.step()


def batch(generator: Generator, faces: Tensor, z: Tensor, dtype: torch.dtype) -> Steps:
    """The paper's Adam, written well: a batch, weights frozen, channels-last, autocast to dtype."""
    objective = _Objective(generator, faces, dtype)
    z = z.clone()
    adam = torch.optim.Adam([z], lr=0.1, fused=True)
    while True:
        loss, z.grad = objective(z)
        yield z.clone(), loss
        adam.step()


def lbfgs(generator: Generator, faces: Tensor, z: Tensor, dtype: torch.dtype) -> Steps:
    """L-BFGS over u with z = tanh(u), as iGAN does (Zhu et al., arXiv:1609.03552), for a batch."""
    objective = _Objective(generator, faces, dtype)
    u = torch.atanh(z.clamp(-0.99, 0.99))
    pairs: list[tuple[Tensor, Tensor]] = []
    last: tuple[Tensor, Tensor] | None = None
    while True:
        z = torch.tanh(u)
        loss, slope = objective(z)
        yield z, loss
        gradient = slope * (1 - z.square())
        if last is not None:
            pairs = [*pairs[1 - HISTORY :], (u - last[0], gradient - last[1])]
        last = u, gradient
        direction = -_two_loops(gradient, pairs)
        length = direction.norm(dim=1, keepdim=True)
        longest = LONGEST_STEP if pairs else 1.0
        u = u + direction * (longest / length).clamp(max=1.0 if pairs else torch.inf)


class _Objective:
    """Equation 3 and its gradient by z, in plain PyTorch, of a frozen generator."""

    def __init__(self, generator: Generator, faces: Tensor, dtype: torch.dtype) -> None:
        self._generator = copy.deepcopy(generator).requires_grad_(False)
        self._generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._faces = faces.contiguous(memory_format=torch.channels_last)
        self._dtype = dtype

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        device = self._faces.device.type
        with torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
            images = self._generator(z)
        loss = reconstruction_error(self._faces, images.to(self._faces.dtype))
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        return loss.detach(), gradient


def _two_loops(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return H g [B, Z] for the inverse Hessians H that the pairs of steps and changes tell of."""
    q = gradient
    taken = []
    for step, change in reversed(pairs):
        curvature = (step * change).sum(1, keepdim=True)
        usable = curvature > 1e-10
        rho = torch.where(usable, 1 / curvature, 0.0)
        alpha = rho * (step * q).sum(1, keepdim=True)
        q = q - alpha * change
        taken.append((step, change, rho, alpha))
    if pairs:
        step, change = pairs[-1]
        scale = (step * change).sum(1, keepdim=True) / change.square().sum(1, keepdim=True)
        q = q * torch.where(scale > 0, scale, 1.0)
    for step, change, rho, alpha in reversed(taken):
        beta = rho * (change * q).sum(1, keepdim=True)
        q = q + (alpha - beta) * step
    return q
