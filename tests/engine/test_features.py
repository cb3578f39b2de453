"""Nothing is forwarded twice, and nothing stored is mistaken for something else."""

import io
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from torch import nn

from sktl import CNNFeatures, FeatureStore
from sktl.backbones import Backbone, Preprocessing, register_backbone
from sktl.engine import Network, _claims, _runtime
from sktl.engine._runner import Runner
from sktl.exceptions import BadImageWarning, ImageDecodeError, ParameterError, WeightsError
from sktl.images import ImageCollection, as_images


def network(seed=0, activation=nn.ReLU):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), activation(), nn.Conv2d(8, 16, 3, 2)
        ).eval()


def backbone(seed=0, *, size=24, name=None, activation=nn.ReLU):
    return Backbone(
        network(seed, activation), preprocessing=Preprocessing(size=size, resize=28), name=name
    )


def pictures(n=20):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (30, 34, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


@pytest.fixture
def forwarded(monkeypatch):
    """How many pictures each network has been given."""
    counts = Counter()
    forward = Runner.__call__

    def count(self, pixels):
        counts["all"] += len(pixels)
        return forward(self, pixels)

    monkeypatch.setattr(Runner, "__call__", count)
    return counts


def test_a_grid_search_forwards_each_picture_once(store, forwarded):
    X, y = pictures(), np.arange(20) % 2
    model = Pipeline(
        [("feat", CNNFeatures(backbone(), store=store)), ("clf", LogisticRegression())]
    )
    search = GridSearchCV(model, {"clf__C": np.logspace(-3, 3, 7)}, cv=4).fit(X, y)
    search.predict(X)
    assert forwarded["all"] == 20
    GridSearchCV(model, {"clf__C": [1.0]}, cv=5).fit(X, y)
    assert forwarded["all"] == 20


def test_a_stack_of_three_networks_forwards_each_picture_once_each(store, forwarded):
    X, y = pictures(), np.arange(20) % 2
    stack = StackingClassifier(
        [
            (
                f"net{seed}",
                Pipeline(
                    [
                        ("feat", CNNFeatures(backbone(seed), store=store)),
                        ("clf", LogisticRegression()),
                    ]
                ),
            )
            for seed in range(3)
        ],
        cv=5,
    )
    stack.fit(X, y).predict(X)
    assert forwarded["all"] == 3 * 20


def test_equal_pictures_are_forwarded_once(store, forwarded):
    X = [*pictures(3), *pictures(3)]
    features = CNNFeatures(backbone(), store=store).transform(X)
    assert forwarded["all"] == 3
    np.testing.assert_array_equal(features[:3], features[3:])


def test_without_a_store_every_call_forwards(forwarded):
    features = CNNFeatures(backbone(), store=None)
    features.transform(pictures(3))
    features.transform(pictures(3))
    assert forwarded["all"] == 6


@pytest.mark.parametrize(
    "change",
    [
        {"layer": "0"},
        {"pooling": "max"},
        {"image_size": 20},
        {"crops": "ten"},
        {"precision": "exact"},
        {"backbone": backbone(1)},
        {"backbone": backbone(0, activation=nn.SiLU)},
        {"backbone": backbone(0, size=22)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_numbers_is_not_served_from_the_store(store, forwarded, change):
    X = pictures(2)
    CNNFeatures(backbone(), store=store).transform(X)
    changed = CNNFeatures(**{"backbone": backbone(), **change}, store=store).transform(X)
    assert forwarded["all"] == 4
    fresh = CNNFeatures(**{"backbone": backbone(), **change}, store=None).transform(X)
    np.testing.assert_array_equal(changed, fresh)


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"verbose": 1}, {"on_error": "nan"}])
def test_what_changes_no_number_is_served_from_the_store(store, forwarded, change):
    X = pictures(2)
    CNNFeatures(backbone(), store=store).transform(X)
    CNNFeatures(backbone(), **change, store=store).transform(X)
    assert forwarded["all"] == 2


def _encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _see_through(mode):
    image = pictures(1)[0].convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


OPAQUE = [
    ("JPEG", "RGB", {}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}),
    ("PNG", "P", {}),
    ("WEBP", "RGB", {}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("TIFF", "RGB", {}),
    ("JPEG2000", "RGB", {}),
    ("PPM", "RGB", {}),
    ("TGA", "RGB", {}),
]
TRANSPARENT = [
    ("PNG", lambda: _see_through("RGB"), {}),
    ("PNG", lambda: _see_through("L"), {}),
    ("PNG", lambda: Image.linear_gradient("L").convert("P"), {"transparency": 128}),
    ("WEBP", lambda: _see_through("RGB"), {"lossless": True}),
    ("GIF", lambda: Image.linear_gradient("L").convert("P"), {"transparency": 128}),
    ("TIFF", lambda: _see_through("RGB"), {}),
    ("ICO", lambda: _see_through("RGB"), {}),
    ("JPEG2000", lambda: _see_through("RGB"), {}),
    ("TGA", lambda: _see_through("RGB"), {}),
]


@pytest.mark.parametrize(("form", "mode", "options"), OPAQUE)
@pytest.mark.parametrize("as_file", [False, True])
def test_what_is_behind_an_opaque_picture_changes_nothing(
    store, forwarded, tmp_path, form, mode, options, as_file
):
    X = [_encoded(pictures(1)[0].convert(mode), form, **options)]
    if as_file:
        (tmp_path / "picture").write_bytes(X[0])
        X = [tmp_path / "picture"]
    white, black = (
        CNNFeatures(backbone(), background=b, store=store).transform(X) for b in ("white", "black")
    )
    assert forwarded["all"] == 1
    fresh = CNNFeatures(backbone(), background="black", store=None).transform(X)
    np.testing.assert_array_equal(white, black)
    np.testing.assert_array_equal(black, fresh)


def test_pictures_in_memory_are_known_as_they_look_on_their_background(store, forwarded):
    opaque, see_through = pictures(2), [_see_through("RGB")]
    for background in ("white", "black"):
        features = CNNFeatures(backbone(), background=background, store=store)
        features.transform(opaque)
        features.transform(see_through)
    assert forwarded["all"] == 4


@pytest.mark.parametrize(("form", "draw", "options"), TRANSPARENT)
@pytest.mark.parametrize("as_file", [False, True])
def test_what_shines_through_a_picture_is_not_served_from_the_store(
    store, tmp_path, form, draw, options, as_file
):
    X = [_encoded(draw(), form, **options)]
    if as_file:
        (tmp_path / "picture").write_bytes(X[0])
        X = [tmp_path / "picture"]
    white, black = (
        CNNFeatures(backbone(), background=b, store=store).transform(X) for b in ("white", "black")
    )
    fresh = CNNFeatures(backbone(), background="black", store=None).transform(X)
    assert not np.array_equal(white, black)
    np.testing.assert_array_equal(black, fresh)


def test_transparency_behind_the_pixels_of_a_png_is_noticed(store):
    plain = _encoded(Image.new("L", (20, 20), 7), "PNG")
    chunk = b"tRNS" + struct.pack(">H", 7)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    end = plain.index(b"IEND") - 4
    X = [plain[:end] + chunk + plain[end:]]
    white, black = (
        CNNFeatures(backbone(), background=b, store=store).transform(X) for b in ("white", "black")
    )
    assert not np.array_equal(white, black)


def test_a_network_changed_in_place_is_not_mistaken_for_what_it_was(store):
    shared = backbone()
    X = pictures(2)
    before = CNNFeatures(shared, store=store).transform(X)
    with torch.no_grad():
        shared.module[0].weight.mul_(2)
    after = CNNFeatures(shared, store=store).transform(X)
    assert not np.allclose(before, after)
    np.testing.assert_array_equal(after, CNNFeatures(shared, store=None).transform(X))


def test_a_name_registered_anew_is_not_mistaken_for_what_it_was(store):
    X = pictures(2)
    small = Preprocessing(size=24, resize=24)
    register_backbone("changing", lambda: network(0), preprocessing=small)
    before = CNNFeatures("changing", store=store).transform(X)
    register_backbone("changing", lambda: network(1), preprocessing=small)
    after = CNNFeatures("changing", store=store).transform(X)
    assert not np.allclose(before, after)


def test_hits_do_not_load_the_network(store, monkeypatch):
    X = pictures(2)
    features = CNNFeatures("resnet18", weights=None, image_size=32, store=store)
    expected = features.fit_transform(X)
    names = features.get_feature_names_out()
    monkeypatch.setattr(
        "sktl.engine._network.load_backbone", lambda *_, **__: pytest.fail("the network is loaded")
    )
    again = CNNFeatures("resnet18", weights=None, image_size=32, store=store)
    np.testing.assert_array_equal(again.fit_transform(X), expected)
    np.testing.assert_array_equal(again.get_feature_names_out(), names)
    assert again.backbone_spec_ == features.backbone_spec_


def test_what_was_finished_before_the_damage_is_kept(store, forwarded):
    encoded = []
    for picture in pictures(5):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    encoded[2] = encoded[2][:400]
    features = CNNFeatures(backbone(), store=store)
    with pytest.raises(ImageDecodeError, match=r"\[2\]") as caught:
        features.transform(encoded)
    assert np.isnan(caught.value.features[2]).all()
    assert forwarded["all"] == 4
    del encoded[2]
    np.testing.assert_array_equal(
        features.transform(encoded), np.delete(caught.value.features, 2, axis=0)
    )
    assert forwarded["all"] == 4


def test_an_interrupted_extraction_goes_on_where_it_stopped(store, monkeypatch):
    X = pictures(12)
    features = CNNFeatures(backbone(), store=store, batch_size=2)
    forward = Runner.__call__
    batches = []

    def interrupt(self, pixels):
        batches.append(len(pixels))
        if len(batches) == 4:
            raise KeyboardInterrupt
        return forward(self, pixels)

    monkeypatch.setattr(Runner, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        features.transform(X)
    features.transform(X)
    assert 12 < sum(batches) <= 12 + 3 * 2, "only what was under way is forwarded again"


def test_several_shards_give_what_one_gives(store):
    X = pictures(21)
    expected = CNNFeatures(backbone(), store=None).transform(X)
    sharded = CNNFeatures(backbone(), store=store, n_jobs=2, batch_size=2).transform(X)
    np.testing.assert_allclose(sharded, expected, rtol=1e-5, atol=1e-6)
    assert store.info().loc[0, "rows"] == 21


SCRIPT = """
import sys, time
import numpy as np
from sktl import CNNFeatures
from sktl.engine._runner import Runner

forward, counts = Runner.__call__, []

def count(self, pixels):
    counts.append(len(pixels))
    time.sleep(0.02)
    return forward(self, pixels)

Runner.__call__ = count
X = np.random.default_rng(0).integers(0, 256, (200, 40, 40, 3), dtype=np.uint8)
features = CNNFeatures("resnet18", weights=None, image_size=32, batch_size=4, store=sys.argv[1])
print(sum(counts), float(features.transform(X).sum()), sum(counts))
"""


def test_two_processes_at_once_forward_each_picture_once(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "store")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(int(count) for _, _, count in outputs) == 200
    assert outputs[0][1] == outputs[1][1]


def test_a_grid_search_in_two_processes_fills_the_store_once(store):
    X, y = pictures(), np.arange(20) % 2
    model = Pipeline(
        [("feat", CNNFeatures(backbone(), store=store)), ("clf", LogisticRegression())]
    )
    search = GridSearchCV(model, {"clf__C": [0.1, 1.0, 10.0]}, cv=4, n_jobs=2).fit(X, y)
    alone = GridSearchCV(model, {"clf__C": [0.1, 1.0, 10.0]}, cv=4).fit(X, y)
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )
    assert store.info()["rows"].tolist() == [20]


def test_a_process_that_stands_still_is_not_waited_for_forever(store, monkeypatch):
    X = pictures(6)
    expected = CNNFeatures(backbone(), store=None).transform(X)
    claim = FeatureStore.claim

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        owner = f"{other.pid}-{_claims._beginning(other.pid)}-suspended"

        def by_another(self, layers, wanted, n, *args, by_force=False):
            forced.append(by_force)
            if not any(forced):
                claim(self, layers, wanted, n, owner)
            return claim(self, layers, wanted, n, *args, by_force=by_force)

        forced = []
        monkeypatch.setattr(FeatureStore, "claim", by_another)
        monkeypatch.setattr("sktl.engine._features._PATIENCE_S", 1.0)
        start = time.monotonic()
        found = CNNFeatures(backbone(), store=store, batch_size=2).transform(X)
        assert 1 <= time.monotonic() - start < 3, "not once for all batches"
        other.kill()
    assert sum(forced) == 1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_warming_fills_the_store_for_a_search_over_layers_in_one_pass(store, forwarded):
    X, y = pictures(), np.arange(20) % 2
    features = CNNFeatures(backbone(), store=store)
    assert features.warm(X, layers=["0", "2", "bottleneck"]) is features
    assert forwarded["all"] == 20
    assert store.info()["rows"].tolist() == [20, 20, 20]
    assert features.layer == "bottleneck"
    assert not hasattr(features, "n_features_out_")
    model = Pipeline([("feat", features), ("clf", LogisticRegression())])
    GridSearchCV(model, {"feat__layer": ["0", "2", "bottleneck"]}, cv=2).fit(X, y)
    assert forwarded["all"] == 20


def test_warming_names_bad_pictures_and_keeps_the_others(store):
    X = [*pictures(3), b"not a picture"]
    features = CNNFeatures(backbone(), store=store, on_error="nan")
    with pytest.warns(BadImageWarning, match="1 of 4"):
        features.warm(X)
    assert store.info()["rows"].tolist() == [3]
    with pytest.raises(ImageDecodeError, match="1 of 4"):
        features.set_params(on_error="raise").warm(X)


def test_warming_works_for_maps_of_several_layers(store):
    CNNFeatures(backbone(), pooling="none", store=store).warm(pictures(3), layers=["0", "2"])
    assert store.info()["rows"].tolist() == [3, 3]


def test_warming_nothing_is_refused():
    with pytest.raises(ParameterError, match="store must be a feature store"):
        CNNFeatures(backbone(), store=None).warm(pictures(2))
    with pytest.raises(ParameterError, match="layer must be a name"):
        CNNFeatures(backbone(), store="memory").warm(pictures(2), layers=[])


MEMORY = """
import pathlib, resource, sys
import numpy as np
from torch import nn
from sktl import CNNFeatures
from sktl.backbones import Backbone, Preprocessing

def peak():
    if sys.platform == "linux":  # where ru_maxrss is at least that of the process that started it
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

X = np.random.default_rng(0).integers(0, 256, (6000, 12, 12, 3), dtype=np.uint8)
network = Backbone(nn.Conv2d(3, 16, 8, 8).eval(), preprocessing=Preprocessing(size=64, resize=64))
features = CNNFeatures(network, store=sys.argv[1])
features.fit_transform(X[:600])  # enough for Numba to be loaded
before = peak()
features.fit_transform(X)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    grown = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "store"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    decoded = 5400 * 64 * 64 * 3
    assert int(grown) < decoded / 4


def test_one_layer_under_several_names_is_forwarded_once(store, forwarded):
    net = {"backbone": "resnet18", "weights": None, "image_size": 32, "store": store}
    expected = CNNFeatures(**net).fit_transform(pictures())
    for layer in (-1, "layer4"):
        found = CNNFeatures(layer=layer, **net).fit_transform(pictures())
        np.testing.assert_array_equal(found, expected)
    assert forwarded["all"] == 20
    CNNFeatures(layer="layer3", **net).fit_transform(pictures())
    assert forwarded["all"] == 40


def test_a_file_that_changes_while_it_waits_is_not_stored(store, tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    before, after = pictures(2)
    before.save(path)
    content = path.read_bytes()
    read = ImageCollection.read

    def change(self, *args, **options):
        after.save(path)
        return read(self, *args, **options)

    features = CNNFeatures(backbone(), store=store)
    expected = CNNFeatures(backbone(), store=None).transform([before, after])
    monkeypatch.setattr(ImageCollection, "read", change)
    np.testing.assert_allclose(features.transform([path])[0], expected[1], rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(ImageCollection, "read", read)
    np.testing.assert_allclose(features.transform([content])[0], expected[0], rtol=1e-5, atol=1e-6)


def test_weights_that_look_like_the_old_file_are_read(store, tmp_path):
    rows = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            torch.save(torchvision.models.resnet18().state_dict(), tmp_path / f"{seed}.pth")
    for seed in range(2):
        shutil.copyfile(tmp_path / f"{seed}.pth", tmp_path / "w.pth")
        os.utime(tmp_path / "w.pth", (1e9, 1e9))
        features = CNNFeatures("resnet18", weights=tmp_path / "w.pth", image_size=32, store=store)
        rows.append(features.fit_transform(pictures(3)))
    assert np.abs(rows[0] - rows[1]).max() > 0.01


def test_facts_of_other_weights_are_forgotten_when_the_network_is_loaded(store, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "w.pth")
    network = Network("resnet18", tmp_path / "w.pth", store)
    known = network.spec.digest
    again = Network("resnet18", tmp_path / "w.pth", store)
    again._known["spec"]["digest"] = "that of another file"
    with pytest.raises(WeightsError, match="no longer those"):
        again.load()
    assert Network("resnet18", tmp_path / "w.pth", store).spec.digest == known


def test_several_small_networks_stay_ready(monkeypatch):
    made = []
    make = _runtime.make_runner
    monkeypatch.setattr(_runtime, "make_runner", lambda *a, **k: made.append(a) or make(*a, **k))
    _runtime._ready.clear()
    several = [
        CNNFeatures("resnet18", weights=None, image_size=size, store=None) for size in (32, 40, 48)
    ]
    for features in several * 3:
        features.transform(pictures(1))
    assert len(made) == 3
    monkeypatch.setattr(_runtime, "_READY_BYTES", 1)
    for features in several:
        features.transform(pictures(1))
    several[0].transform(pictures(1))
    assert len(_runtime._ready) <= 3
    _runtime._ready.clear()


def test_hits_are_counted_though_seldom_written(tmp_path):
    path = tmp_path / "store"
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "import test_features as t\n"
        "from sktl import CNNFeatures, FeatureStore\n"
        "features = CNNFeatures(t.backbone(), store=sys.argv[2])\n"
        "for _ in range(6): features.transform(t.pictures(3))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(path)], check=True)
    store = FeatureStore(path)
    assert store.info()[["rows", "hits"]].to_numpy().tolist() == [[3, 15]]
    CNNFeatures(backbone(), store=store).transform(pictures(3))
    CNNFeatures(backbone(), store=store).transform(pictures(3))
    assert store.info()["hits"].tolist() == [21]


@pytest.mark.parametrize("becomes", ["another", "gone"])
def test_what_changes_while_it_waits_does_not_stand_for_its_equals(
    store, tmp_path, monkeypatch, becomes
):
    before, after = pictures(2)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        before.save(path)
    expected = CNNFeatures(backbone(), store=None).transform([after, before])
    read, read_already = ImageCollection.read, []

    def change(self, *args, **options):
        if not read_already:
            after.save(paths[0]) if becomes == "another" else paths[0].unlink()
        read_already.append(args)
        return read(self, *args, **options)

    monkeypatch.setattr(ImageCollection, "read", change)
    features = CNNFeatures(backbone(), store=store)
    if becomes == "another":
        rows = features.transform(paths)
        np.testing.assert_allclose(rows[0], expected[0], rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(
            ImageDecodeError, match=r"1 of 3 (.|\n)*0\.png: file not found"
        ) as error:
            features.transform(paths)
        rows = error.value.features
        assert np.isnan(rows[0]).all()
    np.testing.assert_allclose(rows[1:], expected[[1, 1]], rtol=1e-5, atol=1e-6)
    assert len(read_already) == 2, "its equals share one forward pass"


def test_equal_pictures_that_are_damaged_are_named_each(store, tmp_path):
    content = io.BytesIO()
    pictures(1)[0].save(content, "PNG")
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        path.write_bytes(content.getvalue()[:-700])
    with pytest.raises(ImageDecodeError) as error:
        CNNFeatures(backbone(), store=store).transform(paths)
    assert [bad.source for bad in error.value.failures] == list(map(str, paths))


def test_workers_read_the_files_of_the_folder_one_is_in_now(store, tmp_path, monkeypatch):
    names = [f"{i}.png" for i in range(4)]
    expected = {}
    for seed, folder in enumerate(["a", "b"]):
        (tmp_path / folder).mkdir()
        for name, picture in zip(names, pictures(8)[4 * seed :], strict=False):
            picture.save(tmp_path / folder / name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            torch.save(torchvision.models.resnet18().state_dict(), tmp_path / folder / "w.pth")
        monkeypatch.chdir(tmp_path / folder)
        options = {"backbone": "resnet18", "weights": "w.pth", "image_size": 32, "batch_size": 2}
        expected[folder] = CNNFeatures(**options, store=None).fit_transform(names)
        found = CNNFeatures(**options, store=store, n_jobs=2).fit_transform(names)
        np.testing.assert_allclose(found, expected[folder], rtol=1e-4, atol=1e-5)
    assert np.abs(expected["a"] - expected["b"]).max() > 0.01
    (tmp_path / "b" / names[2]).write_bytes(b"none")
    with pytest.raises(ImageDecodeError) as error:
        CNNFeatures(**options, store=None, n_jobs=2).fit_transform(names)
    assert [bad.source for bad in error.value.failures] == [names[2]]


def test_numpys_numbers_are_as_good_as_pythons(store, forwarded):
    X = pictures(3)
    expected = CNNFeatures("resnet18", weights=None, image_size=32, layer=3, store=store)
    expected = expected.fit_transform(X)
    n = forwarded["all"]
    found = CNNFeatures(
        "resnet18", weights=None, image_size=np.int64(32), layer=np.int64(3), store=store
    )
    np.testing.assert_array_equal(found.fit_transform(X), expected)
    assert forwarded["all"] == n
    small = Preprocessing(size=np.int64(24), resize=np.int64(28))
    assert (type(small.size), type(small.resize)) == (int, int)
    rows = CNNFeatures(Backbone(network(), preprocessing=small), store=store).fit_transform(X)
    np.testing.assert_array_equal(rows, CNNFeatures(backbone(), store=store).fit_transform(X))


@pytest.mark.parametrize("shape", [(30, 34, 3), (30, 34)])
def test_pictures_in_a_data_set_are_read_for_their_digest_and_once_more(
    store, tmp_path, monkeypatch, shape
):
    h5py = pytest.importorskip("h5py")
    reads = []
    read = h5py.Dataset.__getitem__

    def count(self, key, *args, **options):
        reads.append(key)
        return read(self, key, *args, **options)

    with h5py.File(tmp_path / "pictures.h5", "w") as file:
        file["x"] = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
        images = as_images(file["x"])
        monkeypatch.setattr(h5py.Dataset, "__getitem__", count)
        rows = CNNFeatures(backbone(), store=store).fit_transform(images)
        assert len(reads) == 2 * 5
        again = CNNFeatures(backbone(), store=None).fit_transform(images)
        assert len(reads) == 3 * 5
    np.testing.assert_allclose(rows, again, rtol=1e-5, atol=1e-6)
