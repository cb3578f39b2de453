"""Convolutions that are computed in tiles are convolutions, but for rounding."""

import numpy as np
import openvino
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from sktl import CNNFeatures
from sktl.backbones import Backbone, Preprocessing
from sktl.engine import Recipe, _exported, _runner, _runtime, _winograd
from sktl.engine._exported import Export, exported
from sktl.engine._openvino import as_openvino
from sktl.engine._three_products import in_three_products

CPU = torch.device("cpu")
CORE = openvino.Core()


class Several(nn.Module):
    """Convolutions that follow each other, that share an input, and whose results are shared."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 64, 3)
            self.first = nn.Conv2d(64, 96, 3, padding=(0, 2))
            self.second = nn.Conv2d(96, 64, 3, padding=1, bias=False)
            self.third = nn.Conv2d(96, 64, 3, padding=1)
            self.pool = nn.MaxPool2d(2)
            self.last = nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        both = torch.relu(self.first(x))
        one = self.second(both)
        other = torch.relu(self.third(both) + one)
        return x, one, other, nn.functional.silu(self.last(self.pool(other)))


class Others(nn.Module):
    """Convolutions that stay what they are, and one that does not."""

    def __init__(self):
        super().__init__()
        kinds = {
            "strided": {"stride": 2, "padding": 1},
            "dilated": {"dilation": 2},
            "grouped": {"groups": 2},
            "five": {"kernel_size": 5},
            "narrow": {"out_channels": 32},
            "tiled": {},
            "padded": {"padding": "same"},
        }
        usual = {"in_channels": 64, "out_channels": 64, "kernel_size": 3}
        self.kinds = nn.ModuleDict({k: nn.Conv2d(**(usual | v)) for k, v in kinds.items()})
        self.small = nn.Conv2d(64, 64, 3)

    def forward(self, x):
        x = x.repeat(1, 22, 1, 1)[:, :64]
        return [kind(x) for kind in self.kinds.values()] + [self.small(x[..., :7, :7])]


def convolutions(model):
    return [op for op in model.get_ops() if "Convolution" in op.get_type_name()]


def results(model, x):
    compiled = CORE.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = compiled([x.permute(0, 2, 3, 1).contiguous().numpy()])
    return [torch.from_numpy(given[out].copy()) for out in compiled.outputs]


def own(module, size=44):
    return Backbone(module.eval(), preprocessing=Preprocessing(size=size, resize=size))


def distances(found, exact):
    return np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)


@pytest.mark.parametrize("cached", [_winograd._CACHED, 100_000])
@pytest.mark.parametrize("size", [(37, 30), (32, 33)])
def test_tiles_are_what_convolutions_give(monkeypatch, size, cached):
    monkeypatch.setattr(_winograd, "_CACHED", cached)  # several parts, of different lengths
    network = Several().eval()
    x = torch.randn((2, 3, *size), generator=torch.Generator().manual_seed(1))
    model = _winograd.in_tiles(CORE, as_openvino(network, x))
    assert len(convolutions(model)) == 1
    with torch.inference_mode():
        expected = network.double()(x.double())
    for one, exact in zip(results(model, x), expected, strict=True):
        assert one.shape == exact.shape
        assert (one - exact).abs().max() < 1e-5 * exact.abs().max()


def test_other_convolutions_stay():
    network, x = Others().eval(), torch.rand(2, 3, 24, 24)
    before = as_openvino(network, x)
    after = _winograd.in_tiles(CORE, before.clone())
    assert len(convolutions(before)) == 8
    assert len(convolutions(after)) == 6
    for one, other in zip(results(after, x), results(before, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    del network.kinds["tiled"], network.kinds["padded"]
    with pytest.raises(ValueError, match="other convolutions"):
        _winograd.in_tiles(CORE, as_openvino(network, x))


def test_large_pictures_do_not_make_models_long(monkeypatch):
    x = torch.rand(2, 3, 64, 64)
    model = as_openvino(Several().eval(), x)
    short = len(_winograd.in_tiles(CORE, model.clone()).get_ops())
    monkeypatch.setattr(_winograd, "_CACHED", 1)
    monkeypatch.setattr(_winograd, "_MOST_PARTS", 3)
    longer = len(_winograd.in_tiles(CORE, model.clone()).get_ops())
    assert short < longer < 3 * short


def test_most_of_a_network():
    class Mixed(nn.Sequential):
        def __init__(self, n_others):
            others = [nn.Conv2d(64, 64, 3, padding=2, dilation=2) for _ in range(n_others)]
            tiled = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)]
            super().__init__(nn.Conv2d(3, 64, 1), *tiled, *others)

    x = torch.rand(2, 3, 16, 16)
    assert len(convolutions(_winograd.most_in_tiles(CORE, as_openvino(Mixed(1), x)))) == 2
    with pytest.raises(ValueError, match="most of the time"):
        _winograd.most_in_tiles(CORE, as_openvino(Mixed(2), x))
    n, weights = 64 * 64 * 9, 64 * 3
    assert _winograd.part_in_tiles(Mixed(2)) == pytest.approx(3 * n / (5 * n + weights))
    assert _winograd.part_in_tiles(nn.Linear(2, 2)) == 0


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_numbers_of_any_size(scale):
    x = scale * torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    model = as_openvino(Several().eval(), x)
    expected = results(model, x)
    for one, other in zip(results(_winograd.in_tiles(CORE, model), x), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * float(other.abs().max()))


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_batches_of_any_size_give_the_same_bits(monkeypatch, n):
    monkeypatch.setattr(_exported, "has_matrix_units", lambda: False)
    recipe = Recipe(("last",), pooling="flatten")
    runner = exported("openvino", Export(own(Several()), recipe), CPU, 4)
    assert runner.rewrite is _winograd.in_tiles
    pixels = np.random.default_rng(n).integers(0, 256, (n, 1, 44, 44, 3), dtype=np.uint8)
    together = runner.maps(pixels)[0]
    assert len(together) == n
    np.testing.assert_array_equal(
        together, torch.cat([runner.maps(row[None])[0] for row in pixels])
    )


@pytest.mark.parametrize("layer", ["features.1", "features.20", ["features.7", "classifier.3"]])
def test_features_of_real_pictures(monkeypatch, layer):
    monkeypatch.setattr(_exported, "has_matrix_units", lambda: False)
    rewritten = []

    def counted(core, model):
        rewritten.append(_winograd.in_tiles(core, model))
        return rewritten[-1]

    monkeypatch.setattr(_exported, "in_tiles", counted)
    images = load_sample_images().images
    asked = {"layer": layer, "weights": None, "image_size": 96, "store": None}
    expected = CNNFeatures("vgg11", precision="exact", **asked).fit_transform(images)
    features = CNNFeatures("vgg11", runtime="openvino", **asked).fit_transform(images)
    assert len(rewritten) == (layer != "features.1")  # that is the first convolution alone
    assert distances(features, expected).max() < 2e-5


def test_rough_sums_are_noticed(monkeypatch):
    monkeypatch.setattr(_exported, "has_matrix_units", lambda: False)
    monkeypatch.setattr(_winograd, "_B", np.round(np.array(_winograd._B) * 1.1, 1))
    runner = exported("openvino", Export(own(Several()), Recipe(("last",))), CPU, 4)
    assert runner.rewrite is None


@pytest.mark.parametrize("faster", [in_three_products, _winograd.most_in_tiles])
def test_with_matrix_units_the_faster_way_is_taken(monkeypatch, faster):
    monkeypatch.setattr(_exported, "has_matrix_units", lambda: True)
    monkeypatch.setattr(_runner, "_time_of", lambda runner: 2 - (runner.rewrite is faster))
    runner = exported("openvino", Export(own(Several()), Recipe(("last",))), CPU, 4)
    assert runner.rewrite is faster


class Direction(nn.Module):
    """What makes much of little: the direction of the channels of each place."""

    def forward(self, x):
        return nn.functional.normalize(x, dim=1)


def test_what_is_zero_stays_zero(monkeypatch):
    monkeypatch.setattr(_exported, "has_matrix_units", lambda: False)
    unscaled = Preprocessing(size=32, resize=32, mean=(0, 0, 0), std=(1, 1, 1))
    one, two, three = (nn.Conv2d(n, 64, 3, padding=1, bias=False) for n in (3, 64, 64))
    layers = one, nn.ReLU(), two, nn.ReLU(), three, Direction()
    network = Backbone(nn.Sequential(*layers).eval(), preprocessing=unscaled)
    X = np.zeros((6, 32, 32, 3), np.uint8)
    X[range(6), range(4, 28, 4), 9] = 255  # a star each
    expected, features = (
        CNNFeatures(
            network, layer="5", runtime=runtime, precision=precision, store=None
        ).fit_transform(X)
        for runtime, precision in (("torch", "exact"), ("openvino", "auto"))
    )
    assert distances(features, expected).max() < 1e-5


class OwnWeights(nn.Conv2d):
    """Weights that are no parameter of that name."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.raw = nn.Parameter(self.weight.detach())
        del self.weight

    def forward(self, x):
        return self._conv_forward(x, 0.5 * self.raw, self.bias)


def test_convolutions_without_weights_of_their_own_are_counted():
    network = nn.Sequential(OwnWeights(64, 64, 3), nn.Conv2d(64, 64, 3, groups=2))
    assert _winograd.part_in_tiles(network) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("n_channels", "enough"), [(64, 400), (63, 1000)])
def test_exporting_is_worth_it_sooner_where_tiles_are(monkeypatch, n_channels, enough):
    for name in ("_PER_MODULE", "_PER_BYTE"):
        monkeypatch.setattr(_runtime, name, 0)
    monkeypatch.setattr(_runtime, "has_matrix_units", lambda: False)
    monkeypatch.setattr(_runner, "_time_of", lambda runner: 4 / 200)
    network = nn.Sequential(nn.Conv2d(3, n_channels, 1), nn.Conv2d(n_channels, n_channels, 3))
    runner = _runtime.make_runner(own(network), Recipe(("1",)), CPU, n_images=300, step=4)
    assert runner.most == pytest.approx(enough, rel=0.01)


def test_cores_of_other_kinds_keep_convolutions(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64"})
    runner = exported("openvino", Export(own(Several()), Recipe(("last",))), CPU, 4)
    assert runner.rewrite is None


def test_a_runner_says_what_it_keeps_of_a_network(monkeypatch):
    monkeypatch.setattr(_exported, "has_matrix_units", lambda: False)
    export = Export(own(Several()), Recipe(("last",)))
    weights = sum(p.nbytes for p in Several().parameters())
    assert 4 * weights < exported("openvino", export, CPU, 4).n_bytes < 12 * weights
    assert weights < exported("onnxruntime", export, CPU, 4).n_bytes < 1.1 * weights
