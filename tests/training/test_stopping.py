"""When to stop, by hand-made curves of the loss."""

import numpy as np
import pytest

from sktl.training import Patience, PrecheltUP


@pytest.mark.parametrize(
    ("losses", "stops"),
    [([], False), ([3, 2, 1], False), ([1, 2, 2], True), ([1, 2, 0.9], False), ([2, 2, 2], True)],
)
def test_patience(losses, stops):
    assert Patience(2).stops(losses) is stops


def test_patience_wants_a_fall_of_some_size():
    losses = [1.0, 0.99, 0.98]
    assert not Patience(2).stops(losses)
    assert Patience(2, min_delta=0.1).stops(losses)


def first_stop(criterion, losses):
    return next((n for n in range(1, len(losses) + 1) if criterion.stops(losses[:n])), None)


def test_prechelt_compares_ends_of_strips():
    #        strip 1    strip 2    strip 3    strip 4
    losses = [9, 8, 5, 4, 9, 6, 7, 2, 7, 3, 1, 8]
    assert first_stop(PrecheltUP(strip=3, successive=1), losses) == 6
    assert first_stop(PrecheltUP(strip=3, successive=2), losses) == 9
    assert first_stop(PrecheltUP(strip=3, successive=3), losses) == 12
    assert first_stop(PrecheltUP(strip=3, successive=4), losses) is None


def test_prechelt_agrees_with_its_definition():
    """UP_s stops at t iff UP_(s-1) stops at t - k and E(t) > E(t - k); UP_1 iff E(t) > E(t - k)."""

    def stops(losses, t, k, s):
        if t - k < 1 or t % k:
            return False
        rises = losses[t - 1] > losses[t - k - 1]
        return rises and (s == 1 or stops(losses, t - k, k, s - 1))

    rng = np.random.default_rng(0)
    for _ in range(50):
        losses, k, s = rng.random(24).tolist(), rng.integers(1, 5), rng.integers(1, 4)
        for t in range(1, 25):
            criterion = PrecheltUP(strip=int(k), successive=int(s))
            assert criterion.stops(losses[:t]) == stops(losses, t, k, s)
