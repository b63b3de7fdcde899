"""Every face is inverted as if it were alone, by equation 3, within the box asked for."""

import pytest
import torch

from distfacegan.core.inversion import Inverter
from distfacegan.core.latent_model import latent_model
from distfacegan.core.networks import Generator
from distfacegan.core.objective import reconstruction_error
from distfacegan.core.recipes import RECIPES
from distfacegan.core.search import Search
from distfacegan.core.seeding import uniform_latents
from distfacegan.core.surrogate import Surrogate, SurrogateTraining, draw_thumbnails
from distfacegan.errors import CheckpointError
from tests.syncs import CountSyncs

Z = 5


@pytest.fixture
def generator():
    """A smooth little generator in float64, so that comparisons are free of rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Generator(resolution=8, latent_dim=Z, width=6, levels=2).double()


def faces(count):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


def inverter(generator, **settings):
    """Return an Inverter, with a little surrogate for the recipes that need one."""
    model, surrogate = latent_model(generator), None
    if RECIPES[settings["recipe"]].needs_surrogate:
        drawn = draw_thumbnails(model, 0, 512)
        training = SurrogateTraining(model, *drawn, seed=0, steps=100, width=32)
        for _ in range(100):
            training.step()
        surrogate = training.surrogate
    return Inverter(model, Search(**settings), surrogate)


def invert(generator, x, *, rows, radius=None, **settings):
    """Invert by Adam, in a box where there is a radius, unless the settings name a recipe."""
    recipe = "paper" if radius is None else "clip"
    return inverter(generator, **{"recipe": recipe, "radius": radius, **settings})(x, rows)


def test_equation_3_is_the_mean_over_each_image():
    first = torch.tensor([[[[1.0, 0.0]]], [[[0.5, -1.0]]]])
    second = torch.tensor([[[[0.0, 0.0]]], [[[1.0, 1.0]]]])
    assert reconstruction_error(first, second).tolist() == [0.5, 1.25]


def test_its_gradient_equals_finite_differences(generator):
    x = faces(1)
    z = torch.linspace(-0.8, 0.9, Z, dtype=torch.float64)[None].requires_grad_()
    (gradient,) = torch.autograd.grad(reconstruction_error(x, generator(z)).sum(), z)
    h = 1e-6 * torch.eye(Z, dtype=torch.float64)
    with torch.no_grad():
        above = reconstruction_error(x, generator(z + h))
        below = reconstruction_error(x, generator(z - h))
    torch.testing.assert_close(gradient[0], (above - below) / 2e-6, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("radius", [None, 0.5])
def test_the_recipe_is_adam_on_each_face_alone_keeping_the_best(generator, radius):
    x, rows, steps = faces(4), [3, 11, 4, 0], 25
    found = invert(generator, x, seed=9, rows=rows, steps=steps, radius=radius)
    for i, row in enumerate(rows):
        z = torch.from_numpy(uniform_latents(9, [row], Z, stream="inversion")).double()
        if radius is not None:
            z = z.clip(-radius, radius)
        z.requires_grad_()
        adam = torch.optim.Adam([z], lr=0.1, betas=(0.9, 0.999))
        history = []
        for step in range(1, steps + 1):
            loss = (x[i] - generator(z)[0]).abs().mean()
            history.append((loss.item(), step, z.detach().clone()[0]))
            adam.zero_grad()
            loss.backward()
            adam.step()
            if radius is not None:
                z.data = z.data.clip(-radius, radius)
        loss, step, best = min(history, key=lambda entry: entry[0])
        assert found.loss[i].item() == pytest.approx(loss, rel=1e-6)
        assert found.steps[i] == step
        torch.testing.assert_close(found.z[i], best.float())


@pytest.mark.parametrize("recipe", ["clip", "bfgs", "fast"])
def test_37_faces_together_equal_37_alone(generator, recipe):
    x = faces(37)
    inverts = inverter(generator, recipe=recipe, steps=8)
    together = inverts(x, range(37))
    for row in range(37):
        alone = inverts(x[row : row + 1], [row])
        torch.testing.assert_close(together.z[row], alone.z[0])
        torch.testing.assert_close(together.loss[row], alone.loss[0])
        assert together.steps[row] == alone.steps[0]


def test_the_start_is_evaluated_and_can_win(generator):
    x, start = faces(3), torch.from_numpy(uniform_latents(0, range(3), Z, stream="inversion"))
    one = invert(generator, x, seed=0, rows=range(3), steps=1)
    torch.testing.assert_close(one.z, start, rtol=0, atol=0)
    assert one.steps.tolist() == [1, 1, 1]
    two = invert(generator, x, seed=0, rows=range(3), steps=2, learning_rate=0.001)
    assert two.steps.tolist() == [2, 2, 2]
    assert (two.loss < one.loss).all()
    far = invert(generator, x, seed=0, rows=range(3), steps=2, learning_rate=50.0)
    assert far.steps.tolist() == [1, 1, 1]
    torch.testing.assert_close(far.z, start, rtol=0, atol=0)


@pytest.mark.parametrize("recipe", ["clip", "bfgs"])
def test_a_face_that_reaches_its_target_is_held_there(generator, recipe):
    with torch.no_grad():
        x = generator(torch.from_numpy(uniform_latents(1, range(6), Z, stream="target")).double())
    full = inverter(generator, recipe=recipe, steps=40)
    curves = torch.stack([found.loss for found in full.iterate(x, range(6))])  # [steps, B]
    target = curves[9].max().item()  # all reach it, at different times
    first = (curves <= target).int().argmax(0) + 1
    assert len(set(first.tolist())) > 1
    held = inverter(generator, recipe=recipe, steps=40, target_loss=target)
    found = held(x, range(6))
    assert found.steps.tolist() == first.tolist()
    assert (found.loss <= target).all()
    one = held(x[2:3], [2])
    torch.testing.assert_close(one.z[0], found.z[2])


def test_a_batch_stops_when_all_its_faces_have_reached_their_target(generator):
    inverts = inverter(generator, recipe="bfgs", steps=1000, target_loss=0.9)
    counted = []
    step = inverts.model.step
    inverts.model.step = lambda *arguments: (counted.append(1), step(*arguments))[1]
    assert (inverts(faces(3), range(3)).loss <= 0.9).all()
    assert len(counted) == 4


@pytest.mark.parametrize("recipe", ["clip", "bfgs", "fast"])
def test_other_starts_differ_by_the_row_alone_and_only_the_better_is_kept(generator, recipe):
    x = faces(4)
    inverts = inverter(generator, recipe=recipe, steps=6)
    first, second = (inverts(x, range(4), starts=start) for start in (0, 1))
    assert (first.z - second.z).abs().amax(1).min() > 1e-3
    assert second.z.abs().max() <= 1
    alone = inverts(x[2:3], [2], starts=[1])
    torch.testing.assert_close(alone.z[0], second.z[2])
    longer = inverts(x, range(4), steps=20)
    found = inverts.again(x, range(4), first, starts=2, steps=20)
    best = torch.minimum(longer.loss, inverts(x, range(4), starts=1, steps=20).loss)
    torch.testing.assert_close(found.loss, torch.minimum(best, first.loss))
    again = reconstruction_error(x, generator(found.z.double())).detach()
    torch.testing.assert_close(again.float(), found.loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("steps", "starts"), [(6, {1, 2}), (7, {0, 1})])
def test_the_first_start_is_tried_again_only_where_it_leads_further(
    generator, monkeypatch, steps, starts
):
    inverts, drawn = inverter(generator, recipe="bfgs", steps=6), []
    start = inverts._start
    monkeypatch.setattr(
        inverts, "_start", lambda *given: (drawn.extend(given[2]), start(*given))[1]
    )
    found = inverts(faces(2), range(2))
    drawn.clear()
    inverts.again(faces(2), range(2), found, starts=2, steps=steps)
    assert set(drawn) == starts


@pytest.mark.parametrize("recipe", ["clip", "bfgs"])
def test_bf16_loses_little_and_its_losses_are_exact(generator, recipe):
    generator, x = generator.float(), faces(16).float()
    exact, rounded = (
        inverter(generator, recipe=recipe, steps=20, precision=precision)(x, range(16))
        for precision in ("fp32", "bf16")
    )
    assert rounded.loss.mean() < 1.005 * exact.loss.mean()
    again = reconstruction_error(x, generator(rounded.z)).detach()
    torch.testing.assert_close(again, rounded.loss, rtol=1e-5, atol=1e-6)
    x[3] = torch.nan
    broken = inverter(generator, recipe=recipe, precision="bf16")(x, range(16))
    assert torch.isfinite(broken.loss).tolist() == [row != 3 for row in range(16)]


@pytest.mark.parametrize("recipe", ["clip", "bfgs", "fast"])
def test_the_box_is_respected_exactly_and_reached(generator, recipe):
    with torch.no_grad():
        x = generator(3 * torch.from_numpy(uniform_latents(1, range(6), Z, stream="far")).double())
    inside = inverter(generator, recipe=recipe, steps=30, radius=0.75)(x, range(6))
    assert inside.z.abs().max() == 0.75
    free = inverter(generator, recipe=recipe, steps=30, radius=None)(x, range(6))
    assert free.z.abs().max() > 1
    assert free.loss.mean() < inside.loss.mean()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_paper_has_no_bound_and_the_others_that_of_the_prior(generator, recipe):
    with torch.no_grad():
        x = generator(3 * torch.from_numpy(uniform_latents(1, range(6), Z, stream="far")).double())
    largest = inverter(generator, recipe=recipe, steps=40)(x, range(6)).z.abs().max()
    assert (largest > 1) == (recipe == "paper")


def test_an_unknown_recipe_is_named_with_those_that_exist(generator):
    with pytest.raises(ValueError, match="one of bfgs, clip, fast, paper, found 'adam'"):
        Inverter(latent_model(generator), Search(recipe="adam"))


def test_faces_the_generator_made_are_approached(generator):
    z = torch.from_numpy(uniform_latents(1, range(8), Z, stream="target")).double()
    with torch.no_grad():
        x = generator(z)
    spread = (x - x.roll(1, 0)).abs().mean()
    found = invert(generator, x, seed=0, rows=range(8), steps=300, radius=1.0)
    assert found.loss.median() < 0.03 * spread
    with torch.no_grad():
        again = reconstruction_error(x, generator(found.z.double()))
    torch.testing.assert_close(again.float(), found.loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("recipe", ["clip", "bfgs", "fast"])
def test_a_face_that_is_not_finite_loses_and_leaves_its_neighbours_alone(generator, recipe):
    x = faces(4)
    inverts = inverter(generator, recipe=recipe, steps=10)
    whole = inverts(x, range(4))
    x[1, 0, 2, 3], x[2, 1, 0, 0] = torch.nan, torch.inf
    found = inverts(x, range(4))
    assert found.loss[[1, 2]].tolist() == [torch.inf, torch.inf]
    assert torch.isfinite(found.z).all()
    for name in ("z", "loss", "steps"):
        same = getattr(found, name)[[0, 3]], getattr(whole, name)[[0, 3]]
        torch.testing.assert_close(*same, rtol=0, atol=0)


def test_bfgs_finds_faces_the_generator_made(generator):
    z = torch.from_numpy(uniform_latents(1, range(50), Z, stream="target"))
    with torch.no_grad():
        x = generator(z.double())
    found = inverter(generator, recipe="bfgs", steps=20)(x, range(50))
    distance = (found.z - z).square().mean(1).sqrt()
    assert (distance < 0.05).float().mean() >= 0.95
    adam = inverter(generator, recipe="clip", steps=100)(x, range(50))
    assert found.loss.mean() < adam.loss.mean()


def test_bfgs_counts_the_evaluation_that_found_the_latent(generator):
    x = faces(5)
    one, two, ten = (inverter(generator, recipe="bfgs", steps=n)(x, range(5)) for n in (1, 2, 10))
    assert one.steps.tolist() == [1] * 5
    assert set(two.steps.tolist()) <= {1, 2}
    assert (two.loss <= one.loss).all()
    assert (ten.loss < one.loss).all()
    assert 2 < ten.steps.max() <= 10
    with torch.no_grad():
        again = reconstruction_error(x, generator(ten.z.double()))
    torch.testing.assert_close(again.float(), ten.loss, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "bfloat16"}, "precision must be fp32 or bf16, found 'bfloat16'"),
        ({"steps": 0}, "steps must be positive, found 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(generator, settings, words):
    with pytest.raises(ValueError, match=words):
        inverter(generator, recipe="clip", **settings)(faces(1), [0])


def test_another_generators_surrogate_is_refused(generator):
    with torch.random.fork_rng():
        other = Surrogate(latent_dim=Z + 1, thumbnail=192, width=8)
    with pytest.raises(CheckpointError, match=r"maps 6 latents to 192 .* this generator 5 to 192"):
        Inverter(latent_model(generator), Search(recipe="fast"), other)


def test_the_generator_is_left_as_it_was(generator):
    generator.train()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    result = invert(generator.float(), faces(2), seed=0, rows=[0, 1], steps=3)
    assert generator.training
    for name, parameter in generator.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is None
        assert torch.equal(parameter, before[name].float())
    assert (result.z.dtype, result.loss.dtype) == (torch.float32, torch.float32)
    assert result.steps.dtype == torch.int32
    assert not result.z.requires_grad


@pytest.mark.parametrize("recipe", ["clip", "bfgs", "fast"])
def test_no_device_sync_in_the_loop(generator, recipe):
    inverts = inverter(generator, recipe=recipe, steps=10)
    with CountSyncs() as syncs:
        steps = list(inverts.iterate(faces(2), [0, 1]))
        assert syncs.found == []
        (steps[-1].loss < 1).all().item()
        steps[-1].loss.cpu()
        steps[-1].loss[steps[-1].loss < 1]
    assert len(syncs.found) == 3
    assert syncs.seen > 100


def test_faces_of_another_resolution_are_refused(generator):
    message = "faces are 16x16 pixels, the generator makes 8x8"
    with pytest.raises(CheckpointError, match=message):
        invert(generator, torch.zeros(2, 3, 16, 16), seed=0, rows=[0, 1])


@pytest.mark.parametrize(
    ("x", "rows", "message"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0, 1], "faces must be floats .* torch.uint8"),
        (torch.zeros(2, 8, 8, 3), [0, 1], r"found torch.float32 \[2, 8, 8, 3\]"),
        (torch.zeros(2, 3, 8, 8), [0], "2 faces need as many rows, found 1"),
    ],
)
def test_faces_in_another_form_are_refused(generator, x, rows, message):
    with pytest.raises(ValueError, match=message):
        invert(generator, x, seed=0, rows=rows)
