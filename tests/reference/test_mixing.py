"""Mixup and CutMix against plain loops."""

import numpy as np
import pytest
import torch

from sktl.nn import cutmix, mixup
from sktl.training._net import BatchWork


def batch(n=6):
    generator = torch.Generator().manual_seed(0)
    return torch.rand((n, 3, 12, 10), generator=generator), torch.arange(n) % 3


def test_mixup_is_a_plain_loop():
    x, _ = batch()
    mixed = mixup(x, 0.4, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    share, order = rng.beta(0.4, 0.4), rng.permutation(6)
    for i in range(6):
        expected = share * x[i] + (1 - share) * x[order[i]]
        torch.testing.assert_close(mixed.x[i], expected, check_dtype=False)
    assert mixed.share == share


def test_cutmix_shares_are_counted_pixels():
    x, _ = batch()
    for seed in range(30):
        mixed = cutmix(x, 1.0, np.random.default_rng(seed))
        for i in range(6):
            if mixed.other[i] == i:
                continue
            kept = (mixed.x[i] == x[i]).all(0)
            pasted = (mixed.x[i] == x[mixed.other[i]]).all(0)
            assert (kept | pasted).all()
            assert kept.float().mean().item() == pytest.approx(mixed.share, abs=1e-6)
            rows, columns = kept.logical_not().nonzero(as_tuple=True)
            if len(rows):  # one rectangle
                area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
                assert area == len(rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_mixed_pictures_is_that_of_mixed_labels(smoothing):
    """Cross entropy is linear in the labels: the loss equals that of soft labels, by a loop."""
    x, y = batch()
    logits = torch.randn((6, 3), generator=torch.Generator().manual_seed(1))
    work = BatchWork(torch.zeros(1), torch.ones(1), 12)
    work.label_smoothing = smoothing
    mixed = mixup(x, 1.0, np.random.default_rng(0))
    loss = work.loss(logits, y, None, mixed=mixed, training=True)
    total = 0.0
    for i in range(6):
        target = np.full(3, 0.0)
        target[y[i]] += mixed.share
        target[y[mixed.other[i]]] += 1 - mixed.share
        target = (1 - smoothing) * target + smoothing / 3
        powers = np.exp(logits[i].numpy())
        total -= (target * np.log(powers / powers.sum())).sum()
    assert loss.item() == pytest.approx(total / 6, rel=1e-5)


def test_weights_are_of_the_pictures():
    _, y = batch()
    logits = torch.randn((6, 3), generator=torch.Generator().manual_seed(1))
    work = BatchWork(torch.zeros(1), torch.ones(1), 12)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0, 0.0]) * 6 / 4  # 1 on average
    loss = work.loss(logits, y, weight, training=True)
    repeated = work.loss(logits[[0, 2, 2, 4]], y[[0, 2, 2, 4]], None, training=True)
    assert loss.item() == pytest.approx(repeated.item(), rel=1e-6)
