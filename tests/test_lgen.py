"""L-Gen is Table I, learns what the mean shape cannot, and is a function of its seed."""

import numpy as np
import pytest
import torch

from distfacegan.core.diversity import diversity, diversity_ratio
from distfacegan.core.lgen import (
    ACTIVATIONS,
    LandmarkGenerator,
    Variant,
    evaluate,
    landmark_loss,
    mean_shape,
    score,
    split,
)
from distfacegan.core.lgen_training import GRADIENTS, train, train_together
from distfacegan.core.seeding import permutation, uniform_latents

FACE = torch.rand(49, 2, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


def moving_faces(count):
    """Latents, and a face that follows the first two numbers of its latent."""
    z = torch.from_numpy(uniform_latents(0, range(count), 6, stream="test"))
    return z, FACE + 0.1 * z[:, None, :2]


def test_table_1_has_its_parameters():
    # 64-128-128-128-98: 64*128+128 + 2*(128*128+128) + 128*98+98
    network = LandmarkGenerator()
    assert sum(p.numel() for p in network.parameters()) == 8320 + 2 * 16512 + 12642
    assert network(torch.zeros(3, 64)).shape == (3, 49, 2)


def test_the_network_is_table_1_written_out():
    network = LandmarkGenerator(latent_dim=4, depth=2, width=5, num_points=3)
    w = network.state_dict()
    x = z = torch.randn(7, 4)
    for i in (0, 1):
        x = (x @ w[f"hidden.{i}.weight"].T + w[f"hidden.{i}.bias"]).clamp(min=0)
    x = 1 / (1 + (-(x @ w["output.weight"].T + w["output.bias"])).exp())
    torch.testing.assert_close(network(z), x.reshape(7, 3, 2))


def test_equation_4_is_the_mean_over_the_batch_and_the_98_numbers():
    output, target = torch.zeros(2, 49, 2), torch.zeros(2, 49, 2)
    output[0, 0] = torch.tensor([0.3, 0.4])
    target[1, 5, 1] = 0.5
    assert landmark_loss(output, target).item() == pytest.approx((0.09 + 0.16 + 0.25) / (2 * 98))


def test_training_equals_adam_on_shuffled_batches_written_out():
    z, points = moving_faces(10)
    variant = Variant(depth=1, width=3, batch=4, learning_rate=0.01)
    found = train(z, points, variant, epochs=3, seed=2)
    seen = []
    start = train(z, points, variant, epochs=0, seed=2)
    adam = torch.optim.Adam(start.parameters(), lr=0.01)
    for epoch in range(3):
        order = permutation(2, epoch, 10).tolist()
        for rows in (order[:4], order[4:8], order[8:]):
            adam.zero_grad()
            ((start(z[rows]) - points[rows]) ** 2).mean().backward()
            adam.step()
            seen.extend(rows)
    assert sorted(seen) == sorted(list(range(10)) * 3)
    torch.testing.assert_close(found.state_dict(), start.state_dict())


def test_networks_trained_together_are_those_trained_alone():
    z, points = moving_faces(30)
    shape = {"depth": 2, "width": 5, "activation": "silu", "batch": 8}
    variants = [
        Variant(**shape, learning_rate=0.01),
        Variant(**shape, learning_rate=0.003, learning_rate_decay="cosine"),
        Variant(**shape, learning_rate=0.01, weight_decay=0.5),
        Variant(**shape, learning_rate=0.01),
    ]
    seeds = [0, 0, 0, 1]
    together = train_together(z, points, variants, epochs=4, seeds=seeds)
    for network, variant, seed in zip(together, variants, seeds, strict=True):
        alone = train(z, points, variant, epochs=4, seed=seed)
        torch.testing.assert_close(network.state_dict(), alone.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradients_are_those_of_autograd(activation):
    z, points = moving_faces(12)
    variant = Variant(depth=2, width=6, activation=activation, batch=12, learning_rate=1e-3)
    found = train(z, points, variant, epochs=3, seed=0)
    network = train(z, points, variant, epochs=0, seed=0)
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(3):
        adam.zero_grad()
        landmark_loss(network(z), points).backward()
        adam.step()
    assert list(GRADIENTS) == list(ACTIVATIONS)
    torch.testing.assert_close(found.state_dict(), network.state_dict(), rtol=1e-3, atol=1e-5)


def test_networks_of_two_shapes_are_not_trained_together():
    z, points = moving_faces(10)
    with pytest.raises(ValueError, match="only variants of one shape"):
        train_together(z, points, [Variant(), Variant(width=5)], epochs=1, seeds=[0, 0])


def test_a_trained_network_beats_the_mean_shape_by_far_on_rows_it_never_saw():
    z, points = moving_faces(300)
    rows, held_out = split(300, 0.2, seed=0)
    variant = Variant(width=32, depth=2, learning_rate=3e-3)
    network = train(z[rows], points[rows], variant, epochs=40, seed=0)
    found = evaluate(network, z[held_out], points[held_out])
    baseline = score(mean_shape(points[rows]), points[held_out])
    assert found["nme"] < 0.2 * baseline["nme"]
    assert found["loss"] < 0.04 * baseline["loss"]


def test_scores_are_those_worked_out_by_hand():
    truth = FACE.repeat(2, 1, 1)
    truth[:, 19], truth[:, 28] = torch.tensor([0.2, 0.4]), torch.tensor([0.7, 0.4])
    predicted = truth.clone()
    predicted[0] += torch.tensor([0.03, 0.04])  # 0.05 over 0.5 is an NME of 0.1
    assert score(predicted, truth)["nme"] == pytest.approx(0.05, rel=1e-5)
    assert score(predicted, truth)["loss"] == pytest.approx((0.0009 + 0.0016) / 4, rel=1e-5)
    assert score(truth[0], truth) == {"loss": 0, "nme": 0}  # one shape for all rows


def test_the_mean_shape_is_the_mean():
    points = torch.stack([FACE, FACE + 0.1, FACE + 0.2])
    torch.testing.assert_close(mean_shape(points), FACE + 0.1)


@pytest.mark.parametrize("activation", ["relu", "elu", "silu", "tanh"])
def test_training_is_a_function_of_its_seed(activation):
    z, points = moving_faces(20)
    before = torch.get_rng_state()
    variant = Variant(activation=activation, width=4)
    networks = [train(z, points, variant, epochs=2, seed=seed) for seed in (0, 0, 1)]
    first, same, other = (network.state_dict() for network in networks)
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert not torch.equal(first["output.weight"], other["output.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_cosine_decay_and_weight_decay_follow_their_formulas():
    z, points = torch.ones(1, 2), torch.full((1, 49, 2), 0.5)
    variant = Variant(
        depth=1, width=3, learning_rate=0.1, learning_rate_decay="cosine", weight_decay=0.5
    )
    start, found = (train(z, points, variant, epochs=epochs, seed=2) for epochs in (0, 2))
    adamw = torch.optim.AdamW(start.parameters(), weight_decay=0.5)
    for rate in (0.1, 0.05):  # 0.1 * (1 + cos(0)) / 2, 0.1 * (1 + cos(pi / 2)) / 2
        adamw.param_groups[0]["lr"] = rate
        adamw.zero_grad()
        landmark_loss(start(z), points).backward()
        adamw.step()
    torch.testing.assert_close(found.state_dict(), start.state_dict())


def test_the_callback_sees_every_epoch_and_can_stop():
    z, points = moving_faces(20)
    epochs = []

    def on_epoch(epoch, networks):
        assert isinstance(networks[0], LandmarkGenerator)
        epochs.append(epoch)
        if epoch == 3:
            raise StopIteration

    with pytest.raises(StopIteration):
        train_together(z, points, [Variant(width=4)], epochs=5, seeds=[0], on_epoch=on_epoch)
    assert epochs == [1, 2, 3]


def test_an_unknown_activation_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="one of relu, elu, silu, tanh, found 'gelu'"):
        LandmarkGenerator(activation="gelu")


@pytest.mark.parametrize(
    ("num_rows", "share", "num_held_out"), [(10, 0.2, 2), (15, 0.1, 2), (5, 0.01, 1), (2, 0.9, 1)]
)
def test_rows_are_split_once_and_for_all(num_rows, share, num_held_out):
    rows, held_out = split(num_rows, share, seed=3)
    assert len(held_out) == num_held_out
    assert sorted([*rows, *held_out]) == list(range(num_rows))
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(held_out, split(num_rows, share, seed=3)[1])


def test_one_row_cannot_be_split():
    with pytest.raises(ValueError, match="cannot hold out rows of 1"):
        split(1, 0.5, seed=0)


def test_diversity_is_the_mean_difference_of_different_faces():
    # Two faces differ by 3 everywhere; a face is never paired with itself.
    faces = np.stack([np.full((4, 4, 3), 10, "u1"), np.full((4, 4, 3), 13, "u1")])
    assert diversity(faces) == 3
    assert diversity(faces[::-1]) == 3  # 10 - 13 does not wrap
    assert diversity_ratio(np.stack([faces[0]] * 5), faces) == 0
    assert diversity_ratio(faces, faces) == 1


def test_diversity_of_noise_is_that_of_theory():
    noise = np.random.default_rng(0).uniform(-1, 1, size=(100, 500)).astype("f4")
    assert diversity(noise) == pytest.approx(2 / 3, rel=0.01)  # E|x - y| of two uniform ones


def test_diversity_of_one_face_is_refused():
    with pytest.raises(ValueError, match="at least 2 faces, found 1"):
        diversity(np.zeros((1, 4, 4, 3)))
