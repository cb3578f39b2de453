"""Whatever runs the network, the features are the same."""

import gc
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import threading
from typing import ClassVar

import numpy as np
import openvino
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from sktl import CNNFeatures, FeatureStore, as_images
from sktl.backbones import Backbone, Preprocessing
from sktl.engine import Network, Recipe, _exported, _forward, _runner, _runtime
from sktl.engine._exported import OnnxRunner
from sktl.engine._openvino import OpenVinoRunner, as_openvino
from sktl.engine._runner import CompiledRunner, TorchRunner, fitting
from sktl.engine._runtime import check_runtime
from sktl.exceptions import BatchSizeWarning, MissingDependencyError, ParameterError
from sktl.utils._float32 import full_float32


def pictures(n=6):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 40, 30, 3), dtype=np.uint8)


def small(module=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = module or nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 16, 3, 2)
        )
    return Backbone(module.eval(), preprocessing=Preprocessing(size=24, resize=28))


def of_32_pixels(module):
    return Backbone(module, preprocessing=Preprocessing(size=32, resize=32))


def distance(one, other):
    return (np.linalg.norm(one - other, axis=1) / np.linalg.norm(other, axis=1)).max()


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("crops", ["center", "ten"])
def test_runtimes_agree_on_real_pictures(runtime, crops):
    images = load_sample_images().images
    expected = CNNFeatures(precision="exact", crops=crops, store=None).fit_transform(images)
    features = CNNFeatures(runtime=runtime, crops=crops, store=None).fit_transform(images)
    assert distance(features, expected) < 2e-5


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_runtimes_give_several_layers_of_many_pictures(runtime):
    X = pictures(70)  # enough for the network to be fused
    parameters = {"layer": ["1", "bottleneck"], "pooling": "flatten", "store": None}
    expected = CNNFeatures(small(), precision="exact", **parameters).fit_transform(X)
    features = CNNFeatures(small(), runtime=runtime, **parameters).fit_transform(X)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_what_torch_compile_makes_of_a_network():
    X = pictures(11)  # 4, 4 and 3 at once
    parameters = {"layer": ["1", "bottleneck"], "pooling": "flatten", "store": None}
    expected = CNNFeatures(small(), precision="exact", **parameters).fit_transform(X)
    torch._dynamo.reset()
    features = CNNFeatures(small(), runtime="compile", **parameters).fit_transform(X)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    with pytest.raises(ParameterError, match='precision must be "auto" or "bf16"'):
        CNNFeatures(runtime="compile", precision="exact").fit(X)


def test_a_compiled_network_keeps_to_one_size_until_it_does_not_fit(monkeypatch):
    seen, layouts = [], []

    class Counting(nn.Conv2d):
        def forward(self, x):
            if not torch.is_inference_mode_enabled():  # its shapes are looked at
                return super().forward(x)
            seen.append(len(x))
            layouts.append(x.is_contiguous(memory_format=torch.channels_last))
            if len(x) > limit:
                raise torch.OutOfMemoryError("no room")
            return super().forward(x)

    limit = 8
    backbone = small(nn.Sequential(Counting(3, 4, 3)))
    # How often it would be compiled anew is what counts.
    monkeypatch.setattr(nn.Module, "compile", lambda *args, **options: None)
    runner = CompiledRunner(backbone, Recipe(), torch.device("cpu"), 1 << 30)
    pixels = pictures(8)[:, None]
    expected = runner(pixels)[0]
    np.testing.assert_allclose(runner(pixels[:3])[0], expected[:3], rtol=1e-5)
    assert seen == [8, 8]
    assert all(layouts)
    limit = 5
    with pytest.warns(BatchSizeWarning, match="8 pictures at once"):
        np.testing.assert_allclose(runner(pixels)[0], expected, rtol=1e-5)
    assert seen[2:] == [8, 4, 4]


@pytest.mark.parametrize("precision", ["exact", "auto"])
def test_float32_stays_float32_whatever_the_process_allows(precision):
    allowed = []

    class Watching(nn.Linear):
        def forward(self, x):
            allowed.append(torch.backends.mkldnn.matmul.fp32_precision)
            return super().forward(x)

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Watching(64, 512)
    )
    features = CNNFeatures(small(net), precision=precision, store=None)
    expected = features.fit_transform(pictures(40))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        allowed.clear()
        found = features.fit_transform(pictures(40))
        np.testing.assert_array_equal(found, expected)
        assert set(allowed) <= {"ieee", "none"}
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16", "a setting was not put back"
        one, other = full_float32("cpu"), full_float32("cpu")  # as of two threads
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        assert torch.backends.mkldnn.matmul.fp32_precision in ("ieee", "none")
        other.__exit__(None, None, None)
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(before)


def test_settings_of_all_operations_still_reach_each_afterwards():
    matmul = torch.backends.mkldnn.matmul
    before = torch.backends.fp32_precision, matmul.fp32_precision
    try:
        matmul.fp32_precision = "none"
        torch.backends.fp32_precision = "bf16"
        assert matmul.fp32_precision == "bf16"
        with full_float32("cpu"):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "bf16"
        torch.backends.fp32_precision = "ieee"
        assert matmul.fp32_precision == "ieee", "its own setting hides that of all"
    finally:
        torch.backends.fp32_precision, matmul.fp32_precision = before


def test_runtimes_share_what_is_stored(tmp_path):
    store = FeatureStore(tmp_path / "store")
    for runtime in ("torch", "onnxruntime", "openvino", "auto"):
        CNNFeatures(small(), runtime=runtime, store=store).fit_transform(pictures())
    assert store.info()[["rows", "hits"]].to_numpy().tolist() == [[6, 18]]


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_bf16_is_near_and_kept_apart(runtime, tmp_path):
    store = FeatureStore(tmp_path / "store")
    images = load_sample_images().images
    expected = CNNFeatures(store=store).fit_transform(images)
    rough = CNNFeatures(precision="bf16", runtime=runtime, store=store).fit_transform(images)
    assert 1e-4 < distance(rough, expected) < 0.1
    assert store.info()["precision"].tolist() == ["auto", "bf16"]
    by_other = {"torch": "openvino", "openvino": "torch"}[runtime]
    other = CNNFeatures(precision="bf16", runtime=by_other, store=store).fit_transform(images)
    assert distance(other, rough) > 1e-4, "each rounds in its own way"
    assert store.info()["rows"].tolist() == [2, 2, 2]
    CNNFeatures(precision="bf16", store=store).fit_transform(images)
    assert store.info()["rows"].tolist() == [2, 2, 2], "one of the two is the default"


def test_bf16_on_a_cpu_is_openvino_for_networks_known_by_name(used):
    X = pictures(3)
    features = CNNFeatures("resnet18", weights=None, image_size=32, precision="bf16", store=None)
    for n in (1, 3):
        features.fit_transform(X[:n])
    assert set(used) == {"OpenVinoRunner"}
    used.clear()
    CNNFeatures(small(), precision="bf16", store=None).fit_transform(X)
    assert set(used) == {"TorchRunner"}, "no export for each call"


def test_bf16_reduces_large_jpeg_pictures(tmp_path):
    large = Image.fromarray(load_sample_images().images[0]).resize((640, 480))
    large.save(tmp_path / "a.jpg", quality=95)
    large.resize((642, 480)).save(tmp_path / "b.jpg")  # 642 / 4 is no whole number

    def shape(name, least):
        return np.asarray(as_images([tmp_path / name]).read(0, least=least)).shape

    assert {shape("a.jpg", least) for least in (None, 481, 241)} == {(480, 640, 3)}
    assert shape("a.jpg", 240) == (240, 320, 3)
    assert shape("a.jpg", 100) == (120, 160, 3)
    assert shape("b.jpg", 100) == (240, 321, 3)
    large.save(tmp_path / "c.png")
    assert as_images([str(tmp_path / "c.png")]).read(0, least=100).size == (640, 480)
    paths = [tmp_path / "a.jpg"]
    exact, rough = (
        CNNFeatures(precision=precision, image_size=32, store=None).fit_transform(paths)
        for precision in ("exact", "bf16")
    )
    assert 1e-3 < distance(rough, exact) < 0.2


KINDS = (TorchRunner, OnnxRunner, OpenVinoRunner)


@pytest.fixture
def used(monkeypatch):
    """Names of the runners that have run."""
    names = []
    for kind in KINDS:

        def maps(self, pixels, *, maps=kind.maps):
            names.append(type(self).__name__)
            return maps(self, pixels)

        monkeypatch.setattr(kind, "maps", maps)
    return names


@pytest.fixture
def plain(monkeypatch):
    """As on a machine without matrix units."""
    for module in (_exported, _runtime):
        monkeypatch.setattr(module, "has_matrix_units", lambda: False)


def export_soon(monkeypatch):
    """As if exporting cost nothing."""
    for name in ("_EXPORTING", "_PER_MODULE", "_PER_BYTE"):
        monkeypatch.setattr(_runtime, name, 0)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("fastest", KINDS)
def test_many_pictures_go_to_the_runtime_that_is_found_to_be_fastest(monkeypatch, used, fastest):
    export_soon(monkeypatch)
    monkeypatch.setattr(_runner, "_time_of", lambda runner: 2 - isinstance(runner, fastest))
    pixels = np.zeros((2, 1, 24, 24, 3), np.uint8)
    args = small(), Recipe(), torch.device("cpu")
    runner = _runtime.make_runner(*args, n_images=256, step=4)
    before = runner(pixels)
    assert set(used) == {"TorchRunner"}, "nobody waits for the others"
    runner.settle()
    used.clear()
    np.testing.assert_allclose(runner(pixels)[0], before[0], rtol=1e-5, atol=1e-6)
    runner.settle()
    assert used == [fastest.__name__], "settled once"
    used.clear()
    monkeypatch.setattr(_runtime, "_EXPORTING", 1)
    monkeypatch.setattr(_runner, "_time_of", lambda runner: 4 / 50)
    for n, most in ((31, 31), (255, 255), (256, 300), (300, 300), (301, math.inf)):
        runner = _runtime.make_runner(*args, n_images=n, step=4, n_threads=2)
        assert runner.most == pytest.approx(most, rel=1e-3)
        assert isinstance(runner, _runtime._FastestRunner) == (n == 301), "when it is worth it"
    ten = small(), Recipe(crops="ten"), torch.device("cpu")
    runner = _runtime.make_runner(*ten, n_images=256, step=4, n_threads=56)
    assert runner.most == pytest.approx(300, rel=1e-3)


def test_maps_of_a_step_fit_the_caches_of_pytorch(monkeypatch):
    assert [fitting(n << 20, 4) for n in (0, 1, 5, 6, 10, 11, 99)] == [4, 4, 4, 2, 2, 1, 1]
    assert [fitting(n << 20, 10) for n in (1, 3, 5, 11)] == [10, 5, 2, 1]
    assert fitting(0, 1 << 60) == 1 << 60
    args = small(), Recipe(), torch.device("cpu")
    largest = 4 * 8 * 11 * 11  # bytes; the map of the first convolution
    for most, step in ((largest, 1), (3 * largest, 2)):
        monkeypatch.setattr(_runner, "_CACHED", most)
        assert _runtime.make_runner(*args, "torch", n_images=40, step=4)._at_once == step


@pytest.mark.parametrize(("n_out", "batch"), [(110, 2), (130, 4)])
def test_openvino_gets_larger_batches_where_fetching_weights_takes_time(n_out, batch):
    # The largest map is the picture, of 3 * 32 * 32 numbers, and ten times it the head with 120.
    layers = nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, n_out)
    own = of_32_pixels(nn.Sequential(*layers))
    args = own, Recipe(("2",)), torch.device("cpu"), "openvino"
    assert _runtime.make_runner(*args, n_images=40, step=4)._batch == batch


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_steps_of_one_crop_give_the_same(monkeypatch, runtime):
    monkeypatch.setattr(_runner, "_CACHED", 1)
    X = pictures(40)
    expected = CNNFeatures(small(), crops="ten", precision="exact", store=None).fit_transform(X)
    features = CNNFeatures(small(), crops="ten", runtime=runtime, store=None).fit_transform(X)
    assert distance(features, expected) < 1e-5


@pytest.mark.usefixtures("plain")
def test_what_was_found_to_be_fastest_is_remembered(monkeypatch, used):
    monkeypatch.setattr(_runtime, "_WORTH_TIMING", 40)
    export_soon(monkeypatch)
    monkeypatch.setattr(_runner, "_time_of", lambda runner: 3 - KINDS.index(type(runner)))
    features = CNNFeatures("resnet18", weights=None, image_size=32, store=None)
    one = features.fit_transform(pictures(40))
    assert "OpenVinoRunner" in used
    assert "OnnxRunner" not in used, "a third is not worth its export"
    used.clear()
    np.testing.assert_allclose(features.transform(pictures(8)), one[:8], rtol=1e-4, atol=1e-5)
    assert set(used) == {"OpenVinoRunner"}


class OneByOne(nn.Module):
    """What a tracer takes for a fixed number of pictures."""

    def __init__(self):
        super().__init__()
        self.convolution, self.joined = nn.Conv2d(3, 4, 3), nn.Identity()

    def forward(self, x):
        return self.joined(torch.cat([self.convolution(picture[None]) for picture in x]))


def test_an_export_that_holds_for_one_batch_size_alone_is_refused():
    own = of_32_pixels(OneByOne())
    with pytest.raises(ParameterError, match=r"batches of any size|for \d pictures"):
        CNNFeatures(own, runtime="onnxruntime", store=None).fit_transform(pictures(6))


@pytest.mark.parametrize(
    ("times", "turns"),
    [
        ((0.10, 0.12), 3),
        ((0.14, 0.10), 3),
        ((0.10, 0.16), 1),  # no doubt
        ((0.31, 0.30), 1),  # slow
    ],
)
def test_runners_are_timed_until_there_is_no_doubt(monkeypatch, times, turns):
    timed = []
    monkeypatch.setattr(_runner, "_time_of", lambda runner: timed.append(runner) or runner)
    assert _runner.times_of(list(times)) == list(times)
    assert timed == [*times] * turns, "in turns"


def test_timing_a_runner_runs_it(used):
    cpu = torch.device("cpu")
    runner = _runtime.make_runner(small(), Recipe(), cpu, "torch", n_images=4, step=4)
    assert 0 < _runner._time_of(runner) < 60
    assert used == ["TorchRunner"]


def test_a_network_that_cannot_be_exported_is_named(monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: 1 / 0)
    features = CNNFeatures(small(), runtime="onnxruntime", store=None)
    with pytest.raises(ParameterError, match='cannot be run by runtime="onnxruntime": division'):
        features.fit_transform(pictures())
    for name in ("_WORTH_FUSING", "_WORTH_TIMING"):
        monkeypatch.setattr(_runtime, name, 0)
    export_soon(monkeypatch)
    CNNFeatures(small(), store=None).fit_transform(pictures()), "which PyTorch then does"


class Attending(nn.Module):
    """Has an operation that ONNX has not."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.patches = nn.Conv2d(3, 16, 8, stride=8)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)  # (n, places, channels)
        return self.attention(x, x, x, need_weights=False)[0].mean(dim=1)


def test_openvino_needs_no_onnx(monkeypatch):
    own = of_32_pixels(Attending())
    expected = CNNFeatures(own, precision="exact", store=None).fit_transform(pictures())
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name)
    )
    monkeypatch.setitem(sys.modules, "onnx", None)
    features = CNNFeatures(own, runtime="openvino", store=None).fit_transform(pictures())
    assert distance(features, expected) < 1e-5
    with pytest.raises(MissingDependencyError):
        CNNFeatures(own, runtime="onnxruntime", store=None).fit(pictures())


def test_what_openvino_has_outlives_the_network():
    network, x = Attending().eval(), torch.rand((2, 3, 32, 32))
    expected = network(x).detach()
    model = as_openvino(network, x)
    del network
    gc.collect()
    torch.full((1 << 20,), 7.0)  # where the weights could have been
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    (found,) = request.infer([x.permute(0, 2, 3, 1).contiguous().numpy()]).values()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


class Unknown(nn.Module):
    """Has an operation that ONNX has not."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.convolution(torch.linalg.pinv(x))


def test_nothing_is_printed_where_an_operation_cannot_be_exported(monkeypatch, capfd):
    own = of_32_pixels(Unknown())
    features = CNNFeatures(own, runtime="onnxruntime", store=None)
    with pytest.raises(ParameterError, match=r"cannot be run by .*linalg_pinv"):
        features.fit_transform(pictures())
    for name in ("_WORTH_FUSING", "_WORTH_TIMING"):
        monkeypatch.setattr(_runtime, name, 0)
    export_soon(monkeypatch)
    CNNFeatures(own, store=None).fit_transform(pictures())
    assert capfd.readouterr() == ("", "")


def test_what_a_runtime_cannot_do_is_said_before_work(monkeypatch):
    with pytest.raises(ParameterError, match='precision must be "auto" with runtime="onnxruntime"'):
        CNNFeatures(runtime="onnxruntime", precision="exact").fit(pictures())
    with pytest.raises(ParameterError, match='precision must be "auto" or "bf16" with'):
        CNNFeatures(runtime="openvino", precision="exact").fit(pictures())
    with pytest.raises(ParameterError, match=r"runtime must be one of .* Did you mean 'openvino'"):
        CNNFeatures(runtime="openvin").fit(pictures())
    with pytest.raises(ParameterError, match='device must be "cpu" with runtime="openvino"'):
        check_runtime("openvino", "auto", torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install \"sktl\[onnx\]\""):
        CNNFeatures(runtime="onnxruntime").fit(pictures())


class Narrow(nn.Module):
    """Has memory for some pictures only."""

    seen: ClassVar = []  # of all copies

    def __init__(self, most):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.most = most

    def forward(self, x):
        if torch.is_inference_mode_enabled():  # else its shapes are looked at
            self.seen.append(len(x))
            if len(x) > self.most:
                raise torch.OutOfMemoryError("no room")
        return self.conv(x)


def test_a_batch_that_does_not_fit_is_halved_and_that_is_said_once():
    module = Narrow(most=1)
    with pytest.warns(BatchSizeWarning, match="4 pictures at once do not fit .* 2") as caught:
        features = CNNFeatures(small(module), store=None).fit_transform(pictures(16))
    assert len(caught) == 1
    module.most = 99
    expected = CNNFeatures(small(module), store=None).fit_transform(pictures(16))
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_a_picture_that_does_not_fit_alone_is_an_error():
    with (
        pytest.warns(BatchSizeWarning),
        pytest.raises(torch.OutOfMemoryError),
    ):
        CNNFeatures(small(Narrow(most=0)), store=None).fit_transform(pictures(16))


def on_device(images, backbone, chunks, **recipe):
    """What is done in front of a GPU, without one."""
    images = as_images(images)
    network = Network(backbone, "default", None)
    runner = _runtime.ready_runner(
        network, Recipe(**recipe), torch.device("cpu"), "torch", n_images=len(images), step=1 << 30
    )
    return list(_forward._on_device(images, runner, chunks, 2))


@pytest.mark.parametrize("crops", ["center", "ten"])
def test_in_front_of_a_device_the_numbers_are_the_same(crops):
    X = pictures(50)
    expected = CNNFeatures(small(), crops=crops, store=None).fit_transform(X)
    encoded = [*map(Image.fromarray, X[:20]), b"broken", *map(Image.fromarray, X[20:])]
    chunks = [range(16), range(16, 20), [20], range(21, 51)]
    batches = on_device(encoded, small(), iter(chunks), crops=crops)
    assert [len(batch.positions) for batch in batches] == [16, 4, 0, 30]
    assert [failure.index for batch in batches for failure in batch.bad] == [20]
    rows = np.concatenate([batch.layers[0] for batch in batches if batch.positions])
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["auto", "exact"])
def test_a_device_that_resizes_gives_the_same_bits(monkeypatch, precision):
    images = [*load_sample_images().images, *pictures(3), b"broken"]
    images += [Image.new("RGB", (10, 300)), Image.new("RGB", (300, 10)), Image.new("RGB", (28, 28))]
    expected = on_device(images, small(), iter([range(9)]), precision=precision)
    asked = []
    prepare_on = _forward.prepare_on
    monkeypatch.setattr(_forward, "_RESIZING", ("cpu",))
    monkeypatch.setattr(
        _forward, "prepare_on", lambda *args: asked.append(args) or prepare_on(*args)
    )
    (batch,) = on_device(images, small(), iter([range(9)]), precision=precision)
    assert len(asked) == len(batch.positions) == 8
    np.testing.assert_array_equal(batch.layers[0], expected[0].layers[0])


def test_what_was_resized_by_a_device_without_more_room_goes_on_in_parts(monkeypatch):
    images = [*map(Image.fromarray, pictures(6)), Image.new("RGB", (28, 28), "red")]
    expected = on_device(images, small(), iter([range(7)]))
    monkeypatch.setattr(_forward, "_RESIZING", ("cpu",))
    stack = torch.stack

    def full(tensors, *args):
        if len(tensors) == 7:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")
        return stack(tensors, *args)

    monkeypatch.setattr(torch, "stack", full)
    (batch,) = on_device(images, small(), iter([range(7)]))
    np.testing.assert_array_equal(batch.layers[0], expected[0].layers[0])


def test_a_device_gets_whole_batches_until_they_do_not_fit():
    module = Narrow(most=9)
    Narrow.seen.clear()
    with pytest.warns(BatchSizeWarning, match="32 pictures at once do not fit .* 16") as caught:
        (batch,) = on_device(pictures(32), small(module), iter([range(32)]))
    assert len(caught) == 1
    assert batch.layers[0].shape == (32, 4)
    forwarded = Narrow.seen[Narrow.seen.index(32) :]
    assert forwarded == [32, 16, 8, 8, 8, 8]


def test_limits_on_cores_end_with_the_work():
    before = torch.get_num_threads()
    CNNFeatures(small(), store=None).fit_transform(pictures(20))
    assert torch.get_num_threads() == before
    counts = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert counts == [before]


def test_a_named_network_is_made_ready_once(monkeypatch):
    made = []
    make = _runtime.make_runner
    monkeypatch.setattr(_runtime, "make_runner", lambda *a, **k: made.append(a) or make(*a, **k))
    _runtime._ready.clear()
    features = CNNFeatures("resnet18", weights=None, image_size=32, store=None)
    one = features.fit_transform(pictures(40))
    several = np.concatenate([features.transform(pictures(40)[i : i + 8]) for i in range(0, 40, 8)])
    assert len(made) == 1
    np.testing.assert_allclose(several, one, rtol=1e-4, atol=1e-5)
    features.set_params(precision="exact").transform(pictures(2))
    assert len(made) == 2  # another recipe
    CNNFeatures(small(), store=None).transform(pictures(2))
    CNNFeatures(small(), store=None).transform(pictures(2))
    assert len(made) == 4  # the tensors of a network of one's own can change


def test_the_same_calls_with_a_named_runtime_give_the_same_bits(monkeypatch):
    _runtime._ready.clear()
    features = CNNFeatures("resnet18", weights=None, image_size=32, runtime="torch", store=None)
    one, *others = (features.fit_transform(pictures(20)) for _ in range(3))
    for other in others:  # more than 32 pictures in all
        np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize("keeps_waiting", [False, True])
def test_a_thread_more_than_cores_works_where_they_wait(monkeypatch, keeps_waiting):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    device = torch.device("cpu")
    runner = _runtime.make_runner(small(), Recipe(), device, n_images=24, step=4)
    runner.keeps_waiting = keeps_waiting
    expected, run = 2 + keeps_waiting, runner._run
    together, inside = threading.Condition(), {"now": 0, "most": 0}

    def run_together(x):
        with together:
            inside["now"] += 1
            inside["most"] = max(inside["most"], inside["now"])
            together.notify_all()
            together.wait_for(lambda: inside["most"] >= expected, timeout=10)
        maps = run(x)
        with together:
            inside["now"] -= 1
        return maps

    monkeypatch.setattr(runner, "_run", run_together)
    monkeypatch.setattr(_forward, "ready_runner", lambda *args, **sizes: runner)
    args = as_images(pictures(24)), None, Recipe(), [range(24)]
    (batch,) = _forward.forward(*args, n_images=24, device=device)
    assert batch.positions == list(range(24))
    assert inside["most"] == expected


class NeverThree(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = small().module

    def forward(self, x):
        if len(x) == 3:
            raise ValueError("three pictures")
        return self.inner(x)


def test_a_network_that_cannot_be_checked_stays_with_pytorch(monkeypatch, used):
    monkeypatch.setattr(_runtime, "_WORTH_TIMING", 40)
    export_soon(monkeypatch)
    backbone = Backbone(NeverThree(), preprocessing=Preprocessing(size=24, resize=28))
    features = CNNFeatures(backbone, store=None).fit_transform(pictures(64))
    expected = CNNFeatures(backbone, runtime="torch", store=None).fit_transform(pictures(64))
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert set(used) == {"TorchRunner"}
    with pytest.raises(ParameterError, match="cannot be checked: three pictures"):
        CNNFeatures(backbone, runtime="openvino", store=None).fit_transform(pictures(64))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_that_is_forked_computes_without_the_threads_of_openvino(tmp_path):
    code = """
import os, signal
import joblib
import numpy as np
from sktl import CNNFeatures
from sktl.exceptions import ParameterError

X = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
ask = dict(weights=None, image_size=32, store=None)
features = CNNFeatures("resnet18", runtime="openvino", **ask)
expected = features.fit_transform(X)
child = os.fork()
if child == 0:
    signal.alarm(60)
    fine = False
    try:
        features.transform(X)
    except ParameterError as error:
        fine = "was forked from one that has used it" in str(error)
    for precision in ("auto", "bf16"):
        found = CNNFeatures("resnet18", precision=precision, **ask).fit_transform(X)
        fine &= np.allclose(found, expected, rtol=1e-4, atol=0.05 if precision == "bf16" else 1e-4)
    raise SystemExit(0 if fine else 1)
assert os.waitpid(child, 0)[1] == 0
np.testing.assert_array_equal(features.transform(X), expected)
try:  # not with what another runtime rounds to, which would be stored as OpenVINO's
    with joblib.parallel_config("multiprocessing"):
        ask |= {"n_jobs": 2, "batch_size": 2}
        CNNFeatures("resnet18", precision="bf16", **ask).fit_transform(X)
except ParameterError as error:
    assert "was forked from one that has used it" in str(error)
else:
    raise AssertionError
"""
    file = tmp_path / "forks.py"
    file.write_text(code)
    subprocess.run([sys.executable, "-W", "ignore", file], check=True, timeout=200)
