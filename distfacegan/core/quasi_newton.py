"""A dense quasi-Newton method for a batch of small problems, each solved as if it were alone.

Damped BFGS on the Hessian itself (Nocedal and Wright, Numerical Optimization, section 18.3), with
a trust region instead of a line search (chapter 4). So a step costs one evaluation, and the host
need not wait for the device. The trust region and the bound are both boxes: where they meet, a step
minimises a quadratic. It does so exactly, because inexact steps were seen to end in worse minima.

Legend: B batch, Z unknowns of a problem.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from distfacegan.core.priors import Bound, Box

NO_BOUND = Box()
POWELL = 0.2  # least curvature that an update accepts along a step, relative to the Hessian's
HISTORY = 20  # updates that are kept for `rebase`
DAMPING = 3e-3  # added to the Hessian's diagonal, relative to the diagonal's mean
REACH_START, REACH_MIN, REACH_MAX = 0.4, 5e-3, 1.0  # half the width of the trust region
# Steps of the box solver. After six the minima of faces' problems (Z = 64) have a relative error
# of 3e-4 at most, 1e-11 in the median.
INTERIOR_STEPS = 6
MARGIN = 0.03  # least distance of its start from a bound, relative to the width of the box
BARRIER = 0.01  # its initial barrier strength, relative to the mean |slope|
TO_BOUNDARY = 0.99  # the most that one step may go of the way to the nearest bound


@dataclasses.dataclass
class State:
    """The best point of each problem, and the quadratic model round it."""

    z: Tensor  # [B, Z]
    loss: Tensor  # [B], inf where no evaluation was finite
    gradient: Tensor  # [B, Z]
    hessian: Tensor  # [B, Z, Z]
    reach: Tensor  # [B], half the width of the trust region
    steps: Tensor  # i32 [B], the number of the step that found it; 0 where none did
    history: tuple[tuple[Tensor, Tensor], ...] = ()  # last steps and gradient changes, [B, Z] each


def begin(z: Tensor, loss: Tensor, gradient: Tensor, hessian: Tensor) -> State:
    """Return the state after one evaluation, at z [B, Z]."""
    finite = torch.isfinite(loss)
    return State(
        z=torch.where(finite[:, None], z, 0.0),
        loss=torch.where(finite, loss, torch.inf),
        gradient=gradient,
        hessian=hessian,
        reach=torch.full_like(loss, REACH_START),
        steps=finite.to(torch.int32),
    )


def advance(
    state: State,
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    step: int,
    bound: Bound = NO_BOUND,
    interior_steps: int = INTERIOR_STEPS,
) -> State:
    """Take step number `step` of every problem: one evaluation. No device sync.

    `evaluate` maps z [B, Z] to losses [B] and gradients [B, Z]. z stays within `bound`. Fewer
    `interior_steps` solve the step's own problem less exactly.
    """
    hessian, gradient, reach = state.hessian, state.gradient, state.reach[:, None]
    side = bound.half_width
    low, high = torch.maximum(-side - state.z, -reach), torch.minimum(side - state.z, reach)
    d = box_solve(damped(hessian), gradient, low, high, interior_steps)
    z = bound.clamp(state.z + d)
    d = z - state.z  # the step as it was rounded and bounded
    loss, gradient = evaluate(z)
    finite = torch.isfinite(loss) & torch.isfinite(gradient).all(1)

    # A step that is not taken updates the Hessian too: its gradient shows the curvature there.
    change = torch.where(finite[:, None], gradient - state.gradient, 0.0)
    seen = torch.where(finite[:, None], d, 0.0)

    predicted = -(state.gradient * d).sum(1) - 0.5 * (d * product(hessian, d)).sum(1)
    gain = (state.loss - loss) / predicted.clamp_min(tiny(loss))
    improved = finite & (loss < state.loss)
    factor = torch.where(gain > 0.6, 1.5, torch.where(gain < 0.2, 0.7, 1.0))
    factor = torch.where(improved, factor, 0.5)
    return State(
        z=torch.where(improved[:, None], z, state.z),
        loss=torch.where(improved, loss, state.loss),
        gradient=torch.where(improved[:, None], gradient, state.gradient),
        hessian=bfgs_update(hessian, seen, change),
        reach=(state.reach * factor).clamp(REACH_MIN, REACH_MAX),
        steps=torch.where(improved, step, state.steps),
        history=(*state.history, (seen, change))[-HISTORY:],
    )


def rebase(state: State, hessian: Tensor) -> State:
    """Replace the Hessians by [B, Z, Z], and repeat the last HISTORY updates on them."""
    for d, change in state.history:
        hessian = bfgs_update(hessian, d, change)
    return dataclasses.replace(state, hessian=hessian)


def bfgs_update(hessian: Tensor, d: Tensor, change: Tensor) -> Tensor:
    """Return Hessians [B, Z, Z] with which steps d [B, Z] explain gradient changes [B, Z].

    Where the curvature along d is less than POWELL times that of the old Hessian, it is blended
    with the old one: so the Hessian stays positive definite (Powell's damping). A step of 0
    changes nothing.

    >>> one = torch.ones(1, 1)
    >>> bfgs_update(torch.tensor([[[2.0]]]), d=one, change=3 * one)  # H d = change
    tensor([[[3.]]])
    """
    hd = product(hessian, d)
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


def box_solve(
    hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor, steps: int = INTERIOR_STEPS
) -> Tensor:
    """Minimise g.d + d.H.d / 2 subject to low <= d <= high; all [B, Z], but H [B, Z, Z].

    `low` must be below `high`. This is Mehrotra's predictor-corrector method (Nocedal and Wright,
    algorithm 16.4) for bounds, with a step length for d and another for the multipliers. A step
    solves two systems with one Cholesky factor. Their number is fixed, so no device sync.

    >>> one = torch.ones(1, 1)
    >>> box_solve(torch.tensor([[[2.0]]]), -6 * one, low=-one, high=one)  # free: d = 3
    tensor([[1.]])
    """
    width, diagonal = high - low, hessian.diagonal(dim1=1, dim2=2)
    least = 1e-9 * width
    d = torch.zeros_like(gradient).clamp(low + MARGIN * width, high - MARGIN * width)
    below, above = d - low, high - d  # the distances to the bounds
    slope = gradient + product(hessian, d)
    mu = BARRIER * slope.abs().mean(1, keepdim=True) * width.mean(1, keepdim=True) + tiny(d)
    up, down = slope.clamp_min(0) + mu / below, (-slope).clamp_min(0) + mu / above  # multipliers
    for _ in range(steps):
        factor, _ = torch.linalg.cholesky_ex(hessian + torch.diag_embed(up / below + down / above))
        mu = _complementarity(below, up, above, down)

        # The predictor goes straight to the solution.
        p = _solve(factor, -slope)
        more_up, more_down = -up - up * p / below, -down + down * p / above
        near, far = _longest(below, p, above, -p), _longest(up, more_up, down, more_down)
        predicted = _complementarity(
            below + near * p, up + far * more_up, above - near * p, down + far * more_down
        )

        # The corrector goes to the central path, at the mu that the predictor would reach.
        centre = mu * (predicted / mu) ** 3
        centre_up, centre_down = centre - p * more_up, centre + p * more_down
        p = _solve(factor, centre_up / below - centre_down / above - slope)
        more_up = (centre_up - up * p) / below - up
        more_down = (centre_down + down * p) / above - down
        near = _longest(below, p, above, -p, TO_BOUNDARY)
        far = _longest(up, more_up, down, more_down, TO_BOUNDARY)
        d = d + near * p
        below, above = (below + near * p).clamp_min(least), (above - near * p).clamp_min(least)
        up, down = up + far * more_up, down + far * more_down
        slope = gradient + product(hessian, d)
    # Where a multiplier outweighs the distance to its bound, d lies on the bound.
    d = torch.where(up > diagonal * below, low, torch.where(down > diagonal * above, high, d))
    return d.clamp(low, high)


def _complementarity(below: Tensor, up: Tensor, above: Tensor, down: Tensor) -> Tensor:
    """Return the mean product of distances and multipliers [B, 1]: zero at the solution."""
    return 0.5 * (below * up + above * down).mean(1, keepdim=True)


def _longest(x: Tensor, dx: Tensor, y: Tensor, dy: Tensor, share: float = 1.0) -> Tensor:
    """Return the share of the steps dx and dy, at most 1, that leaves x and y positive: [B, 1]."""
    ways = [torch.where(step < 0, -at / step, torch.inf) for at, step in ((x, dx), (y, dy))]
    return (share * torch.cat(ways, dim=1).amin(1, keepdim=True)).clamp_max(1.0)


def damped(hessian: Tensor) -> Tensor:
    """Return Hessians [B, Z, Z] with DAMPING added to their diagonals."""
    mean = DAMPING * hessian.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    return hessian + torch.diag_embed(mean.expand(-1, hessian.shape[1]))


def _solve(factor: Tensor, vector: Tensor) -> Tensor:
    return torch.cholesky_solve(vector[:, :, None], factor)[:, :, 0]


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the products [B, Z] of matrices [B, Z, Z] and vectors [B, Z].

    >>> product(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[1.0, 1.0]]))
    tensor([[3., 7.]])
    """
    return (matrix @ vector[:, :, None])[:, :, 0]


def tiny(like: Tensor) -> float:
    """Return the smallest positive normal number of a tensor's type, to divide by instead of 0."""
    return torch.finfo(like.dtype).tiny
