"""Exports that meet each other, and imports of what is no sound export."""

import contextlib
import multiprocessing
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from sktl import FeatureStore
from sktl.engine import _exchange
from sktl.engine._store import StoredLayer
from sktl.exceptions import ParameterError

LAYER = StoredLayer(b"layer", "net", {"layer": "bottleneck"})
KEYS = [bytes([i + 1]) * 20 for i in range(10)]
ROWS = np.random.default_rng(0).normal(size=(10, 300)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    store = FeatureStore(tmp_path / "features.sqlite")
    store.put(LAYER, KEYS, ROWS)
    return store


@pytest.fixture
def exported(store, tmp_path):
    return store.export_hdf5(tmp_path / "f.h5")


def rows_of(store):
    rows = np.full((10, 300), np.nan, np.float32)
    store.fill(LAYER, KEYS, rows)
    return rows


def refused(path):
    """What an import says that must leave no store behind."""
    store = FeatureStore(path.with_name("new.sqlite"))
    with pytest.raises(ParameterError) as caught:
        store.import_hdf5(path)
    assert str(path) in str(caught.value)
    assert not store.path.exists()
    return str(caught.value)


def export_often(store, target, start):
    start.wait()
    for _ in range(10):
        FeatureStore(store).export_hdf5(target)


def test_exports_to_one_file_at_once(store, tmp_path):
    context = multiprocessing.get_context("spawn")
    target, start = tmp_path / "f.h5", context.Barrier(2)
    processes = [
        context.Process(target=export_often, args=(store.path, target, start)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 2
    assert FeatureStore(tmp_path / "other").import_hdf5(target) == 10
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("error", [OSError("disk is full"), RuntimeError("HDF5: no room")])
def test_an_export_that_fails_leaves_the_one_before(store, exported, monkeypatch, error):
    def fail(*args):
        raise error

    before = exported.read_bytes()
    monkeypatch.setattr(_exchange, "_rows", fail)
    with pytest.raises(ParameterError, match=rf"f\.h5 cannot be written: {error}"):
        store.export_hdf5(exported)
    assert exported.read_bytes() == before
    assert not list(exported.parent.glob("*.unfinished"))


def test_an_export_to_where_nothing_can_be_written(store, tmp_path):
    for target in (tmp_path / "none" / "f.h5", tmp_path):
        with pytest.raises(ParameterError, match=f"{target} cannot be written"):
            store.export_hdf5(target)
    assert [path.name for path in tmp_path.iterdir()] == ["features.sqlite"]


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_a_store_is_not_exported_onto_itself(store, tmp_path, link):
    target = store.path if link is None else tmp_path / "link"
    if link is not None:
        link(store.path, target)
    with pytest.raises(ParameterError, match="is the feature store itself"):
        store.export_hdf5(target)
    np.testing.assert_array_equal(rows_of(store), ROWS)


@pytest.mark.parametrize("wrong", ["nul\0l", "caf\udce9", b"caf\xe9"])
def test_labels_that_are_no_text_are_named(store, tmp_path, wrong):
    X = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    labels = ["fine", wrong] if isinstance(wrong, str) else [b"fine", wrong]
    with pytest.raises(ParameterError, match=r"cannot hold the labels \['[nc].*remove") as caught:
        store.export_hdf5(tmp_path / "f.h5", X, labels)
    assert "fine" not in str(caught.value)
    assert not list(tmp_path.glob("f.h5*"))


def test_flipped_bits_are_noticed(exported):
    content = exported.read_bytes()
    place = content.index(ROWS[3].tobytes())
    flipped = exported.with_name("flipped.h5")
    flipped.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert "damaged" in refused(flipped)
    place = content.index(KEYS[3])
    flipped.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert "damaged" in refused(flipped)
    place = content.index(b'"bottleneck"')
    flipped.write_bytes(content[:place] + b"'" + content[place + 1 :])
    assert "recipe/net bottleneck" in refused(flipped)


def test_no_damage_gives_other_numbers(exported):
    content, rng = exported.read_bytes(), np.random.default_rng(0)
    damaged, n_sound = exported.with_name("damaged.h5"), 0
    for i in range(100):
        changed = bytearray(content)
        for place in rng.integers(len(content), size=20):
            changed[place] ^= 1 << int(rng.integers(8))
        damaged.write_bytes(changed)
        store = FeatureStore(exported.with_name(f"{i}.sqlite"))
        with contextlib.suppress(ParameterError):
            store.import_hdf5(damaged)
            np.testing.assert_array_equal(rows_of(store), ROWS)
            n_sound += 1
    assert n_sound < 20


def test_half_a_file_is_refused(exported):
    content = exported.read_bytes()
    exported.write_bytes(content[: len(content) // 2])
    assert "not an HDF5 file, or damaged" in refused(exported)


@pytest.mark.parametrize("name", ["digests", "recipe", "features", "features/net bottleneck"])
def test_what_lacks_a_part_is_refused(exported, name):
    with h5py.File(exported, "r+") as file:
        del file[name]
    assert "damaged" in refused(exported)


CHANGES = {
    "digests": np.zeros((9, 20), np.uint8),
    "digests ": np.zeros((10, 19), np.uint8),
    "digests  ": np.zeros((10, 20), np.int64),
    "features/net bottleneck": ROWS.astype(">f4"),
    "features/net bottleneck ": ROWS.astype(np.float64),
    "features/net bottleneck  ": np.array(["text"] * 10, dtype=object),
    "recipe/net bottleneck": b"\xff\xfe",
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_fit_together_is_refused(exported, name):
    with h5py.File(exported, "r+") as file:
        attributes = dict(file[name.strip()].attrs)
        del file[name.strip()]
        file[name.strip()] = CHANGES[name]
        file[name.strip()].attrs.update(attributes)
    assert "damaged" in refused(exported)


def test_nothing_of_a_damaged_file_is_imported(store, exported):
    other = FeatureStore(exported.with_name("other"))
    other.put(StoredLayer(b"other", "net", {}), KEYS[:1], ROWS[:1])
    content = exported.read_bytes()
    place = content.index(ROWS[9].tobytes())
    exported.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ParameterError, match="damaged"):
        other.import_hdf5(exported)
    assert other.info()["rows"].tolist() == [1]


def test_rows_of_many_chunks_come_back(tmp_path):
    store, other = FeatureStore(tmp_path / "store"), FeatureStore(tmp_path / "other")
    maps = np.random.default_rng(0).normal(size=(1203, 5, 200)).astype(np.float32)
    keys = [b"%020d" % i for i in range(len(maps))]
    store.put(LAYER, keys, maps)
    exported = store.export_hdf5(tmp_path / "f.h5")
    with h5py.File(exported) as file:
        assert file["features/net bottleneck"].chunks == (262, 5, 200)
    assert other.import_hdf5(exported) == 1203
    rows = np.empty_like(maps)
    assert other.fill(LAYER, keys, rows).all()
    np.testing.assert_array_equal(rows, maps)


def test_exports_without_checksums_are_read(exported):
    for name in ("features/net bottleneck", "digests", "recipe/net bottleneck"):
        with h5py.File(exported, "r+") as file:
            values, attributes = file[name][()], dict(file[name].attrs)
            attributes.pop("crc", None)
            del file[name]
            file[name] = values
            file[name].attrs.update(attributes)
    other = FeatureStore(exported.with_name("other"))
    assert other.import_hdf5(exported) == 10
    np.testing.assert_array_equal(rows_of(other), ROWS)


FULL = """
import resource, signal, sys
from sktl import FeatureStore
from sktl.exceptions import ParameterError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for size in range(1000, 8_000_000, 500_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))
    try:
        FeatureStore(sys.argv[1]).export_hdf5(sys.argv[2])
    except ParameterError:
        continue
    raise SystemExit("exported, though there was no room")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_full_disk_is_survived(tmp_path):
    store = FeatureStore(tmp_path / "store")
    keys, rows = [b"%020d" % i for i in range(1000)], np.ones((1000, 1000), np.float32)
    for layer in (b"one", b"two"):
        store.put(StoredLayer(layer, "net", {}), keys, rows)
    store.verify()  # what SQLite has to write is written
    command = [sys.executable, "-c", FULL, str(store.path), str(tmp_path / "f.h5")]
    subprocess.run(command, check=True, timeout=120)
    assert not list(tmp_path.glob("f.h5*"))
