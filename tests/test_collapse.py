"""What a collapse looks like, and when it is said to be one."""

import numpy as np
import pytest

from distfacegan.core.collapse import CollapseMonitor, Plateau, encoder_distance


def codes(count, means, deviations, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((count, len(means))) * deviations + means


def test_the_distance_of_independent_normal_codes_is_the_one_worked_out_by_hand():
    generated = codes(200_000, [1.0, 0.0], [1.0, 1.0])
    real = codes(200_000, [0.0, 0.0], [2.0, 1.0], seed=1)
    # |m1 - m2|^2 = 1; tr(S1 + S2 - 2 (S1 S2)^1/2) = (1 - 2)^2 + (1 - 1)^2 = 1; tr S2 = 4 + 1
    assert encoder_distance(generated, real) == pytest.approx(2 / 5, rel=0.02)


def test_the_distance_is_0_from_itself_1_for_the_mean_face_and_blind_to_rotation():
    real = codes(500, [3.0, -1.0, 0.5], [1.0, 0.1, 2.0]) @ np.linalg.qr(codes(3, [0] * 3, 1.0))[0]
    assert encoder_distance(real, real) == pytest.approx(0.0, abs=1e-9)
    assert encoder_distance(np.tile(real.mean(0), (500, 1)), real) == pytest.approx(1.0)
    other = codes(400, [0.0, 0.0, 1.0], [2.0, 0.5, 1.0], seed=3)
    turn = np.linalg.qr(codes(3, [0] * 3, 1.0, seed=4))[0]
    assert encoder_distance(other @ turn, real @ turn) == pytest.approx(
        encoder_distance(other, real)
    )


def test_codes_of_one_dimension_are_compared_and_codes_that_are_no_numbers_are_not():
    real = codes(100_000, [0.0], [2.0])
    # (1 - 0)^2 + (1 - 2)^2 over 2^2
    assert encoder_distance(codes(100_000, [1.0], [1.0], 1), real) == pytest.approx(0.5, rel=0.03)
    assert np.isnan(encoder_distance(np.full((5, 1), np.nan), real))


def monitor(**memory):
    return CollapseMonitor(min_diversity=0.2, grace=1000, patience=3, **memory)


def test_faces_may_be_alike_until_they_were_varied_or_the_grace_is_over():
    watch = monitor()
    assert watch.judge(100, 0.01, 0.1) is None
    assert watch.judge(999, 0.01, 0.1) is None
    assert "0.010 of the diversity" in watch.judge(1000, 0.01, 0.1)
    assert watch.judge(1100, 0.3, 0.1) is None
    watch = monitor()
    assert watch.judge(100, 0.3, 0.1) is None
    assert "less than 0.2" in watch.judge(200, 0.19, 0.1)


def test_k_may_touch_its_ends_but_not_stay_there():
    watch = monitor()
    found = [watch.judge(step, 0.5, k) for step, k in enumerate([0.0, 0.0, 0.1, 1.0, 1.0, 1.0])]
    assert found == [None] * 5 + ["k has been at 1 for 3 looks"]


def test_a_resumed_monitor_remembers_what_it_has_seen():
    first = monitor()
    first.judge(100, 0.3, 0.0)
    again = monitor(**first.memory())
    assert again == first
    assert again.judge(200, 0.1, 0.1) is not None


def test_what_is_not_a_number_is_not_judged():
    assert monitor().judge(5000, float("nan"), 0.5) is None


def test_the_rate_is_halved_after_a_stall_and_again_after_another():
    plateau = Plateau(stall=300)
    means = [0.5, 0.4, 0.41, 0.42, 0.4, 0.45, 0.43, 0.39, 0.5]
    found = [plateau.factor(100 * (i + 1), mean) for i, mean in enumerate(means)]
    # best at 200: stalls at 500; nothing better by 800, but 0.39 comes at 800
    assert found == [1, 1, 1, 1, 0.5, 1, 1, 1, 1]
    assert Plateau(stall=300, **plateau.memory()) == plateau
    assert [Plateau(stall=None).factor(step, 1.0) for step in (1, 10**6)] == [1, 1]
