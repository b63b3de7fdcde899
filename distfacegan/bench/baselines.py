"""Other ways to invert a generator, to compare the project's recipes with.

Each yields z [B, Z] and the error [B] of equation 3 after every generator step, for ever.

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from distfacegan.core.latent_model import LatentModel
from distfacegan.core.objective import reconstruction_error

HISTORY = 10  # pairs that L-BFGS remembers
LONGEST_STEP = 1.5  # of L-BFGS, which has no line search here

Steps = Iterator[tuple[Tensor, Tensor]]


def loop(generator: nn.Module, face: Tensor, z: Tensor) -> Steps:
    """Adam as it is usually written: one face [1, 3, R, R] at a time.

    Tensors are row-major, the weights get gradients too, and every step looks at the loss.
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


def lbfgs(model: LatentModel, faces: Tensor, z: Tensor) -> Steps:
    """L-BFGS over u with z = tanh(u), as iGAN does (Zhu et al., arXiv:1609.03552), for a batch."""
    u = torch.atanh(z.clamp(-0.99, 0.99))
    pairs: list[tuple[Tensor, Tensor]] = []
    last: tuple[Tensor, Tensor] | None = None
    while True:
        z = torch.tanh(u)
        loss, slope, _ = model.step(z, faces)
        yield z, loss
        gradient = slope * (1 - z.square())
        if last is not None:
            pairs = [*pairs[1 - HISTORY :], (u - last[0], gradient - last[1])]
        last = u, gradient
        direction = -_two_loops(gradient, pairs)
        longest = LONGEST_STEP if pairs else 1.0
        scale = longest / direction.norm(dim=1, keepdim=True)
        u = u + direction * (scale.clamp(max=1.0) if pairs else scale)


def _two_loops(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return H g [B, Z], H being the inverse Hessians after the updates of the pairs.

    A pair is a step and the change of the gradient along it.
    """
    q, taken = gradient, []
    for step, change in reversed(pairs):
        curvature = (step * change).sum(1, keepdim=True)
        rho = torch.where(curvature > 1e-10, 1 / curvature, 0.0)
        alpha = rho * (step * q).sum(1, keepdim=True)
        q = q - alpha * change
        taken.append((step, change, rho, alpha))
    if pairs:
        step, change = pairs[-1]
        scale = (step * change).sum(1, keepdim=True) / change.square().sum(1, keepdim=True)
        q = q * torch.where(scale > 0, scale, 1.0)
    for step, change, rho, alpha in reversed(taken):
        q = q + (alpha - rho * (change * q).sum(1, keepdim=True)) * step
    return q
