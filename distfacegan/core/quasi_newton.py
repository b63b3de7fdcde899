"""A dense quasi-Newton method for a batch of small problems, each solved as if it were alone.

Damped BFGS (Nocedal and Wright, Numerical Optimization, section 18.3) that holds the Hessian
itself, with Levenberg's damping in place of a line search: a step costs one evaluation, asks
nothing of the host, and may be bounded by a box.

Legend: B batch, Z unknowns of a problem.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

POWELL = 0.2  # least curvature along a step, as a share of the model's
DAMPING_START = 0.2  # in units of the Hessian's mean diagonal, as its bounds
DAMPING_MIN, DAMPING_MAX = 1e-3, 1e2
ACTIVE_SETS = 3  # enough: on random problems the result is then exact to 1e-6 (Z = 64)


@dataclasses.dataclass
class State:
    """The best point of each problem, and the quadratic model round it."""

    z: Tensor  # [B, Z]
    loss: Tensor  # [B], inf where it was never finite
    gradient: Tensor  # [B, Z]
    hessian: Tensor  # [B, Z, Z]
    damping: Tensor  # [B]
    steps: Tensor  # i32 [B], evaluations up to this point


def begin(z: Tensor, loss: Tensor, gradient: Tensor, hessian: Tensor) -> State:
    """Return the state after one evaluation, at z [B, Z]."""
    finite = torch.isfinite(loss)
    return State(
        z=torch.where(finite[:, None], z, 0.0),
        loss=torch.where(finite, loss, torch.inf),
        gradient=gradient,
        hessian=hessian,
        damping=torch.full_like(loss, DAMPING_START),
        steps=finite.to(torch.int32),
    )


def advance(
    state: State,
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    step: int,
    radius: float | None = None,
    overstep: float = 1.0,
) -> State:
    """Take step number `step` of every problem: one evaluation. No device sync.

    `evaluate` maps z [B, Z] to losses [B] and gradients [B, Z]. `radius` bounds z to the box
    [-radius, radius]^Z. `overstep` lengthens the steps of the quadratic model.
    """
    hessian, gradient = state.hessian, state.gradient
    damped = add_damping(hessian, state.damping)
    if radius is None:
        d = overstep * solve(damped, -gradient)
        z = state.z + d
    else:
        d = overstep * box_solve(damped, gradient, -radius - state.z, radius - state.z)
        z = (state.z + d).clamp(-radius, radius)
    d = z - state.z  # as rounded and clamped
    loss, gradient = evaluate(z)
    finite = torch.isfinite(loss) & torch.isfinite(gradient).all(1)

    # The update also learns from a step that is not taken: it has seen the curvature there.
    change = gradient - state.gradient
    hd = product(hessian, d)
    updated = bfgs_update(hessian, d, hd, change)
    hessian = torch.where(finite[:, None, None], updated, hessian)

    predicted = -(state.gradient * d).sum(1) - 0.5 * (d * hd).sum(1)
    gain = (state.loss - loss) / predicted.clamp_min(tiny(loss))
    improved = finite & (loss < state.loss)
    factor = torch.where(gain > 0.6, 0.5, torch.where(gain < 0.2, 2.0, 1.0))
    factor = torch.where(improved, factor, 4.0)
    return State(
        z=torch.where(improved[:, None], z, state.z),
        loss=torch.where(improved, loss, state.loss),
        gradient=torch.where(improved[:, None], gradient, state.gradient),
        hessian=hessian,
        damping=(state.damping * factor).clamp(DAMPING_MIN, DAMPING_MAX),
        steps=torch.where(improved, step, state.steps),
    )


def bfgs_update(hessian: Tensor, d: Tensor, hd: Tensor, change: Tensor) -> Tensor:
    """Return the Hessians [B, Z, Z] that explain the `change` of the gradients along steps d.

    Where the curvature is less than POWELL times the model's, it is blended with the model's:
    so the Hessian stays positive definite (Powell's damping).
    """
    model = (d * hd).sum(1, keepdim=True).clamp_min(tiny(d))
    found = (d * change).sum(1, keepdim=True)
    blend = torch.where(found < POWELL * model, (1 - POWELL) * model / (model - found), 1.0)
    change = blend * change + (1 - blend) * hd
    found = (d * change).sum(1, keepdim=True).clamp_min(tiny(d))
    return (
        hessian
        - hd[:, :, None] * (hd / model)[:, None, :]
        + change[:, :, None] * (change / found)[:, None, :]
    )


def box_solve(hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Minimise g.d + d.H.d / 2 subject to low <= d <= high, all [B, Z] but H [B, Z, Z].

    The primal-dual active set method (Hintermueller, Ito and Kunisch 2003): guess which bounds
    hold, solve for the rest, correct the guess. A fixed number of corrections, so no device sync.
    """
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    d = solve(hessian, -gradient).clamp(low, high)
    for _ in range(ACTIVE_SETS):
        towards = d - (product(hessian, d) + gradient) / diagonal
        at_bound = (towards <= low) | (towards >= high)
        fixed = torch.where(at_bound, towards.clamp(low, high), 0.0)
        free = (~at_bound).to(d)
        # Rows and columns of what is fixed are those of the unit matrix.
        reduced = hessian * free[:, :, None] * free[:, None, :] + torch.diag_embed(1 - free)
        target = -(gradient + product(hessian, fixed)) * free
        d = (solve(reduced, target) * free + fixed).clamp(low, high)
    return d


def add_damping(hessian: Tensor, damping: Tensor) -> Tensor:
    """Add `damping` [B] times the mean diagonal of each Hessian [B, Z, Z] to its diagonal."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    return hessian + torch.diag_embed((damping * diagonal.mean(1))[:, None].expand_as(diagonal))


def solve(matrix: Tensor, vector: Tensor) -> Tensor:
    """Solve positive definite systems [B, Z, Z] for [B, Z]; nan where one is not. No sync."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    solution = torch.cholesky_solve(vector[:, :, None], factor)[:, :, 0]
    return torch.where((failed == 0)[:, None], solution, torch.nan)


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the products of matrices [B, Z, Z] and vectors [B, Z]."""
    return (matrix @ vector[:, :, None])[:, :, 0]


def tiny(like: Tensor) -> float:
    """Return the smallest number that may stand in a denominator."""
    return torch.finfo(like.dtype).tiny
