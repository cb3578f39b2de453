"""Stores that are replaced, too small, damaged or full, and how often that is said."""

import itertools
import sqlite3
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from sktl import CNNFeatures, FeatureStore
from sktl.engine import _access, _database, _store, resolve_store
from sktl.engine._store import StoredLayer
from sktl.exceptions import ParameterError, StoreWarning

LAYER = StoredLayer(b"layer", "net", {"layer": "bottleneck"})
KEYS = [bytes([i]) * 20 for i in range(10)]
ROWS = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "features.sqlite")


def count(store):
    return store.info()["rows"].sum()


def fill(store, layer=LAYER, keys=KEYS):
    return store.fill(layer, keys)


def delete(store):
    for path in store.path.parent.glob(store.path.name + "*"):
        path.unlink()


# Where it is


@pytest.mark.parametrize("is_replaced", [False, True])
def test_what_is_written_goes_to_the_file_that_is_there_now(store, is_replaced):
    with store.held():
        store.put(LAYER, KEYS[:3], ROWS[:3])
        delete(store)
        if is_replaced:
            FeatureStore(store.path).put(LAYER, KEYS[3:5], ROWS[3:5])
        store.put(LAYER, KEYS[5:], ROWS[5:])
    assert fill(FeatureStore(store.path)).tolist() == [False] * 3 + [is_replaced] * 2 + [True] * 5


def test_a_relative_cache_folder_is_that_of_the_moment(tmp_path, monkeypatch):
    monkeypatch.setenv("SKTL_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    store = FeatureStore()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put(LAYER, KEYS, ROWS)
    assert (tmp_path / "cache" / "features.sqlite").is_file()


def test_the_memory_store_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory = resolve_store("memory")
    assert eval(repr(memory)) is memory
    assert memory.info().attrs["path"] == ":memory:"
    with pytest.raises(ParameterError, match='pass store="memory"'):
        FeatureStore(":memory:")
    assert not list(tmp_path.iterdir())


def test_the_memory_store_can_be_limited(monkeypatch):
    memory = resolve_store("memory")
    monkeypatch.setattr(memory, "max_bytes", 300_000)
    for start in range(0, 200, 20):
        memory.put(LAYER, many(20, start), np.zeros((20, 1000), np.float32))
    assert 0 < count(memory) < 100
    memory.clear()
    assert count(memory) == 0


# What is in it


def test_pictures_that_are_asked_for_twice_are_filled_twice(store):
    store.put(LAYER, KEYS, ROWS)
    rows = np.full((5, 7), np.nan, np.float32)
    found = store.fill(LAYER, [KEYS[1], KEYS[2], None, KEYS[1], KEYS[1]], rows)
    assert found.tolist() == [True, True, False, True, True]
    np.testing.assert_array_equal(rows[found], ROWS[[1, 2, 1, 1]])


# How large it is


def used_bytes(path):
    with sqlite3.connect(path) as db:
        pages, free, size = (
            db.execute(f"PRAGMA {p}").fetchone()[0]
            for p in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size


def many(n, start=0):
    return [b"%020d" % i for i in range(start, start + n)]


def test_a_full_store_is_emptied_by_a_tenth_of_its_limit(tmp_path):
    store = FeatureStore(tmp_path / "store", max_bytes=500_000)
    sizes = []
    for start in range(0, 1000, 10):
        store.put(LAYER, many(10, start), np.zeros((10, 500), np.float32))
        sizes.append(used_bytes(store.path))
    falls = [after for before, after in itertools.pairwise(sizes) if after < before]
    assert 0 < len(falls) < 50, "not each write deletes"
    assert all(300_000 < size <= 450_000 for size in falls)
    assert max(sizes) <= 500_000


def test_a_call_that_needs_more_than_the_limit_is_told_once(tmp_path):
    store = FeatureStore(tmp_path / "store", max_bytes=300_000)

    def put(start):
        store.put(LAYER, many(20, start), np.zeros((20, 1000), np.float32))

    for start in range(0, 200, 20):
        put(start)  # each is a call of its own, whose rows have room
    with warnings.catch_warnings(record=True) as caught, store.held():
        warnings.simplefilter("always")
        for start in range(200, 400, 20):
            put(start)
    (warning,) = caught
    assert warning.category is StoreWarning
    assert "max_bytes=300000 is too small" in str(warning.message)
    assert count(store) < 200
    FeatureStore(store.path, max_bytes=1).put(LAYER, KEYS, ROWS)


def test_paths_are_forgotten_before_they_take_the_place_of_rows(tmp_path):
    store = FeatureStore(tmp_path / "store", max_bytes=400_000)
    store.put(LAYER, many(40), np.zeros((40, 1000), np.float32))
    files = [(f"/folder/{i:0100}", 1, 1, 1, i, KEYS[0], 1) for i in range(5000)]
    with sqlite3.connect(store.path) as db:
        db.executemany("INSERT INTO files VALUES (?,?,?,?,?,?,?)", files)
    store.put(LAYER, many(5, 40), np.zeros((5, 1000), np.float32))
    assert used_bytes(store.path) <= 400_000
    assert count(store) == 45
    with sqlite3.connect(store.path) as db:
        n, oldest = db.execute("SELECT COUNT(*), MIN(ctime_ns) FROM files").fetchone()
    assert 0 < n == 5000 - oldest, "those that changed longest ago are gone"


def test_paths_alone_do_not_outgrow_the_limit(tmp_path):
    store = FeatureStore(tmp_path / "store", max_bytes=150_000)
    for i in range(1500):
        (tmp_path / f"{i:0150}").write_bytes(b"%d" % i)
    store.see_files([str(tmp_path / f"{i:0150}") for i in range(1500)])
    assert used_bytes(store.path) <= 150_000


# When it cannot be used


@pytest.fixture
def blocked(tmp_path):
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "store"


def test_a_file_that_cannot_be_used_is_told_once_in_all_its_stores(blocked):
    with pytest.warns(StoreWarning, match="cannot be used"):
        resolve_store(blocked).put(LAYER, KEYS, ROWS)
    for store in (resolve_store(blocked), resolve_store(str(blocked)), FeatureStore(blocked)):
        store.put(LAYER, KEYS, ROWS)  # without a second warning, which would be an error here
        store.remember_network("a", {})


def test_a_file_that_rests_is_not_opened(blocked, monkeypatch):
    with pytest.warns(StoreWarning):
        FeatureStore(blocked).put(LAYER, KEYS, ROWS)
    monkeypatch.setattr(_database.Database, "open", lambda self: pytest.fail("opened"))
    FeatureStore(blocked).put(LAYER, KEYS, ROWS)


def rest_after_failure(path):
    """Seconds, of a failure now."""
    _access._rests[path].until = 0.0
    with pytest.warns(StoreWarning):
        FeatureStore(path).put(LAYER, KEYS, ROWS)
    return round(_access._rests[path].until - time.monotonic(), -1)


def test_rests_grow_until_something_is_written(blocked):
    assert [rest_after_failure(blocked) for _ in range(3)] == [60, 120, 240]
    blocked.parent.unlink()
    _access._rests[blocked].until = 0.0
    FeatureStore(blocked).put(LAYER, KEYS, ROWS)
    delete(FeatureStore(blocked))
    blocked.mkdir()
    assert rest_after_failure(blocked) == 60


def test_a_store_that_can_be_looked_at_again_rests_no_longer(blocked):
    rest_after_failure(blocked)
    blocked.parent.unlink()
    store = FeatureStore(blocked)
    store.put(LAYER, KEYS, ROWS)
    assert not store.path.exists(), "it rests"
    other = FeatureStore(blocked.parent.with_name("other"))
    other.put(LAYER, KEYS, ROWS)
    store.import_hdf5(other.export_hdf5(blocked.parent.with_name("f.h5")))
    assert fill(store).all()


@pytest.fixture
def damaged(store):
    """The file is one of ours, but its pages are not."""
    store.put(LAYER, KEYS * 50, np.tile(ROWS, (50, 1)))
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(store.path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    store.path.write_bytes(content)
    return store


def calls(store, folder):
    healthy = FeatureStore(folder / "healthy")
    healthy.put(LAYER, KEYS, ROWS)
    exported = healthy.export_hdf5(folder / "in.h5")
    return {
        "info": store.info,
        "clear": store.clear,
        "clear one": lambda: store.clear("net"),
        "export": lambda: store.export_hdf5(folder / "out.h5"),
        "import": lambda: store.import_hdf5(exported),
    }


def test_damage_is_an_error_with_a_remedy(damaged, tmp_path):
    for name, call in calls(damaged, tmp_path).items():
        with pytest.raises(ParameterError) as caught:
            call()
        assert f"feature store {damaged.path} cannot be used: " in str(caught.value), name
        assert "is damaged, delete it" in str(caught.value), name
    assert not list(tmp_path.glob("out.h5*"))


def test_layers_that_make_no_sense_are_an_error_with_a_remedy(store, tmp_path):
    store.put(LAYER, KEYS, ROWS)
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE layers SET dtype = 'floa432'")
    with pytest.raises(ParameterError, match=r"cannot be used: .*floa432.*is damaged, delete it"):
        store.export_hdf5(tmp_path / "out.h5")
    assert not list(tmp_path.glob("out.h5*"))


def test_a_full_disk_is_an_error_with_a_remedy_and_what_can_be_read_is_told(
    store, tmp_path, monkeypatch
):
    store.put(LAYER, KEYS, ROWS)
    fill(store)
    fill(store)  # to be noted
    todo = calls(store, tmp_path)

    def write_hits(db, path):
        raise sqlite3.OperationalError("database or disk is full")

    def write_rows(*args):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(_store, "write_hits", write_hits)
    monkeypatch.setattr(_store, "write_rows", write_rows)
    assert todo["info"]()["rows"].tolist() == [10]
    with pytest.raises(ParameterError, match=r"disk is full\. .*make room or delete the file"):
        todo["import"]()


def test_warnings_as_errors_are_not_mistaken_for_failures(tmp_path):
    store = FeatureStore(tmp_path / "store", max_bytes=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StoreWarning, match="too small"):
            store.put(LAYER, KEYS, ROWS)
    assert not _access._rests[store.path].until


def test_a_store_that_was_deleted_is_tried_again_once_it_was_looked_for(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_text("no database at all, but text")
    features = CNNFeatures("lenet", weights=None, store=path)
    pictures = [Image.new("RGB", (40, 40), (level, 0, 0)) for level in (10, 200)]
    with pytest.warns(StoreWarning, match="cannot be used"):
        features.fit_transform(pictures)
    path.unlink()
    assert len(FeatureStore(path).info()) == 0
    features.fit_transform(pictures)
    assert FeatureStore(path).info()["rows"].tolist() == [2]


def test_what_is_cleared_is_named(tmp_path):
    store = FeatureStore(tmp_path / "store.sqlite")
    with pytest.raises(ParameterError, match="backbone must be a name"):
        store.clear(["resnet18"])
