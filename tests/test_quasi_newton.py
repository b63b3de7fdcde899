"""The quasi-Newton method solves what can be solved by hand or by another library."""

import numpy as np
import pytest
import torch
from scipy import optimize

from distfacegan.core import quasi_newton
from distfacegan.core.quasi_newton import bfgs_update, box_solve, product, solve


def random_problems(count, z, seed=0):
    """Return positive definite Hessians, of condition 1e3 or so, and gradients."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(count, z, 2 * z, generator=generator, dtype=torch.float64)
    a *= torch.logspace(0, -1.5, z, dtype=torch.float64)[:, None]
    return a @ a.mT, torch.randn(count, z, generator=generator, dtype=torch.float64)


def test_a_box_is_solved_by_hand():
    # Minimise x^2 + y^2 - 6x + 2xy/2 over [-1, 1]^2: x = 1 holds, then y = -1/2.
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
    one = torch.ones(1, 2)
    found = box_solve(hessian, torch.tensor([[-6.0, 0.0]]), -one, one)
    torch.testing.assert_close(found, torch.tensor([[1.0, -0.5]]))


def test_boxes_are_solved_as_scipy_solves_them():
    hessian, gradient = random_problems(20, 12)
    half = torch.full_like(gradient, 0.5)
    found = box_solve(hessian, 3 * gradient, -half, 0.2 * half)
    for h, g, d in zip(hessian.numpy(), 3 * gradient.numpy(), found.numpy(), strict=True):
        exact = optimize.minimize(
            lambda x, h=h, g=g: (0.5 * x @ h @ x + g @ x, h @ x + g),
            np.zeros(12),
            jac=True,
            bounds=[(-0.5, 0.1)] * 12,
            options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 10_000, "maxfun": 100_000},
        )
        value = 0.5 * d @ h @ d + g @ d
        assert value <= exact.fun + 1e-6 * abs(exact.fun)
        assert d.min() >= -0.5
        assert d.max() <= 0.1


def test_what_cannot_be_solved_is_nan_and_its_neighbour_is_not():
    matrices = torch.stack([torch.eye(3), -torch.eye(3)])
    found = solve(matrices, torch.ones(2, 3))
    assert found[0].tolist() == [1, 1, 1]
    assert torch.isnan(found[1]).all()


def test_an_update_explains_the_change_and_stays_positive_definite():
    hessian, gradient = random_problems(6, 5)
    d = gradient.flip(0)
    change = product(hessian.flip(0), d)
    updated = bfgs_update(hessian, d, product(hessian, d), change)
    bent = (d * change).sum(1) >= quasi_newton.POWELL * (d * product(hessian, d)).sum(1)
    assert bent.any()
    torch.testing.assert_close(product(updated, d)[bent], change[bent])  # the secant equation
    backwards = bfgs_update(hessian, d, product(hessian, d), -change)
    assert (torch.linalg.eigvalsh(backwards) > 0).all()


@pytest.mark.parametrize("radius", [None, 0.3])
def test_a_quadratic_is_minimised(radius):
    hessian, gradient = random_problems(8, 6)

    def evaluate(z):
        return 0.5 * (z * product(hessian, z)).sum(1) + (gradient * z).sum(1), (
            product(hessian, z) + gradient
        )

    z = torch.zeros_like(gradient)
    scale = hessian.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    state = quasi_newton.begin(z, *evaluate(z), scale * torch.eye(6, dtype=torch.float64))
    losses = [state.loss]
    for step in range(2, 80):
        state = quasi_newton.advance(state, evaluate, step=step, radius=radius)
        losses.append(state.loss)
    assert (torch.stack(losses).diff(dim=0) <= 0).all()
    if radius is None:
        exact = solve(hessian, -gradient)
    else:
        exact = box_solve(hessian, gradient, z - radius, z + radius)
        assert state.z.abs().max() == radius
    value = evaluate(exact)[0]
    assert ((state.loss - value) < 1e-3 * value.abs()).all()


def test_a_start_that_is_not_finite_is_lost_but_harms_nobody():
    loss = torch.tensor([1.0, torch.nan])
    z = torch.tensor([[0.5], [torch.nan]])
    state = quasi_newton.begin(z, loss, z, torch.ones(2, 1, 1))
    assert state.loss.tolist() == [1.0, torch.inf]
    assert state.z.tolist() == [[0.5], [0.0]]
    assert state.steps.tolist() == [1, 0]
