"""Convolutions in three products of bfloat16 numbers are those of float32, but for rounding."""

import numpy as np
import openvino
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from sktl import CNNFeatures
from sktl.backbones import Backbone, Preprocessing
from sktl.engine import Recipe, _exported, _runner, _runtime, _three_products
from sktl.engine._exported import Export, exported
from sktl.engine._openvino import as_openvino

CPU = torch.device("cpu")
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))


class Shared(nn.Module):
    """Convolutions of one input, of several kinds, too small ones, and ones that are scaled."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 48, 3, padding=1)
            self.first = nn.Conv2d(48, 128, 3, stride=2, padding=(1, 1))
            self.second = nn.Conv2d(48, 128, 3, stride=2, padding=2, dilation=2, bias=False)
            self.apart = nn.Conv2d(128, 128, 3, padding=1, groups=128)
            self.narrow = nn.Conv2d(128, 24, 1)
            self.scaled = nn.Conv2d(128, 256, 1)
            self.pooled = nn.Conv2d(128, 256, 1)
            self.gated = nn.Conv2d(128, 320, 1)
            self.subtracted = nn.Conv2d(128, 192, 1, bias=False)
            self.end = nn.Identity()

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.first(x)) + self.second(x)
        x = self.apart(x)
        gates = torch.relu(self.pooled(x.mean(dim=(2, 3), keepdim=True)))
        parts = [self.narrow(x), 0.03 - self.subtracted(x), self.scaled(x) * 0.5 * gates]
        return self.end(torch.cat([*parts, nn.functional.silu(self.gated(x))], dim=1))


def own(module=None):
    module = module or Shared()
    scaled = {"mean": tuple(MEAN.flatten().tolist()), "std": tuple(STD.flatten().tolist())}
    return Backbone(module.eval(), preprocessing=Preprocessing(size=32, resize=32, **scaled))


def drawn(n):
    return np.random.default_rng(n).integers(0, 256, (n, 1, 32, 32, 3), dtype=np.uint8)


def runner(monkeypatch, *, in_products, precision="auto"):
    monkeypatch.setattr(_exported, "has_matrix_units", lambda: in_products)
    recipe = Recipe(("end",), pooling="flatten", precision=precision)
    return exported("openvino", Export(own(), recipe), CPU, 4)


def cut():
    """Channels and dilation of the convolutions in three products."""
    model = Export(own(), Recipe(("end",))).openvino
    model = _three_products.in_three_products(openvino.Core(), model)
    marked = [
        op for op in model.get_ops() if op.get_friendly_name().startswith(_three_products._MARK)
    ]
    return sorted((op.get_output_shape(0)[1], op.get_attributes()["dilations"][0]) for op in marked)


def distances(found, exact):
    return np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)


def test_products_add_up_to_those_of_float32(monkeypatch):
    pixels = drawn(7)
    x = (torch.from_numpy(pixels[:, 0]).permute(0, 3, 1, 2).double() / 255 - MEAN) / STD
    with torch.inference_mode():
        exact = Shared().double()(x).flatten(1).numpy()
    split, plain, rough = (
        runner(monkeypatch, in_products=way, precision=precision)
        for way, precision in ((True, "auto"), (False, "auto"), (True, "bf16"))
    )
    # first, second, what the scaled one has become, and gated
    assert cut() == [(128, 1), (128, 2), (256, 1), (320, 1)]
    ways = [one.rewrite for one in (split, plain, rough)]
    assert ways == [_three_products.in_three_products, None, None]
    far = [distances(one.maps(pixels)[0].flatten(1).numpy(), exact) for one in (split, plain)]
    assert far[0].max() < 1e-5
    assert far[1].max() < 1e-6


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_numbers_of_any_size(scale):
    x = scale * torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    core = openvino.Core()
    model = as_openvino(Export(own(), Recipe(("end",))).network(), x)
    split = _three_products.in_three_products(core, model.clone())
    pictures = x.permute(0, 2, 3, 1).contiguous().numpy()
    one, other = (
        torch.from_numpy(core.compile_model(way, "CPU", FLOAT32)([pictures])[0])
        for way in (split, model)
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_batches_of_any_size_give_the_same_bits(monkeypatch, n):
    pixels = drawn(n)
    one = runner(monkeypatch, in_products=True)
    together = one.maps(pixels)[0]
    assert len(together) == n
    np.testing.assert_array_equal(together, torch.cat([one.maps(row[None])[0] for row in pixels]))


def test_features_of_real_pictures(monkeypatch):
    monkeypatch.setattr(_exported, "has_matrix_units", lambda: True)
    images = load_sample_images().images
    expected = CNNFeatures(precision="exact", store=None).fit_transform(images)
    features = CNNFeatures(runtime="openvino", store=None).fit_transform(images)
    assert 1e-7 < distances(features, expected).max() < 2e-5


def test_several_layers_and_ten_crops(monkeypatch):
    monkeypatch.setattr(_exported, "has_matrix_units", lambda: True)
    X = np.random.default_rng(0).integers(0, 256, (5, 40, 36, 3), dtype=np.uint8)
    asked = {"layer": ["second", "end"], "crops": "ten", "store": None}
    expected, features = (
        CNNFeatures(own(), precision=precision, runtime=runtime, **asked).fit_transform(X)
        for precision, runtime in (("exact", "torch"), ("auto", "openvino"))
    )
    assert distances(features, expected).max() < 2e-5


@pytest.mark.parametrize("name", ["_VERSION", "_TYPES"])
def test_a_release_without_what_it_takes_computes_in_float32(monkeypatch, name):
    monkeypatch.setattr(_three_products, name, {"_VERSION": "unknown", "_TYPES": {}}[name])
    assert runner(monkeypatch, in_products=True).rewrite is None


def test_rough_sums_are_noticed(monkeypatch):
    rough = _three_products._weights

    def weights(values):
        tensor = rough(values)
        tensor.data.view(np.int16)[:, -values.shape[1] :] = 0  # x1 w2 is missing
        return tensor

    monkeypatch.setattr(_three_products, "_weights", weights)
    assert runner(monkeypatch, in_products=True).rewrite is None


@pytest.mark.parametrize(("has", "enough"), [(True, 400), (False, 1000)])
def test_exporting_is_worth_it_sooner_with_matrix_units(monkeypatch, has, enough):
    for name in ("_PER_MODULE", "_PER_BYTE"):
        monkeypatch.setattr(_runtime, name, 0)
    monkeypatch.setattr(_runtime, "has_matrix_units", lambda: has)
    monkeypatch.setattr(_runner, "_time_of", lambda runner: 4 / 200)
    one, other = (
        _runtime.make_runner(own(), Recipe(), CPU, n_images=n, step=4) for n in (enough, enough + 1)
    )
    assert one.most == pytest.approx(enough)
    assert isinstance(other, _runtime._FastestRunner)
