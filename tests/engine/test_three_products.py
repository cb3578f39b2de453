"""Convolutions in three products of bfloat16 numbers are those of float32, but for rounding."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from sktl import CNNFeatures
from sktl.backbones import Backbone, Preprocessing
from sktl.engine import Recipe, _openvino, _runtime, _three_products
from sktl.engine._exported import Export, OnnxRunner, exported
from sktl.engine._openvino import OpenVinoRunner

CPU = torch.device("cpu")


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
            self.subtracted = nn.Conv2d(128, 256, 1, bias=False)
            self.end = nn.Identity()

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.first(x)) + self.second(x)
        x = self.apart(x)
        gates = torch.relu(self.pooled(x.mean(dim=(2, 3), keepdim=True)))
        parts = [self.narrow(x), 3 - self.subtracted(x), self.scaled(x) * 0.5 * gates]
        return self.end(torch.cat(parts, dim=1))


def runner(monkeypatch, *, in_products, step=4, precision="auto"):
    monkeypatch.setattr(_openvino, "has_matrix_units", lambda: in_products)
    own = Backbone(Shared().eval(), preprocessing=Preprocessing(size=32, resize=32))
    recipe = Recipe(("end",), pooling="flatten", precision=precision)
    return exported("openvino", Export(own, recipe), CPU, step)


def in_products(runner):
    """Names of the layers in three products."""
    names = [op.get_friendly_name() for op in runner._compiled.get_runtime_model().get_ops()]
    return {name.split("/")[2] for name in names if name.startswith(_three_products._MARK)}


def distances(found, exact):
    return np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)


def test_products_add_up_to_those_of_float32(monkeypatch):
    x = torch.randn((7, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact = Shared().double()(x.double()).flatten(1).numpy()
    split, plain, rough = (
        runner(monkeypatch, in_products=way, precision=precision)
        for way, precision in ((True, "auto"), (False, "auto"), (True, "bf16"))
    )
    assert in_products(split) == {"first", "second"}
    assert not in_products(plain)
    assert not in_products(rough)
    far = [distances(one._run(x)[0].flatten(1).numpy(), exact) for one in (split, plain)]
    assert far[0].max() < 1e-5
    assert far[1].max() < 1e-6


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_numbers_of_any_size(monkeypatch, scale):
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    one, other = (runner(monkeypatch, in_products=way)._run(x * scale)[0] for way in (True, False))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_batches_of_any_size_give_the_same_bits(monkeypatch, n):
    x = torch.rand((n, 3, 32, 32), generator=torch.Generator().manual_seed(n))
    one = runner(monkeypatch, in_products=True)
    together = one._run(x)[0]
    assert len(together) == n
    np.testing.assert_array_equal(together, torch.cat([one._run(row[None])[0] for row in x]))


def test_features_of_real_pictures(monkeypatch):
    monkeypatch.setattr(_openvino, "has_matrix_units", lambda: True)
    images = load_sample_images().images
    expected = CNNFeatures(precision="exact", store=None).fit_transform(images)
    features = CNNFeatures(runtime="openvino", store=None).fit_transform(images)
    assert 1e-7 < distances(features, expected).max() < 2e-5


def test_a_release_without_what_it_takes_computes_in_float32(monkeypatch):
    monkeypatch.setattr(_three_products, "_VERSION", "unknown")
    assert not in_products(runner(monkeypatch, in_products=True))


@pytest.mark.parametrize(("has", "others"), [(True, ["openvino"]), (False, None)])
def test_with_matrix_units_nothing_else_is_tried(monkeypatch, has, others):
    for module in (_runtime, _openvino):
        monkeypatch.setattr(module, "has_matrix_units", lambda: has)
    monkeypatch.setattr(_runtime, "_time_of", lambda runner: 6 / 300 * 4)
    own = Backbone(Shared().eval(), preprocessing=Preprocessing(size=32, resize=32))
    fewer, more = (
        _runtime.make_runner(own, Recipe(), CPU, n_images=n, step=4, n_threads=1)
        for n in (299, 900)
    )
    assert isinstance(fewer, _runtime._FastestRunner) == has, "worth it sooner"
    assert more._others == (others or ["onnxruntime", "openvino"])
    tried = []
    monkeypatch.setattr(_runtime, "_fastest_of", lambda runners: tried.extend(runners) or tried[-1])
    more.settle()
    kinds = [OpenVinoRunner] if has else [OnnxRunner, OpenVinoRunner]
    assert [type(one) for one in tried[1:]] == kinds
