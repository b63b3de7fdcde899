"""Anything that maps latents to images is inverted; BEGAN has a faster way to the same numbers."""

import dataclasses

import pytest
import torch
from torch import nn

from distfacegan.core.frozen import FrozenGenerator
from distfacegan.core.inversion import Inverter
from distfacegan.core.latent_model import AutogradModel, latent_model
from distfacegan.core.networks import Generator
from distfacegan.core.priors import Box, UniformPrior
from distfacegan.core.recipes import RECIPES
from distfacegan.core.search import Search
from distfacegan.core.surrogate import SurrogateTraining, draw_thumbnails
from distfacegan.errors import CheckpointError

Z, SIDE = 7, 24


class Foreign(nn.Module):
    """A generator that is no BEGAN: a linear layer, BatchNorm, a transposed convolution, tanh."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(Z, 8 * 6 * 6)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.ConvTranspose2d(8, 3, 4, stride=4)

    def forward(self, z):
        x = self.norm(self.linear(z).unflatten(1, (8, 6, 6)))
        return torch.tanh(self.conv(nn.functional.softplus(x)))


@pytest.fixture
def foreign():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Foreign()
        module.norm.running_mean.uniform_(-1, 1)
        return module


def targets(model, count):
    z = torch.from_numpy(model.prior.draw(1, range(count), model.latent_dim, stream="target"))
    with torch.no_grad():
        return model(z)


def inverter(model, recipe, **settings):
    surrogate = None
    if RECIPES[recipe].needs_surrogate:
        drawn = draw_thumbnails(model, 0, 1000)
        training = SurrogateTraining(model, *drawn, seed=0, steps=200, width=32)
        for _ in range(200):
            training.step()
        surrogate = training.surrogate
    return Inverter(model, Search(recipe=recipe, **settings), surrogate)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_foreign_generator_is_inverted_by_every_recipe(foreign, recipe):
    model = latent_model(foreign, latent_dim=Z)
    x = targets(model, 12)
    steps = 300 if recipe in ("paper", "clip") else 25
    found = inverter(model, recipe, steps=steps)(x, range(12))
    spread = (x - x.roll(1, 0)).abs().mean()
    assert found.loss.median() < 0.03 * spread
    with torch.no_grad():
        again = (foreign.eval()(found.z) - x).abs().mean((1, 2, 3))
    torch.testing.assert_close(again, found.loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("recipe", ["clip", "bfgs"])
def test_a_face_of_a_foreign_generator_is_inverted_as_if_it_were_alone(foreign, recipe):
    model = latent_model(foreign.double(), latent_dim=Z)
    x = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    inverts = inverter(model, recipe, steps=8)
    together = inverts(x, range(5))
    for row in range(5):
        alone = inverts(x[row : row + 1], [row])
        torch.testing.assert_close(together.z[row], alone.z[0])
        torch.testing.assert_close(together.loss[row], alone.loss[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_agree_on_a_began(dtype):
    torch.manual_seed(0)
    generator = Generator(resolution=16, latent_dim=5, width=4, levels=3, skip_connections=True)
    z, x = torch.rand(4, 5) * 2 - 1, torch.rand(4, 3, 16, 16)
    frozen, plain = FrozenGenerator(generator), AutogradModel(generator, latent_dim=5)
    assert isinstance(latent_model(generator), FrozenGenerator)
    assert (plain.resolution, plain.latent_dim) == (frozen.resolution, frozen.latent_dim) == (16, 5)
    rounding = {"rtol": 1e-4, "atol": 1e-6}
    if dtype == torch.bfloat16:
        frozen, plain = frozen.with_dtype(dtype), plain.with_dtype(dtype)
        rounding = {"rtol": 0.05, "atol": 0.03}
    for ours, theirs in zip(frozen.step(z, x), plain.step(z, x), strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), **rounding)


def test_half_precision_loses_little_and_errors_are_exact(foreign):
    model = latent_model(foreign, latent_dim=Z)
    x = targets(model, 6)
    x = 0.5 * x.roll(1, 0) + 0.2
    exact, rounded = (inverter(model, "bfgs", precision=p)(x, range(6)) for p in ("fp32", "bf16"))
    assert rounded.loss.mean() < 1.05 * exact.loss.mean()
    again = (model(rounded.z) - x).abs().mean((1, 2, 3))
    torch.testing.assert_close(again, rounded.loss, rtol=1e-5, atol=1e-6)


def test_the_module_is_left_as_it_was(foreign):
    foreign.train()
    before = {name: tensor.clone() for name, tensor in foreign.state_dict().items()}
    model = latent_model(foreign, latent_dim=Z)
    model.step(torch.zeros(3, Z), torch.zeros(3, 3, SIDE, SIDE))
    assert foreign.training
    assert all(parameter.requires_grad for parameter in foreign.parameters())
    torch.testing.assert_close(foreign.state_dict(), before)


def test_what_makes_no_images_is_refused(foreign):
    with pytest.raises(ValueError, match="latent_dim is needed"):
        latent_model(foreign)
    with pytest.raises(
        CheckpointError, match=r"images \[2, 3, R, R\]; this one returns \[2, 288\]"
    ):
        latent_model(foreign.linear, latent_dim=Z)


@dataclasses.dataclass(frozen=True)
class Ball:
    """The latents with |z| <= radius."""

    radius: float
    half_width: float = torch.inf

    def clamp(self, z):
        length = z.norm(dim=1, keepdim=True)
        return z * (self.radius / length).clamp(max=1.0)


class SmallBall(UniformPrior):
    """A prior of another size, whose bound has another shape."""

    def bound(self, radius):
        return Box() if radius is None else Ball(0.5 * radius)

    def draw(self, seed, rows, dim, *, stream):
        return 0.1 * super().draw(seed, rows, dim, stream=stream)


@pytest.mark.parametrize("recipe", RECIPES)
def test_start_and_bound_are_those_of_the_prior(foreign, recipe):
    prior = SmallBall()
    model = latent_model(foreign, latent_dim=Z, prior=prior)
    far = 2 * torch.from_numpy(UniformPrior().draw(1, range(6), Z, stream="far"))
    with torch.no_grad():
        x = model(far)
    largest = inverter(model, recipe, steps=40)(x, range(6)).z.norm(dim=1).max()
    assert largest > 2 if recipe == "paper" else largest == pytest.approx(0.5, rel=1e-5)
    if recipe in ("paper", "clip"):
        first = next(inverter(model, recipe, seed=3).iterate(x, range(6))).z
        assert torch.equal(first, torch.from_numpy(prior.draw(3, range(6), Z, stream="inversion")))


def test_a_surrogate_learns_beyond_the_prior():
    prior = UniformPrior()
    z = prior.draw_wide(0, 4000, Z, stream="wide")
    assert 1.9 < abs(z).max() <= prior.wide_half_width == 2.0
    assert (abs(z).max(axis=1) > 1).mean() > 0.3
    assert abs(prior.draw(0, range(4000), Z, stream="near")).max() <= prior.half_width == 1.0
