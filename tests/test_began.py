"""Equations 1 and 2, and a trainer that follows them, resumes exactly and agrees over ranks."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from distfacegan.core.began import BeganTrainer, Equilibrium
from distfacegan.core.losses import LOSSES
from distfacegan.core.order import latents_of_step, part_of_batch, rows_of_step
from distfacegan.errors import CheckpointError
from tests.syncs import CountSyncs

SMALL = {"resolution": 8, "latent_dim": 6, "width": 4, "levels": 2, "steps": 20, "seed": 0}
FACES = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def double():
    """Compute in float64: the formulas are then compared without the noise of rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def batch_of_step(step, batch=4):
    faces = FACES[rows_of_step(0, step, batch, len(FACES))]
    latents = torch.from_numpy(latents_of_step(0, step, batch, SMALL["latent_dim"]))
    dtype = torch.get_default_dtype()
    return faces.to(dtype), latents.to(dtype)


def run(trainer, steps):
    for step in steps:
        trainer.step(*batch_of_step(step))
    return trainer


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for group in expected:
        assert found[group].keys() == expected[group].keys()
        for name, tensor in expected[group].items():
            assert torch.equal(found[group][name], tensor), f"{group}/{name}"


def test_equation_1_is_the_mean_over_pixels():
    v = torch.tensor([[[[1.0, 0.0], [0.5, -1.0]]]])
    reconstruction = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
    found = {name: loss(v, reconstruction).item() for name, loss in LOSSES.items()}
    assert found == {"l2": (1 + 0 + 0.25 + 4) / 4, "l1": (1 + 0 + 0.5 + 2) / 4}


@pytest.mark.parametrize(
    ("k", "loss_real", "loss_fake", "k_next", "m_global"),
    [
        (0.0, 0.4, 0.1, 0.01, 0.5),  # 0 + 0.1 * (0.5 * 0.4 - 0.1);  0.4 + |0.1|
        (0.5, 0.4, 0.3, 0.49, 0.5),  # 0.5 + 0.1 * (0.2 - 0.3);  0.4 + |-0.1|
        (0.0, 0.4, 0.3, 0.0, 0.5),  # clipped at 0
        (1.0, 0.4, 0.1, 1.0, 0.5),  # clipped at 1
    ],
)
@pytest.mark.parametrize("kind", [float, lambda x: torch.tensor(x, dtype=torch.float64)])
def test_the_equilibrium_follows_the_paper(kind, k, loss_real, loss_fake, k_next, m_global):
    equilibrium = Equilibrium(gamma=0.5, lambda_k=0.1)
    found = equilibrium.update(kind(k), kind(loss_real), kind(loss_fake))
    assert [float(value) for value in found] == pytest.approx([k_next, m_global])


@pytest.mark.parametrize(
    ("loss", "alpha", "skips"), [("l1", 0.0, False), ("l2", 0.0, True), ("l1", 0.1, False)]
)
def test_steps_equal_equations_1_and_2_written_out(double, loss, alpha, skips):
    settings = {"gamma": 0.7, "lambda_k": 0.5, "learning_rate": 0.003, "betas": (0.5, 0.999)}
    options = {"loss": loss, "latent_constraint": alpha, "skip_connections": skips}
    trainer = BeganTrainer(**SMALL, **settings, **options)
    g, d = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    adam_g, adam_d = (torch.optim.Adam(n.parameters(), 0.003, (0.5, 0.999)) for n in (g, d))
    k, power = 0.0, {"l1": 1, "l2": 2}[loss]

    def error(v):
        return (v - d(v)).abs().pow(power).mean()

    for step in range(6):
        x, z = batch_of_step(step)
        trainer.step(x, z)
        loss_real, loss_fake = error(x), error(g(z).detach())
        adam_d.zero_grad()
        constraint = (d.encoder(g(z).detach()) - z).abs().mean()  # BEGAN-CS
        (loss_real - k * loss_fake + alpha * constraint).backward()
        adam_g.zero_grad()
        theta_g = list(g.parameters())
        for parameter, gradient in zip(
            theta_g, torch.autograd.grad(error(g(z)), theta_g), strict=True
        ):
            parameter.grad = gradient
        adam_d.step()
        adam_g.step()
        balance = 0.7 * loss_real.item() - loss_fake.item()
        k = min(max(k + 0.5 * balance, 0), 1)
        expected = {
            "loss_real": loss_real.item(),
            "loss_fake": loss_fake.item(),
            "m_global": loss_real.item() + abs(balance),
            "m_global_mean": loss_real.item() + abs(balance),
            "k": k,
            "learning_rate": 0.003,
        }
        assert trainer.metrics() == pytest.approx(expected, rel=1e-9)
    assert k > 0.1  # so that the fake half of L_D was there
    torch.testing.assert_close(trainer.generator.state_dict(), g.state_dict())
    torch.testing.assert_close(trainer.discriminator.state_dict(), d.state_dict())


def test_training_brings_the_loss_of_real_faces_down():
    trainer = BeganTrainer(**SMALL, learning_rate=0.01)
    flat = FACES[:, :, :1, :1].expand_as(FACES)  # each of one colour
    trainer.step(flat, batch_of_step(0, 12)[1])
    first = trainer.metrics()["loss_real"]
    for step in range(1, 40):
        trainer.step(flat, batch_of_step(step, 12)[1])
    assert trainer.metrics()["loss_real"] < 0.5 * first


@pytest.mark.parametrize(
    ("decay", "rates"),
    [
        ("constant", [0.1] * 8),
        ("linear", [0.1, 0.1, 0.1, 0.1, 0.1, 0.075, 0.05, 0.025]),
        # (1 + cos(pi * [0, 1/4, 1/2, 3/4])) / 2
        ("cosine", [0.1, 0.1, 0.1, 0.1, 0.1, 0.0853553, 0.05, 0.0146447]),
    ],
)
def test_the_learning_rate_falls_over_the_second_half(decay, rates):
    shape = SMALL | {"steps": 8}
    trainer = BeganTrainer(**shape, learning_rate=0.1, learning_rate_decay=decay)
    found = [run(trainer, [step]).metrics()["learning_rate"] for step in range(8)]
    assert found == pytest.approx(rates, rel=1e-5)


def test_m_global_is_averaged_between_two_readings():
    trainer = BeganTrainer(**SMALL)
    seen = [run(trainer, [0]).m_global.item(), run(trainer, [1]).m_global.item()]
    assert trainer.metrics()["m_global_mean"] == pytest.approx(sum(seen) / 2)
    assert run(trainer, [2]).metrics()["m_global_mean"] == pytest.approx(trainer.m_global.item())


def test_the_average_of_g_follows_its_weights_slowly():
    trainer = BeganTrainer(**SMALL, ema=0.25, learning_rate=0.01)
    average = trainer.generator.stem.weight.detach().clone()
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 0.25]):  # quicker at first
        run(trainer, [step])
        average = decay * average + (1 - decay) * trainer.generator.stem.weight.detach()
    torch.testing.assert_close(trainer.averaged.stem.weight, average)
    assert BeganTrainer(**SMALL).averaged is None


def test_a_lower_scale_lowers_the_rate_and_is_kept_in_the_state():
    trainer = BeganTrainer(**SMALL, learning_rate=0.1)
    trainer.learning_rate_scale = 0.25
    assert run(trainer, [0]).metrics()["learning_rate"] == pytest.approx(0.025)
    resumed = BeganTrainer(**SMALL, learning_rate=0.1)
    resumed.load_state(trainer.state())
    assert resumed.learning_rate_scale == 0.25


@pytest.mark.parametrize("options", [{}, {"latent_constraint": 0.1, "ema": 0.9}])
def test_a_step_never_waits_for_the_device(options):
    trainer = BeganTrainer(**SMALL, **options)
    with CountSyncs() as syncs:
        trainer.step(*batch_of_step(0))
    assert syncs.found == []
    assert syncs.seen > 100


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit():
    settings = SMALL | {"learning_rate": 0.01, "learning_rate_decay": "cosine", "lambda_k": 0.1}
    settings |= {"ema": 0.9, "latent_constraint": 0.1, "skip_connections": True}
    whole = run(BeganTrainer(**settings), range(7))
    whole.metrics()  # as at every checkpoint: the mean of m_global begins anew
    run(whole, range(7, 12))
    state = run(BeganTrainer(**settings), range(7)).state()
    resumed = BeganTrainer(**settings | {"seed": 5})
    resumed.load_state(state)
    run(resumed, range(7, 12))
    assert_same_state(resumed.state(), whole.state())
    assert resumed.metrics() == whole.metrics()
    assert whole.state()["optimizers"]["k"] > 0


def test_the_state_of_a_fresh_trainer_can_be_loaded_and_is_a_copy():
    trainer = BeganTrainer(**SMALL)
    state = trainer.state()
    run(trainer, range(2))
    assert_same_state(state, BeganTrainer(**SMALL).state())
    trainer.load_state(state)
    assert_same_state(trainer.state(), state)
    assert all(tensor.is_contiguous() for group in state.values() for tensor in group.values())


def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing():
    trainer = BeganTrainer(**SMALL)
    before = trainer.state()
    with pytest.raises(CheckpointError, match=r"convs.0.bias is \[5\], expected \[4\]"):
        trainer.load_state(BeganTrainer(**SMALL | {"width": 5}).state())
    lacking = {group: dict(tensors) for group, tensors in BeganTrainer(**SMALL).state().items()}
    del lacking["optimizers"]["k"]
    with pytest.raises(CheckpointError, match=r"optimizers/k is absent, expected \[\]"):
        trainer.load_state(lacking)
    assert_same_state(trainer.state(), before)


def test_the_seed_decides_the_weights_and_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    first, same = BeganTrainer(**SMALL), BeganTrainer(**SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_state(first.state(), same.state())
    other = BeganTrainer(**SMALL | {"seed": 1})
    assert not torch.equal(other.generator.stem.weight, first.generator.stem.weight)


@pytest.mark.parametrize("name", ["loss", "precision", "learning_rate_decay"])
def test_an_unknown_choice_is_named_with_those_that_exist(name):
    with pytest.raises(ValueError, match=rf"{name} must be one of .*, found 'nonsense'"):
        BeganTrainer(**SMALL, **{name: "nonsense"})


def test_bf16_follows_fp32_closely():
    fp32 = run(BeganTrainer(**SMALL), range(3))
    bf16 = run(BeganTrainer(**SMALL, precision="bf16"), range(3))
    assert bf16.metrics() == pytest.approx(fp32.metrics(), rel=0.02, abs=1e-4)
    assert bf16.metrics() != fp32.metrics()


def train_as_rank(rank, num_ranks, directory):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=num_ranks
    )
    trainer = BeganTrainer(**SMALL, lambda_k=0.5)
    for step in range(5):
        faces, z = batch_of_step(step)
        trainer.step(faces[rank::num_ranks], z[rank::num_ranks], share=1 / num_ranks)
    torch.save(trainer.state(), f"{directory}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("batch", "world"), [(16, 1), (16, 3), (5, 5), (7, 2)])
def test_a_batch_is_shared_evenly_and_whole(batch, world):
    parts = [part_of_batch(batch, rank, world) for rank in range(world)]
    places = [place for part in parts for place in range(batch)[part]]
    assert places == list(range(batch))
    lengths = [part.stop - part.start for part in parts]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1


def test_two_ranks_agree_with_each_other_and_with_one(tmp_path):
    mp.spawn(train_as_rank, args=(2, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert_same_state(first, second)
    alone = run(BeganTrainer(**SMALL, lambda_k=0.5), range(5)).state()
    # Adam's first steps have the size of the learning rate, 1e-4, whatever the gradient's.
    torch.testing.assert_close(first["generator"], alone["generator"], rtol=0, atol=2e-5)
    k = first["optimizers"]["k"]
    torch.testing.assert_close(k, alone["optimizers"]["k"])
    assert k > 0


def train_uneven_part(rank, num_ranks):
    """Return the state after 50 steps of 16 faces, of which a rank has its part."""
    trainer = BeganTrainer(**SMALL | {"steps": 50}, lambda_k=0.05)
    mine = part_of_batch(16, rank, num_ranks)
    for step in range(50):
        faces, z = batch_of_step(step, 16)
        trainer.step(faces[mine], z[mine], share=(mine.stop - mine.start) / 16)
    return trainer.state()


def train_as_uneven_rank(rank, num_ranks, directory):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=num_ranks
    )
    torch.save(train_uneven_part(rank, num_ranks), f"{directory}/{rank}.pt")
    dist.destroy_process_group()


def test_three_ranks_that_share_16_faces_train_as_one_does(double, tmp_path):
    mp.spawn(train_as_uneven_rank, args=(3, tmp_path), nprocs=3)
    first, *others = (torch.load(tmp_path / f"{rank}.pt") for rank in range(3))
    for other in others:
        assert_same_state(other, first)
    alone = train_uneven_part(0, 1)
    assert alone["optimizers"]["k"] > 0.01  # so that it has a part in the losses
    for group, tensors in alone.items():
        torch.testing.assert_close(first[group], tensors, rtol=1e-9, atol=1e-12)
