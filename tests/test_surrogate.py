"""The surrogate learns G's thumbnails, knows its own derivative and starts the search nearer."""

import pytest
import torch

from distfacegan.core import thumbnail
from distfacegan.core.inversion import Inverter
from distfacegan.core.latent_model import latent_model
from distfacegan.core.networks import Generator
from distfacegan.core.search import Search
from distfacegan.core.seeding import uniform_latents
from distfacegan.core.surrogate import Surrogate, SurrogateTraining, draw_thumbnails, unexplained
from distfacegan.core.thumbnail import Linearisation, gauss_newton, thumbnails
from distfacegan.stages import surrogate as stage
from distfacegan.store import weight_files

Z = 5
SETTINGS = {"seed": 1, "pictures": 1500, "steps": 400, "width": 64}


@pytest.fixture(scope="module")
def generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Generator(resolution=16, latent_dim=Z, width=6, levels=2)


@pytest.fixture(scope="module")
def trained(generator):
    training = begin(generator)
    while training.num_steps < training.steps:
        training.step()
    return training.surrogate


def begin(generator):
    model = latent_model(generator)
    return SurrogateTraining(model, *draw_thumbnails(model, 1, 1500), seed=1, steps=400, width=64)


def latents(count, stream):
    return torch.from_numpy(uniform_latents(7, range(count), Z, stream=stream))


def test_a_thumbnail_is_made_of_means():
    images = torch.arange(4.0 * 32 * 32).view(1, 4, 32, 32)[:, :3]
    assert thumbnails(images).shape == (1, 3 * 16 * 16)
    assert thumbnails(images)[0, 0] == (0 + 1 + 32 + 33) / 4


def test_the_curvature_is_worked_out_by_hand(monkeypatch):
    jacobian = torch.tensor([[1.0, 0.0], [2.0, 4.0]])  # of two latents, two numbers of a thumbnail
    monkeypatch.setattr(thumbnail, "ROUNDING", 0.5)  # epsilon is 0.5 * (0.5 + 1.5) / 2 = 0.5
    found = gauss_newton(jacobian, torch.tensor([[0.5, -1.5]]))
    # Weights 1 / (0.5 + 0.5) = 1 and 1 / (1.5 + 0.5) = 0.5, and a mean of two numbers.
    expected = torch.tensor([[[0.5, 1.0], [1.0, (4.0 + 0.5 * 16) / 2]]])
    torch.testing.assert_close(found, expected)


def test_the_linearisation_is_the_derivative_and_meets_the_thumbnail_it_is_shown(generator):
    known = Linearisation(latent_model(generator.double()), torch.float64)
    exact = torch.autograd.functional.jacobian(
        lambda z: thumbnails(generator(z))[0], torch.zeros(1, Z).double()
    )[:, 0].T
    torch.testing.assert_close(known.jacobian, exact, rtol=1e-2, atol=1e-3)
    z = latents(3, "z").double()
    seen = thumbnails(generator(z)).detach()
    generator.float()
    told = known.thumbnail + torch.einsum("bz,bzp->bp", z, known.jacobian_at(z, seen))
    torch.testing.assert_close(told, seen)


def test_its_jacobian_is_its_derivative(trained):
    z = latents(3, "z")
    exact = torch.func.vmap(torch.func.jacrev(trained))(z).mT
    torch.testing.assert_close(trained.jacobian_at(z), exact, rtol=1e-4, atol=1e-5)


def test_it_explains_thumbnails_it_has_not_seen(generator, trained):
    z, seen = draw_thumbnails(latent_model(generator), seed=2, count=300)
    assert z.abs().max() > 1.5  # beyond the box too
    untrained = unexplained(begin(generator).surrogate, z, seen)
    assert unexplained(trained, z, seen) < 0.25 * untrained


def test_an_interrupted_training_equals_one_that_was_not(generator, trained):
    first = begin(generator)
    while first.num_steps < 150:
        first.step()
    second = begin(generator)
    second.load_state(first.state())
    while second.num_steps < second.steps:
        second.step()
    expected = trained.state_dict()
    torch.testing.assert_close(second.surrogate.state_dict(), expected, rtol=0, atol=0)


def test_it_starts_the_search_nearer(generator, trained):
    model = latent_model(generator)
    with torch.no_grad():
        faces = model(latents(40, "target"))
    fast = Inverter(model, Search(recipe="fast", steps=2), trained)(faces, range(40))
    bfgs = Inverter(model, Search(recipe="bfgs", steps=2))(faces, range(40))
    assert fast.loss.mean() < 0.7 * bfgs.loss.mean()
    found = Inverter(model, Search(recipe="fast", steps=15), trained)(faces, range(40))
    distance = (found.z - latents(40, "target")).square().mean(1).sqrt()
    assert (distance < 0.05).float().mean() >= 0.95


def test_without_a_surrogate_fast_says_so(generator):
    with pytest.raises(ValueError, match="recipe fast needs the surrogate"):
        Inverter(latent_model(generator), Search(recipe="fast"))


def test_it_is_made_once_and_goes_on_where_it_was_interrupted(generator, tmp_path, monkeypatch):
    weight_files.save(tmp_path / "g", {"generator": generator.state_dict()}, {})
    made_of = {**SETTINGS, "generator": "digest"}
    whole, folder = tmp_path / "whole" / "surrogate", tmp_path / "broken" / "surrogate"
    stage.prepare(whole, tmp_path / "g", made_of, device="cpu")

    monkeypatch.setattr(stage, "CHECKPOINT_EVERY", 100)
    step, calls = SurrogateTraining.step, []

    def interrupted(training):
        step(training)
        calls.append(training.num_steps)
        if len(calls) == 250:
            raise KeyboardInterrupt

    monkeypatch.setattr(SurrogateTraining, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage.prepare(folder, tmp_path / "g", made_of, device="cpu")
    assert not stage.is_ready(folder, made_of)
    stage.prepare(folder, tmp_path / "g", made_of, device="cpu")
    assert calls[250] == 201  # from the checkpoint of step 200
    assert stage.is_ready(folder, made_of)
    assert not stage.is_ready(folder, {**made_of, "generator": "another"})
    stage.discard_drafts(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["surrogate"]
    torch.testing.assert_close(
        weight_files.load(folder, "surrogate"),
        weight_files.load(whole, "surrogate"),
        rtol=0,
        atol=0,
    )
    assert Surrogate.from_state_dict(weight_files.load(whole, "surrogate")).first.out_features == 64
