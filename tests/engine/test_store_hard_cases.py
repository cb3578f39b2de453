"""What stores are told apart by, and what they meet outside of a laboratory."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sktl import CNNFeatures, FeatureStore
from sktl.backbones import Backbone, Preprocessing
from sktl.engine import _access, _claims, _database, _features, _store
from sktl.engine._digests import picture_digests
from sktl.exceptions import ParameterError, StoreWarning
from sktl.images import as_images


def pictures(n=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 40, 30, 3), dtype=np.uint8)


def small(*behind, before=(), seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(*before, nn.Conv2d(3, 8, 3, 2), *behind)
    return Backbone(module.eval(), preprocessing=Preprocessing(size=24, resize=28))


def features(store, backbone=None, **parameters):
    return CNNFeatures(backbone or small(), store=store, **parameters)


def n_rows(store):
    return store.info()["rows"].tolist()


class Clamped(nn.Module):
    def __init__(self, least):
        super().__init__()
        self.least = least

    def forward(self, x):
        return x.clamp(min=self.least)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([nn.ReLU()], [nn.Identity()]),
        ([nn.Hardtanh(-1.5, 1.5)], [nn.Hardtanh(-2, 2)]),
        ([Clamped(0.0)], [Clamped(-9.0)]),
        ([nn.BatchNorm2d(3, eps=1e-3)], [nn.BatchNorm2d(3, eps=1.1e-3)]),
    ],
    ids=["relu", "hardtanh", "own", "eps"],
)
def test_networks_with_the_same_tensors_are_told_apart(tmp_path, one, other):
    store = FeatureStore(tmp_path / "store")
    first = features(store, small(before=one)).fit_transform(pictures())
    second = features(store, small(before=other)).fit_transform(pictures())
    assert n_rows(store) == [6, 6]
    assert not np.array_equal(first, second)
    features(store, small(before=one)).fit_transform(pictures())
    assert n_rows(store) == [6, 6]


def test_what_does_not_change_the_numbers_does_not_change_the_key(tmp_path):
    store = FeatureStore(tmp_path / "store")
    features(store).fit_transform(pictures())
    features(store, image_size=24).fit_transform(pictures())
    assert n_rows(store) == [6]
    flat = small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    for pooling in ("avg", "max"):
        features(store, flat, layer="penultimate", pooling=pooling).fit_transform(pictures())
    assert n_rows(store) == [6, 6]


def test_a_folder_that_may_not_be_entered(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    store = FeatureStore(tmp_path / "store")
    monkeypatch.setattr(type(store._access.database), "exists", refuse)
    with pytest.warns(StoreWarning, match="cannot be used"):
        found = features(store).fit_transform(pictures())
    np.testing.assert_array_equal(found, features(None).fit_transform(pictures()))


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text on other systems")
def test_file_names_that_are_no_text(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.fromarray(pictures()[0]).save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", path)
    store = FeatureStore(tmp_path / "store")
    found = features(store).fit_transform([path, str(tmp_path / "a.png")])
    np.testing.assert_array_equal(found[0], found[1])
    assert n_rows(store) == [1]
    store.export_hdf5(tmp_path / "out.h5", [path])


def test_rows_used_last_are_evicted_last(tmp_path):
    X = pictures(400)
    path = tmp_path / "store"
    features(FeatureStore(path)).fit_transform(X)
    limit = path.stat().st_size - 1
    store = FeatureStore(path, max_bytes=limit)
    features(store).fit_transform(X[:100])
    features(store).fit_transform(pictures(100, seed=1))
    found = store.fill(*_name_and_digests(store, X))
    assert 0 < np.sum(~found) < 300
    assert found[:100].all()
    assert path.stat().st_size <= limit


def _name_and_digests(store, X):
    from sktl.engine import Network, Recipe
    from sktl.engine._features import _stored_layer

    images = as_images(X)
    network = Network(small(), "default", None)
    (fingerprint,) = network.fingerprints(["bottleneck"])
    name = _stored_layer(network, Recipe(), "bottleneck", fingerprint, {})
    return name, picture_digests(images, store)


@pytest.mark.parametrize("limit", [None, "20GB", 0, -1, True, float("nan")])
def test_limits_are_checked(limit, tmp_path):
    with pytest.raises(ParameterError, match="max_bytes must be a number"):
        FeatureStore(tmp_path / "store", max_bytes=limit)


DAMAGE = [
    "UPDATE networks SET content = 'x' || content",
    "UPDATE networks SET content = replace(content, 'spec', 'spxc')",
    "UPDATE layers SET description = 'x' || description",
    "UPDATE layers SET description = '3'",
    "UPDATE layers SET dtype = 'floa432'",
    "UPDATE features SET row = 'text', crc = 3",
    "UPDATE features SET picture = 7 WHERE id = 1",
    "UPDATE features SET crc = 'x'",
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.filterwarnings("ignore::sktl.exceptions.StoreWarning")  # a word about it is fine
def test_damage_costs_no_work(tmp_path, damage):
    parameters = {"backbone": "resnet18", "weights": None, "image_size": 32}
    store = FeatureStore(tmp_path / "store")
    expected = features(store, **parameters).fit_transform(pictures())
    with sqlite3.connect(store.path) as db:
        db.execute(damage)
    db.close()
    store = FeatureStore(tmp_path / "store")
    found = features(store, **parameters).fit_transform(pictures())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    store = FeatureStore(tmp_path / "store")
    assert len(store.info()) == len(store.verify()) == 1


CHILD = "import sys, time; print('here', flush=True); time.sleep(60)"


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell the state of a process")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_who_was_killed_or_stopped_claims_nothing(how):
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        assert _claims._is_alive(child.pid)
        child.send_signal(how)  # and is not waited for: a zombie
        deadline = time.monotonic() + 10
        while _claims._is_alive(child.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not _claims._is_alive(child.pid)
    finally:
        child.kill()
        child.communicate()
    assert not _claims._is_alive(child.pid)


def test_paths_of_files_written_just_now_are_exported(tmp_path):
    paths = []
    for i, array in enumerate(pictures()):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    store = FeatureStore(tmp_path / "store")
    before = features(store).fit_transform(paths)
    with h5py.File(store.export_hdf5(tmp_path / "out.h5")) as file:
        assert file["paths"].asstr()[:].tolist() == paths
    shutil.copy(paths[1], paths[0])  # as large, and within the same tick of the clock
    np.testing.assert_array_equal(features(store).fit_transform(paths[:1])[0], before[1])


@pytest.mark.parametrize("labels", [np.array([b"a", b"b"]), np.array(["2020-01-01"] * 2, "M8[D]")])
def test_labels_of_other_types_are_exported_as_text(tmp_path, labels):
    store = FeatureStore(tmp_path / "store")
    X = pictures(2)
    features(store).fit_transform(X)
    with h5py.File(store.export_hdf5(tmp_path / "out.h5", X, labels)) as file:
        assert file["labels"].asstr()[:].tolist() == labels.astype(str).tolist()


def test_numbers_too_large_for_16_bits_are_not_rounded_to_infinity(tmp_path):
    backbone = small()
    with torch.no_grad():
        backbone.module[0].weight *= 1e6
    store = FeatureStore(tmp_path / "store", dtype="float16")
    with pytest.warns(StoreWarning, match="too large for float16"):
        found = features(store, backbone).fit_transform(pictures())
    np.testing.assert_array_equal(found, features(None, backbone).fit_transform(pictures()))
    assert sum(n_rows(store)) == 0


def test_imports_of_another_dtype_are_refused(tmp_path):
    half = FeatureStore(tmp_path / "half", dtype="float16")
    features(half).fit_transform(pictures())
    half.export_hdf5(tmp_path / "out.h5")
    with pytest.raises(ParameterError, match="float16, which a store in float32"):
        FeatureStore(tmp_path / "full").import_hdf5(tmp_path / "out.h5")


def test_a_store_stays_where_it_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = FeatureStore("store.sqlite")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    features(store).fit_transform(pictures())
    assert (tmp_path / "store.sqlite").is_file()


def test_bytes_of_a_store_in_memory():
    extractor = features("memory").fit(pictures())
    extractor.transform(pictures())
    from sktl.engine import resolve_store

    assert resolve_store("memory").info().attrs["bytes"] > 0


def test_facts_of_networks_are_remembered_across_stores(tmp_path):
    parameters = {"backbone": "resnet18", "weights": None, "image_size": 32}
    features(FeatureStore(tmp_path / "store"), **parameters).fit_transform(pictures())
    with sqlite3.connect(tmp_path / "store") as db:
        ((content,),) = db.execute("SELECT content FROM networks").fetchall()
    db.close()
    assert json.loads(content.partition(" ")[2])["spec"]["name"] == "resnet18"


def test_rows_that_were_read_count_even_where_their_use_cannot_be_noted(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path / "store")
    expected = features(store).fit_transform(pictures())
    monkeypatch.setattr(_database, "_WAIT_S", 0.1)
    model = features(FeatureStore(tmp_path / "store")).fit(pictures())
    monkeypatch.setattr(_features, "extract", None)  # nothing is forwarded again
    writer = sqlite3.connect(tmp_path / "store")
    writer.execute("BEGIN IMMEDIATE")
    try:
        with pytest.warns(StoreWarning, match="locked"):
            rows = model.transform(pictures())
    finally:
        writer.close()
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("gives_back", [True, False])
def test_a_write_that_failed_leaves_no_claims_behind(tmp_path, monkeypatch, gives_back):
    path, X = tmp_path / "store", pictures(20)
    expected = features(None).fit_transform(X)
    write, failed = _store.write_rows, []

    def fail_once(*args):
        if not failed:
            failed.append(True)
            raise sqlite3.OperationalError("database or disk is full")
        return write(*args)

    def fail_again(*args):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(_store, "write_rows", fail_once)
    monkeypatch.setattr(_features, "_PATIENCE_S", 1e9)
    give_back = _store.give_back
    if not gives_back:
        monkeypatch.setattr(_store, "give_back", fail_again)
    with pytest.warns(StoreWarning, match="disk is full"):
        np.testing.assert_array_equal(features(str(path), batch_size=4).fit_transform(X), expected)
    with sqlite3.connect(path) as db:
        (n_claims,) = db.execute("SELECT COUNT(*) FROM claims").fetchone()
        assert (n_claims == 0) == gives_back
        monkeypatch.setattr(_store, "give_back", give_back)
        db.execute("INSERT INTO claims SELECT zeroblob(40), ?", [f"{os.getpid()}-of-before"])
    store = FeatureStore(path)
    store.info()  # ends its rest
    np.testing.assert_array_equal(features(store, batch_size=4).fit_transform(X), expected)
    assert n_rows(store) == [20]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT COUNT(*) FROM claims").fetchone() == (0,)


def test_the_file_shrinks_with_its_limit(tmp_path):
    path = tmp_path / "store"
    features(FeatureStore(path), pooling="none").fit_transform(pictures(200))
    before = path.stat().st_size
    store = FeatureStore(path, max_bytes=before // 4)
    features(store, pooling="none").fit_transform(pictures(1, seed=1))
    assert 0 < n_rows(store)[0] < 60
    assert store.info().attrs["bytes"] <= before // 4
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size <= before // 4


def test_facts_of_networks_that_are_no_text_are_found_out_anew(tmp_path):
    path, X = tmp_path / "store", pictures(3)
    expected = CNNFeatures("resnet18", weights=None, image_size=32, store=path).fit_transform(X)
    with sqlite3.connect(path) as db:
        (n,) = db.execute("SELECT COUNT(*) FROM networks").fetchone()
        assert n
        db.execute("UPDATE networks SET content = CAST(x'ff' || CAST(content AS BLOB) AS TEXT)")
    store = FeatureStore(path)
    again = CNNFeatures("resnet18", weights=None, image_size=32, store=store).fit_transform(X)
    np.testing.assert_array_equal(again, expected)
    assert store.info()["hits"].tolist() == [3]


def test_an_export_of_both_dtypes_is_imported_by_both(tmp_path):
    path, file = tmp_path / "store", tmp_path / "both.h5"
    for dtype in ("float32", "float16"):
        features(FeatureStore(path, dtype=dtype)).fit_transform(pictures(5))
    FeatureStore(path).export_hdf5(file)
    for dtype in ("float32", "float16"):
        store = FeatureStore(tmp_path / dtype, dtype=dtype)
        assert store.import_hdf5(file) == 5
        assert n_rows(store) == [5]


class Rounded(nn.Module):
    def __init__(self, bits):
        super().__init__()
        self.bits = bits

    def forward(self, x):
        scale = self.bits if isinstance(self.bits, int) else self.bits["bits"][0]
        return (x * 2**scale).round() / 2**scale


@pytest.mark.parametrize("one", [12, {"bits": [12]}], ids=["number", "table"])
def test_whole_numbers_of_own_modules_tell_networks_apart(tmp_path, one):
    store = FeatureStore(tmp_path / "store")
    other = 6 if one == 12 else {"bits": [6]}
    first = features(store, small(before=[Rounded(one)])).fit_transform(pictures())
    second = features(store, small(before=[Rounded(other)])).fit_transform(pictures())
    assert n_rows(store) == [6, 6]
    assert not np.array_equal(first, second)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_is_forked_has_a_connection_of_its_own(tmp_path):
    store = FeatureStore(tmp_path / "store")
    with store.held():
        store.see_files([str(tmp_path / "none")])
        store.remember_network("a", {"b": 1})
        held = store._access.database._held
        mine = held.db
        child = os.fork()
        if child == 0:
            with store.held():
                fine = store.network("a") == {"b": 1} and held.db is not mine
            os._exit(0 if fine else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.network("a") == {"b": 1}


def test_a_store_is_tried_again_after_a_failure(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.write_text("in the way")
    store = FeatureStore(folder / "store")
    with pytest.warns(StoreWarning):
        features(store).transform(pictures(2))
    folder.unlink()
    features(store).transform(pictures(2))  # it rests, and nothing is said again
    assert n_rows(store) == []
    monkeypatch.setattr(_access._rests[store.path], "until", 0.0)
    features(store).transform(pictures(2))
    assert n_rows(store) == [2]
    store.path.write_bytes(b"something else" * 1000)
    with pytest.raises(ParameterError, match="cannot be opened"):
        store.info()
    with pytest.raises(ParameterError, match="cannot be opened"):
        store.clear()


@pytest.mark.parametrize(
    "name", ["Memory", "memry", "defualt", ":memory:", "file:x?mode=memory", "None", ""]
)
def test_words_that_are_no_paths_are_refused(name):
    with pytest.raises(ParameterError, match="store"):
        features(name).transform(pictures(2))


@pytest.mark.parametrize("name", ["./memory", "memory.sqlite", "my_memory", "one", "sub/memory"])
def test_what_may_be_a_path_is_one(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    features(name).transform(pictures(2))
    assert Path(name).is_file()


def test_info_has_whole_numbers_beside_defaults(tmp_path):
    store = FeatureStore(tmp_path / "store")
    features(store).fit_transform(pictures())
    features(store, image_size=28).fit_transform(pictures())
    sizes = store.info()["image_size"]
    assert sizes.dtype == "Int64"
    assert sizes.isna().tolist() == [True, False]
    assert sizes[1] == 28


def test_paths_of_stores(monkeypatch):
    monkeypatch.setenv("SKTL_CACHE", "~/somewhere")
    assert _store.default_store_path() == Path.home() / "somewhere" / "features.sqlite"
    with pytest.raises(ParameterError, match="path must be that of a file; got 3"):
        FeatureStore(3)


def test_a_picture_whose_time_was_put_back_is_read_again(tmp_path):
    path, store = tmp_path / "picture.bmp", FeatureStore(tmp_path / "store")
    one, other = map(Image.fromarray, pictures(2))
    digests = []
    for image in (one, other):
        image.save(path)
        os.utime(path, (1e9, 1e9))
        digests += picture_digests(as_images([path]), store)
    assert digests[0] != digests[1]
