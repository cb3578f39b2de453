"""InfoNCE, patches and contexts against slow plain loops; and that no context sees its target."""

import math

import numpy as np
import pytest
import torch

from sktl.nn import (
    CPCNetwork,
    PatchGrid,
    RowContext,
    cut_patches,
    info_nce,
    small_encoder,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_info_nce(predictions, targets, temperature, candidates):
    """Loss and accuracy, one prediction after the other; candidates: own target first."""
    losses, right = [], 0
    for i, own in enumerate(candidates):
        p = predictions[i] / np.linalg.norm(predictions[i])
        scores = [p @ targets[j] / np.linalg.norm(targets[j]) / temperature for j in own]
        losses.append(-scores[0] + math.log(sum(math.exp(s) for s in scores)))
        right += scores[0] == max(scores)
    return np.mean(losses), right / len(candidates)


def test_info_nce_is_a_plain_loop():
    predictions, targets = random(7, 5), random(7, 5, seed=1) + 0.5 * random(7, 5)
    everything = [[i, *(j for j in range(7) if j != i)] for i in range(7)]
    loss, accuracy = plain_info_nce(predictions.numpy(), targets.numpy(), 0.2, everything)
    contrast = info_nce(predictions, targets, temperature=0.2)
    assert contrast.loss.item() == pytest.approx(loss, rel=1e-5)
    assert contrast.accuracy.item() == pytest.approx(accuracy)
    assert contrast.n_candidates == 7


def test_info_nce_with_drawn_negatives_is_a_plain_loop():
    predictions, targets = random(9, 4), random(9, 4, seed=1)
    contrast = info_nce(
        predictions, targets, n_negatives=3, generator=torch.Generator().manual_seed(5)
    )
    drawn = torch.randperm(9, generator=torch.Generator().manual_seed(5))[:4].tolist()
    candidates = [
        [i, *(j for j in drawn if j != i)] if i in drawn else [i, *drawn[:-1]] for i in range(9)
    ]
    assert all(len(own) == 4 for own in candidates)
    loss, accuracy = plain_info_nce(predictions.numpy(), targets.numpy(), 0.1, candidates)
    assert contrast.loss.item() == pytest.approx(loss, rel=1e-5)
    assert contrast.accuracy.item() == pytest.approx(accuracy)
    assert contrast.n_candidates == 4


@pytest.mark.parametrize("n_negatives", [None, 5, 20, 63])
def test_equal_targets_share_the_highest_score(n_negatives):
    collapsed = torch.ones(100, 16)
    contrast = info_nce(collapsed, collapsed, n_negatives=n_negatives)
    assert contrast.accuracy.item() == pytest.approx(1 / contrast.n_candidates)
    constant = info_nce(random(100, 16), collapsed, n_negatives=n_negatives)
    assert constant.accuracy.item() == pytest.approx(1 / contrast.n_candidates)
    twins = torch.eye(8).repeat(2, 1)  # each target has one that is equal
    assert info_nce(twins, twins).accuracy.item() == pytest.approx(0.5)


@pytest.mark.parametrize("n_negatives", [None, 50])
def test_info_nce_under_autocast_is_that_of_float32(n_negatives):
    predictions, targets = random(300, 64), random(300, 64, seed=1)
    halves = predictions.bfloat16(), targets.bfloat16()
    options = {"temperature": 0.01, "n_negatives": n_negatives}
    with torch.autocast("cpu", torch.bfloat16):
        contrast = info_nce(*halves, **options, generator=torch.Generator().manual_seed(5))
    expected = info_nce(
        *(x.float() for x in halves), **options, generator=torch.Generator().manual_seed(5)
    )
    assert contrast.loss.dtype == torch.float32
    assert contrast == expected
    doubles = info_nce(predictions.double(), targets.double())
    assert doubles.loss.dtype == torch.float64


@pytest.mark.parametrize(("size", "stride"), [(8, 4), (7, 7), (5, 3)])
def test_patches_are_a_plain_loop(size, stride):
    x = random(2, 3, 29, 28)
    patches = cut_patches(x, size, stride)
    rows, columns = (29 - size) // stride + 1, (28 - size) // stride + 1
    assert patches.shape == (2, rows, columns, 3, size, size)
    for r in range(rows):
        for c in range(columns):
            top, left = r * stride, c * stride
            expected = x[:, :, top : top + size, left : left + size]
            assert torch.equal(patches[:, r, c], expected)


def test_a_convolution_of_rows_is_a_masked_convolution():
    context = RowContext(4, n_layers=1)
    z = random(2, 4, 5, 6)
    weight, bias = context.convolutions[0].weight, context.convolutions[0].bias
    kernel = torch.zeros(4, 4, 3, 3)
    kernel[:, :, :2] = weight.detach()  # this row and the one above; nothing below
    expected = z.clone()
    padded = torch.nn.functional.pad(z, (1, 1, 1, 1))
    for r in range(5):
        for c in range(6):
            window = padded[:, :, r : r + 3, c : c + 3]
            value = torch.einsum("nihw,oihw->no", window, kernel) + bias.detach()
            expected[:, :, r, c] += value.relu()
    torch.testing.assert_close(context(z).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["pixelcnn", "gru"])
@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize(("size", "stride"), [(8, 4), (8, 8), (6, 2)])
def test_no_context_sees_a_pixel_of_what_it_predicts(kind, directions, size, stride):
    """Changed pixels of a target leave every prediction of it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        grid = PatchGrid(small_encoder(8), size, stride)
        first = -(-size // stride)
        network = CPCNetwork(grid, 8, kind, directions, first_step=first, n_steps=2).eval()
    x = random(1, 3, 28, 28)

    def predictions(pixels):
        z = grid(pixels)
        found = []
        for turn, context, predictors in zip(
            network.turns, network.contexts, network.predictors, strict=True
        ):
            c = context(torch.rot90(z, turn, (2, 3)))
            found.append([predictor(c) for predictor in predictors])
        return found

    with torch.no_grad():
        before = predictions(x)
        n_rows = before[0][0].shape[2]
        seen = 0
        for target in range(first, n_rows):
            for number, turn in enumerate(network.turns):
                # In the turned picture: the rows of pixels of the target's patches.
                turned = torch.rot90(x, turn, (2, 3)).clone()
                margin = 28 - ((28 - size) // stride * stride + size)
                top = target * stride + (margin if turn in (1, 2) else 0)
                turned[:, :, top : top + size] += 3.0
                after = predictions(torch.rot90(turned, -turn, (2, 3)))
                for step, (old, new) in enumerate(
                    zip(before[number], after[number], strict=True), start=first
                ):
                    row = target - step
                    if row >= 0:
                        assert torch.equal(old[:, :, row], new[:, :, row])
                        seen += 1
                changed = after[number][0][:, :, target] != before[number][0][:, :, target]
                assert changed.any(), "the perturbation does nothing at all"
    assert seen > 0


def test_targets_are_from_the_rows_that_are_predicted():
    """A network whose latents tell their row and column apart predicts them perfectly."""
    network = CPCNetwork(PatchGrid(torch.nn.Identity(), 4, 4), 36, first_step=1, n_steps=2)
    z = torch.eye(36).view(1, 6, 6, 36).permute(0, 3, 1, 2)

    class Up(torch.nn.Module):
        def __init__(self, step):
            super().__init__()
            self.step = step

        def forward(self, c):
            return c  # the context is the target itself

    class Next(torch.nn.Module):
        def forward(self, grid):
            return torch.roll(grid, -1, 2)

    network.grid.encode = lambda patches: z
    network.contexts[0] = Next()
    network.predictors[0] = torch.nn.ModuleList([Up(1), Up(2)])
    first, second = network.contrasts(None)
    assert first.accuracy == 1.0
    assert (first.n_candidates, second.n_candidates) == (30, 24)
    assert second.accuracy < 0.5
