"""What only a GPU can show; skipped by name where there is none."""

import copy

import pytest
import torch

from distfacegan.core.began import BeganTrainer
from distfacegan.core.inversion import Inverter
from distfacegan.core.latent_model import latent_model
from distfacegan.core.networks import Generator
from distfacegan.core.order import latents_of_step
from distfacegan.core.search import Search
from distfacegan.core.surrogate import SurrogateTraining, draw_thumbnails

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(scope="module")
def generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Generator(resolution=32, latent_dim=16, width=16, levels=3).cuda()


@pytest.fixture(scope="module")
def faces(generator):
    z = torch.rand(64, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        return generator(z.cuda())


@pytest.fixture(scope="module")
def surrogate(generator):
    model = latent_model(generator)
    training = SurrogateTraining(
        model, *draw_thumbnails(model, 0, 4096), seed=0, steps=300, width=64
    )
    while training.num_steps < training.steps:
        training.step()
    return training.surrogate


@pytest.mark.parametrize("recipe", ["clip", "bfgs", "fast"])
def test_no_step_waits_for_the_gpu(generator, faces, surrogate, recipe):
    invert = Inverter(latent_model(generator), Search(recipe=recipe, steps=12), surrogate)
    steps = invert.iterate(faces, range(64))
    next(steps)  # what is made on first use may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        for found in steps:
            last = found
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(last.loss).all()


@pytest.mark.parametrize("recipe", ["clip", "bfgs", "fast"])
def test_it_finds_what_a_cpu_finds(generator, faces, surrogate, recipe):
    search, on_cpu = Search(recipe=recipe, steps=20), copy.deepcopy(generator).cpu()
    there = Inverter(latent_model(generator), search, surrogate)(faces, range(64))
    here = Inverter(latent_model(on_cpu), search, surrogate)(faces.cpu(), range(64))
    assert there.loss.mean() < 1.02 * here.loss.mean() + 1e-4


@pytest.mark.parametrize("recipe", ["clip", "bfgs", "fast"])
def test_bf16_loses_little(generator, faces, surrogate, recipe):
    exact, rounded = (
        Inverter(latent_model(generator), Search(recipe=recipe, precision=precision), surrogate)
        for precision in ("fp32", "bf16")
    )
    assert rounded.model.dtype == torch.bfloat16
    shifted = faces.roll(1, 0) * 0.5  # faces that G cannot make
    loss = rounded(shifted, range(64)).loss.mean()
    assert loss < 1.01 * exact(shifted, range(64)).loss.mean()


TRAINING = {"resolution": 32, "latent_dim": 16, "width": 16, "levels": 3, "steps": 100, "seed": 0}


def train(trainer, steps):
    """Train on the same batches wherever the trainer is."""
    for step in range(steps):
        x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 - 1
        trainer.step(x, torch.from_numpy(latents_of_step(0, step, 8, 16)))
    return trainer.metrics()


@pytest.mark.parametrize("options", [{}, {"latent_constraint": 0.1, "ema": 0.9}])
def test_a_captured_training_step_is_the_cpu_s(options):
    settings = TRAINING | {"lambda_k": 0.1, "loss": "l1"} | options
    found = train(BeganTrainer(**settings, device="cuda"), 12)  # captured at the fourth step
    assert found == pytest.approx(train(BeganTrainer(**settings), 12), rel=0.01)
    assert found["k"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_training_step_waits_for_the_gpu(precision):
    trainer = BeganTrainer(**TRAINING, device="cuda", precision=precision)
    train(trainer, 5)
    x, z = torch.rand(8, 3, 32, 32).cuda(), torch.rand(8, 16).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            trainer.step(x, z)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(trainer.m_global)


def test_compiled_networks_train_as_plain_ones():
    plain = train(BeganTrainer(**TRAINING, device="cuda"), 8)
    assert train(BeganTrainer(**TRAINING, device="cuda", compiled=True), 8) == pytest.approx(
        plain, rel=0.01
    )
