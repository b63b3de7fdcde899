"""Lanes: every face once an epoch, a worker only its own shards, the same from any start."""

import itertools

import numpy as np
import pytest

from distfacegan.core.order import Lane

SIZES = [5, 0, 3, 7, 4, 6]
FACES = {(shard, place) for shard, size in enumerate(SIZES) for place in range(size)}


def walk(lane, start, count):
    return [
        (piece.shard, int(place)) for piece in lane.take(start, count) for place in piece.places
    ]


def lane(number, lanes, sizes=SIZES, seed=0):
    return Lane(sizes, seed=seed, lane=number, lanes=lanes)


def test_one_lane_gives_every_face_once_an_epoch_shard_by_shard():
    found = walk(lane(0, 1), 0, 50)
    for epoch in (found[:25], found[25:]):
        assert set(epoch) == FACES
        shards = [shard for shard, _ in epoch]
        assert sum(a != b for a, b in itertools.pairwise(shards)) == 4  # five shards
    assert found[:25] != found[25:]


def test_the_lanes_share_the_shards_of_an_epoch():
    first_epoch = [Lane(SIZES, seed=3, lane=number, lanes=2) for number in (0, 1)]
    pieces = [piece for own in first_epoch for piece in own.take(0, 9)]
    seen = [(piece.shard, int(place)) for piece in pieces for place in piece.places]
    assert len(seen) == len(set(seen)) == 18


@pytest.mark.parametrize("chunk", [1, 4, 13])
def test_a_walk_is_the_same_in_any_steps_and_from_any_start(chunk):
    whole = walk(lane(1, 2), 0, 104)
    stepped, one = [], lane(1, 2)
    for start in range(0, 104, chunk):
        stepped += walk(one, start, chunk)
    assert stepped[:104] == whole
    assert walk(one, 20, 30) == whole[20:50]  # back
    assert walk(lane(1, 2), 90, 14) == whole[90:]


def test_what_follows_is_known_before_it_is_needed():
    one = lane(0, 2)
    for start in range(40):
        following = one.following
        shard = one.shard
        piece = one.take(start, 1)[0]
        assert piece.shard in (shard, following)


def test_another_seed_is_another_order():
    assert walk(lane(0, 1), 0, 25) != walk(lane(0, 1, seed=1), 0, 25)


def test_a_lane_without_a_shard_is_refused():
    with pytest.raises(ValueError, match="lane 1 of 2 needs a shard with faces"):
        lane(1, 2, sizes=[4, 0])


def test_the_order_within_a_shard_changes_with_the_epoch():
    orders = np.array([[place for _, place in walk(lane(0, 1, [40]), 40 * e, 40)] for e in (0, 1)])
    assert (np.sort(orders) == np.arange(40)).all()
    assert (orders[0] != orders[1]).any()
