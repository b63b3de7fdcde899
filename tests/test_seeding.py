"""Latents and data order are functions of their address, and nothing else."""

import hashlib

import numpy as np
import pytest

from distfacegan.core.order import latents_of_step, rows_of_step
from distfacegan.core.seeding import permutation, uniform_latents


def test_latents_are_uniform_in_the_box():
    latents = uniform_latents(0, range(2000), 50, stream="test")
    assert latents.shape == (2000, 50)
    assert latents.dtype == np.float32
    assert latents.min() >= -1
    assert latents.max() <= 1
    counts, _ = np.histogram(latents, bins=10, range=(-1, 1))
    # 10,000 expected in each bin, with a standard deviation of 95.
    assert np.abs(counts - 10_000).max() < 5 * 95
    # Neighbouring rows and columns do not follow each other: 1e5 products of variance 1/9.
    assert abs((latents[1:] * latents[:-1]).mean()) < 5 / 3 / np.sqrt(1e5)
    assert abs((latents[:, 1:] * latents[:, :-1]).mean()) < 5 / 3 / np.sqrt(1e5)


@pytest.mark.parametrize(
    "rows", [[7], [3, 4, 5, 6], [6, 5, 4, 3], [0, 9, 2, 3, 9], [], [10**12, 10**12 + 1, 1]]
)
def test_a_row_has_the_same_latent_in_any_company(rows):
    together = uniform_latents(1, rows, 10, stream="test")
    alone = [uniform_latents(1, [row], 10, stream="test") for row in rows]
    np.testing.assert_array_equal(together, np.concatenate([np.empty((0, 10), "f4"), *alone]))


def test_latents_are_philox_numbers_at_the_row_s_own_counts():
    key = int.from_bytes(hashlib.blake2b(b"3/test", digest_size=16).digest(), "little")
    # 10 numbers take 3 counts of 4, so row 5 begins at count 15.
    bits = np.random.Philox(key=key, counter=15).random_raw(10)
    expected = (bits // 2**40).astype("f8") / 2**23 - 1
    np.testing.assert_array_equal(uniform_latents(3, [5], 10, stream="test")[0], expected)


def test_every_part_of_the_address_counts():
    first = uniform_latents(0, [0], 8, stream="a")
    for seed, row, stream in [(1, 0, "a"), (0, 1, "a"), (0, 0, "b")]:
        assert not np.isin(uniform_latents(seed, [row], 8, stream=stream), first).any()


def test_a_permutation_holds_every_row_once_and_differs_between_epochs():
    orders = [permutation(0, 0, 101), permutation(0, 1, 101), permutation(1, 0, 101)]
    for order in orders:
        assert sorted(order) == list(range(101))
    assert len({tuple(order) for order in orders}) == 3
    with pytest.raises(ValueError, match="read-only"):
        orders[0][0] = 5  # it is shared


@pytest.mark.parametrize(("batch", "num_rows"), [(4, 12), (5, 12), (16, 6)])
def test_steps_walk_through_every_row_once_an_epoch(batch, num_rows):
    steps = [rows_of_step(0, step, batch, num_rows) for step in range(12)]
    walk = np.concatenate(steps)
    assert {len(rows) for rows in steps} == {batch}
    for epoch in range(len(walk) // num_rows):
        rows = walk[epoch * num_rows : (epoch + 1) * num_rows]
        np.testing.assert_array_equal(rows, permutation(0, epoch, num_rows))


def test_no_two_steps_share_a_latent():
    steps = np.concatenate([latents_of_step(0, step, 4, 6) for step in range(5)])
    assert len(np.unique(steps, axis=0)) == 20
