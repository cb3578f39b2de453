import math

import numpy as np
import pytest
import torch

from sktl.nn import POOLINGS, pool, pooled_shape


def plain(maps, pooling):
    """Each number by itself."""
    rows = []
    for picture in maps.tolist():
        row = []
        for channel in picture:
            values = [value for line in channel for value in line]
            mean, highest = sum(values) / len(values), max(values)
            gem = (sum(max(v, 1e-6) ** 3 for v in values) / len(values)) ** (1 / 3)
            row += {
                "avg": [mean],
                "max": [highest],
                "avgmax": [(mean + highest) / 2],
                "gem": [gem],
                "flatten": values,
            }[pooling]
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("pooling", [p for p in POOLINGS if p != "none"])
def test_pooling_equals_a_plain_loop(pooling):
    maps = torch.randn((3, 5, 4, 2), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(pool(maps, pooling), plain(maps, pooling), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("shape", [(5, 4, 2), (7,)])
def test_pooled_shape_is_the_shape_that_pool_gives(pooling, shape):
    assert tuple(pool(torch.zeros((2, *shape)), pooling).shape[1:]) == pooled_shape(shape, pooling)


def test_gem_of_one_value_is_that_value_and_lies_between_mean_and_maximum():
    assert pool(torch.full((1, 1, 3, 3), 0.7), "gem").item() == pytest.approx(0.7)
    maps = torch.rand((4, 6, 5, 5), generator=torch.Generator().manual_seed(1))
    gem, mean, highest = (pool(maps, p) for p in ("gem", "avg", "max"))
    assert bool(((mean <= gem) & (gem <= highest)).all())


def test_unknown_pooling_is_an_error():
    with pytest.raises(ValueError, match="pooling must be one of"):
        pool(torch.zeros((1, 1, 2, 2)), "mean")


def test_flatten_keeps_the_order_channel_row_column():
    maps = torch.arange(math.prod((1, 2, 2, 3))).reshape(1, 2, 2, 3).float()
    assert pool(maps, "flatten").tolist() == [list(range(12))]
