"""A dense quasi-Newton method for a batch of small problems, each solved as if it were alone.

Damped BFGS (Nocedal and Wright, Numerical Optimization, section 18.3) that holds the Hessian
itself, in a trust region in place of a line search (chapter 4): a step costs one evaluation and
asks nothing of the host. Trust region and bounds are both boxes, so that a step minimises a
quadratic in one box, exactly: with a few per cent of error it ends in worse minima.

Legend: B batch, Z unknowns of a problem.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

POWELL = 0.2  # least curvature along a step, as a share of the model's
HISTORY = 20  # steps that a new Hessian is told of
DAMPING = 3e-3  # of the Hessian's diagonal, in units of its mean
REACH_START, REACH_MIN, REACH_MAX = 0.4, 5e-3, 1.0  # of a step, in each unknown
# Of the box solver: on problems that faces pose (Z = 64) its minima are then off by 3e-4 at most,
# by 1e-11 in the median.
INTERIOR_STEPS = 6
INSIDE = 0.03  # of the width of the box, that it starts within at least
FORCE = 0.01  # of the mean slope, that its bounds push with at the start
TO_BOUNDARY = 0.99  # of the way to the boundary, that a step of it goes at most


@dataclasses.dataclass
class State:
    """The best point of each problem, and the quadratic model round it."""

    z: Tensor  # [B, Z]
    loss: Tensor  # [B], inf where it was never finite
    gradient: Tensor  # [B, Z]
    hessian: Tensor  # [B, Z, Z]
    reach: Tensor  # [B], half the width of the trust region
    steps: Tensor  # i32 [B], evaluations up to this point
    history: tuple[tuple[Tensor, Tensor], ...] = ()  # steps and changes of the gradient, all [B, Z]


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
    radius: float | None = None,
    interior_steps: int = INTERIOR_STEPS,
) -> State:
    """Take step number `step` of every problem: one evaluation. No device sync.

    `evaluate` maps z [B, Z] to losses [B] and gradients [B, Z]. `radius` bounds z to the box
    [-radius, radius]^Z. Fewer `interior_steps` solve the step's own problem less exactly.
    """
    hessian, gradient, reach = state.hessian, state.gradient, state.reach[:, None]
    bound = torch.inf if radius is None else radius
    low, high = torch.maximum(-bound - state.z, -reach), torch.minimum(bound - state.z, reach)
    d = box_solve(damped(hessian), gradient, low, high, interior_steps)
    z = (state.z + d).clamp(-bound, bound)
    d = z - state.z  # as rounded
    loss, gradient = evaluate(z)
    finite = torch.isfinite(loss) & torch.isfinite(gradient).all(1)

    # The update also learns from a step that is not taken: it has seen the curvature there.
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
    """Return the state with Hessians [B, Z, Z] that are told what the last steps have seen."""
    for d, change in state.history:
        hessian = bfgs_update(hessian, d, change)
    return dataclasses.replace(state, hessian=hessian)


def bfgs_update(hessian: Tensor, d: Tensor, change: Tensor) -> Tensor:
    """Return the Hessians [B, Z, Z] that explain the `change` of the gradients along steps d.

    Where the curvature is less than POWELL times the model's, it is blended with the model's:
    so the Hessian stays positive definite (Powell's damping). A step of 0 teaches nothing.
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
    """Minimise g.d + d.H.d / 2 subject to low < high, low <= d <= high, [B, Z] but H [B, Z, Z].

    Mehrotra's predictor-corrector method (Nocedal and Wright, algorithm 16.4, for bounds, with
    a step length for d and one for the multipliers): two solutions with one Cholesky factor a
    step, and a fixed number of steps, so no device sync.
    """
    width, diagonal = high - low, hessian.diagonal(dim1=1, dim2=2)
    least = 1e-9 * width
    d = torch.zeros_like(gradient).clamp(low + INSIDE * width, high - INSIDE * width)
    below, above = d - low, high - d  # the distances to the bounds
    slope = gradient + product(hessian, d)
    mu = FORCE * slope.abs().mean(1, keepdim=True) * width.mean(1, keepdim=True) + tiny(d)
    up, down = slope.clamp_min(0) + mu / below, (-slope).clamp_min(0) + mu / above  # multipliers
    for _ in range(steps):
        factor, _ = torch.linalg.cholesky_ex(hessian + torch.diag_embed(up / below + down / above))
        mu = _complementarity(below, up, above, down)

        # The predictor: straight to the solution.
        p = _solve(factor, -slope)
        more_up, more_down = -up - up * p / below, -down + down * p / above
        near, far = _longest(below, p, above, -p), _longest(up, more_up, down, more_down)
        predicted = _complementarity(
            below + near * p, up + far * more_up, above - near * p, down + far * more_down
        )

        # The corrector: to the central path, at the distance that the predictor thinks it reaches.
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
    # What a multiplier holds lies on its bound.
    d = torch.where(up > diagonal * below, low, torch.where(down > diagonal * above, high, d))
    return d.clamp(low, high)


def _complementarity(below: Tensor, up: Tensor, above: Tensor, down: Tensor) -> Tensor:
    """Return the mean product of distances and multipliers [B, 1]: zero at the solution."""
    return 0.5 * (below * up + above * down).mean(1, keepdim=True)


def _longest(x: Tensor, dx: Tensor, y: Tensor, dy: Tensor, share: float = 1.0) -> Tensor:
    """Return how much of the steps dx and dy, 1 at most, goes a share of the way to 0: [B, 1]."""
    ways = [torch.where(step < 0, -at / step, torch.inf) for at, step in ((x, dx), (y, dy))]
    return (share * torch.cat(ways, dim=1).amin(1, keepdim=True)).clamp_max(1.0)


def damped(hessian: Tensor) -> Tensor:
    """Return Hessians [B, Z, Z] with DAMPING added to their diagonals."""
    mean = DAMPING * hessian.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    return hessian + torch.diag_embed(mean.expand(-1, hessian.shape[1]))


def _solve(factor: Tensor, vector: Tensor) -> Tensor:
    return torch.cholesky_solve(vector[:, :, None], factor)[:, :, 0]


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the products of matrices [B, Z, Z] and vectors [B, Z]."""
    return (matrix @ vector[:, :, None])[:, :, 0]


def tiny(like: Tensor) -> float:
    """Return the smallest number that may stand in a denominator."""
    return torch.finfo(like.dtype).tiny
