"""The quasi-Newton method solves what can be solved by hand or by another library."""

import numpy as np
import pytest
import torch
from scipy import optimize

from distfacegan.core import quasi_newton
from distfacegan.core.priors import UNIFORM
from distfacegan.core.quasi_newton import bfgs_update, box_solve, product


def random_problems(count, z, condition=1e3, seed=0):
    """Return positive definite Hessians of about this condition, and gradients."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(count, z, 2 * z, generator=generator, dtype=torch.float64)
    a *= torch.logspace(0, -np.log10(condition) / 2, z, dtype=torch.float64)[:, None]
    minimum = torch.randn(count, z, generator=generator, dtype=torch.float64)
    hessian = a @ a.mT / z
    return hessian, product(hessian, minimum)


def value(hessian, gradient, d):
    return 0.5 * (d * product(hessian, d)).sum(1) + (gradient * d).sum(1)


def test_a_box_is_solved_by_hand():
    # Minimise x^2 + y^2 - 6x + 2xy/2 over [-1, 1]^2: x = 1 holds, then y = -1/2.
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
    one = torch.ones(1, 2)
    found = box_solve(hessian, torch.tensor([[-6.0, 0.0]]), -one, one)
    torch.testing.assert_close(found, torch.tensor([[1.0, -0.5]]))


@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_boxes_are_solved_as_scipy_solves_them(condition):
    """Also where most bounds hold and the Hessian is as ill-conditioned as an inversion's."""
    z = 12
    hessian, gradient = random_problems(30, z, condition)
    low = -torch.linspace(0.01, 0.5, z, dtype=torch.float64).expand_as(gradient)
    high = 0.2 * -low.flip(1)
    least = []
    for h, g, bounds in zip(
        hessian.numpy(), gradient.numpy(), torch.stack([low, high], 1), strict=True
    ):
        root = np.linalg.cholesky(h)
        d = optimize.lsq_linear(
            root.T, -np.linalg.solve(root, g), bounds.numpy(), method="bvls", tol=1e-14
        ).x
        least.append(0.5 * d @ h @ d + g @ d)
    least = torch.tensor(least, dtype=torch.float64)
    for steps, worst, median in ((quasi_newton.INTERIOR_STEPS, 0.03, 1e-5), (12, 1e-9, 1e-12)):
        found = box_solve(hessian, gradient, low, high, steps)
        assert (found >= low).all()
        assert (found <= high).all()
        error = (value(hessian, gradient, found) - least) / least.abs()
        assert error.max() < worst
        assert error.median() < median
        held = (found == low) | (found == high)
        assert 0.2 < held.double().mean() < 1


def test_single_precision_solves_boxes_as_well():
    hessian, gradient = random_problems(30, 64, 1e5)
    half = torch.full_like(gradient, 0.3)
    exact = box_solve(hessian, gradient, -half, half)
    found = box_solve(hessian.float(), gradient.float(), -half.float(), half.float()).double()
    found, exact = (value(hessian, gradient, d) for d in (found, exact))
    assert ((found - exact) / exact.abs()).max() < 1e-3


def test_what_cannot_be_solved_leaves_its_neighbour_alone():
    hessian, gradient = random_problems(3, 4, 10.0)
    half = torch.ones_like(gradient)
    alone = box_solve(hessian[2:], gradient[2:], -half[2:], half[2:])
    hessian[0], gradient[1] = -hessian[0], torch.nan
    torch.testing.assert_close(box_solve(hessian, gradient, -half, half)[2:], alone)


def test_an_update_explains_the_change_and_stays_positive_definite():
    hessian, gradient = random_problems(6, 5)
    d = gradient.flip(0)
    change = product(hessian.flip(0), d)
    updated = bfgs_update(hessian, d, change)
    bent = (d * change).sum(1) >= quasi_newton.POWELL * (d * product(hessian, d)).sum(1)
    assert bent.any()
    torch.testing.assert_close(product(updated, d)[bent], change[bent])  # the secant equation
    assert (torch.linalg.eigvalsh(bfgs_update(hessian, d, -change)) > 0).all()
    nothing = torch.zeros_like(d)
    torch.testing.assert_close(bfgs_update(hessian, nothing, nothing), hessian)


@pytest.mark.parametrize("radius", [None, 0.3])
def test_a_quadratic_is_minimised(radius):
    hessian, gradient = random_problems(8, 6)

    def evaluate(z):
        return value(hessian, gradient, z), product(hessian, z) + gradient

    z, bound = torch.zeros_like(gradient), UNIFORM.bound(radius)
    scale = hessian.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    state = quasi_newton.begin(z, *evaluate(z), scale * torch.eye(6, dtype=torch.float64))
    losses = [state.loss]
    for step in range(2, 80):
        state = quasi_newton.advance(state, evaluate, step=step, bound=bound)
        losses.append(state.loss)
    assert (torch.stack(losses).diff(dim=0) <= 0).all()
    if radius is None:
        exact = torch.linalg.solve(hessian, -gradient)
    else:
        exact = box_solve(hessian, gradient, z - radius, z + radius)
        assert state.z.abs().max() == radius
    least = value(hessian, gradient, exact)
    assert ((state.loss - least) < 1e-3 * least.abs()).all()


def test_a_new_hessian_is_told_what_was_seen_before():
    hessian, gradient = random_problems(4, 5)

    def evaluate(z):
        return value(hessian, gradient, z), product(hessian, z) + gradient

    z = torch.zeros_like(gradient)
    unit = torch.eye(5, dtype=torch.float64).expand_as(hessian)
    state = quasi_newton.begin(z, *evaluate(z), unit)
    for step in (2, 3, 4):
        state = quasi_newton.advance(state, evaluate, step=step)
    again = quasi_newton.rebase(state, unit)
    torch.testing.assert_close(again.hessian, state.hessian)
    other = quasi_newton.rebase(state, 2 * unit)
    d, change = state.history[-1]
    torch.testing.assert_close(product(other.hessian, d), change)


def test_a_start_that_is_not_finite_is_lost_but_harms_nobody():
    loss = torch.tensor([1.0, torch.nan])
    z = torch.tensor([[0.5], [torch.nan]])
    state = quasi_newton.begin(z, loss, z, torch.ones(2, 1, 1))
    assert state.loss.tolist() == [1.0, torch.inf]
    assert state.z.tolist() == [[0.5], [0.0]]
    assert state.steps.tolist() == [1, 0]
