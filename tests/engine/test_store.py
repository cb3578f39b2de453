import json
import multiprocessing
import os
import pickle
import signal
import sqlite3
import threading
import time

import h5py
import numpy as np
import pytest
from PIL import Image

from sktl import CNNFeatures, FeatureStore
from sktl.engine import resolve_store
from sktl.engine._digests import picture_digests
from sktl.engine._store import StoredLayer
from sktl.exceptions import ParameterError, StoreWarning
from sktl.images import as_images
from sktl.images._digest import Content

LAYER = StoredLayer(b"layer", "net", {"layer": "bottleneck", "pooling": "avg"})
KEYS = [bytes([i]) * 20 for i in range(10)]
ROWS = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "folder" / "features.sqlite")


def read(store, keys=KEYS, shape=(7,), layer=LAYER):
    rows = np.full((len(keys), *shape), np.nan, np.float32)
    return store.fill(layer, keys, rows), rows


def test_rows_come_back_bit_for_bit(store):
    assert not read(store)[0].any()
    assert not store.path.exists(), "looking makes no file"
    store.put(LAYER, KEYS[:6], ROWS[:6])
    found, rows = read(store)
    np.testing.assert_array_equal(found, [True] * 6 + [False] * 4)
    np.testing.assert_array_equal(rows[:6], ROWS[:6])
    assert np.isnan(rows[6:]).all()


def test_layers_do_not_meet(store):
    other = StoredLayer(b"other", "net", {})
    store.put(LAYER, KEYS, ROWS)
    store.put(other, KEYS[:2], -ROWS[:2, :3])
    np.testing.assert_array_equal(read(store, KEYS[:2], (3,), other)[1], -ROWS[:2, :3])
    np.testing.assert_array_equal(read(store)[1], ROWS)


def test_pictures_without_a_digest_are_neither_kept_nor_found(store):
    store.put(LAYER, [None, KEYS[1]], ROWS[:2])
    found, rows = read(store, [None, KEYS[1], None])
    assert found.tolist() == [False, True, False]
    np.testing.assert_array_equal(rows[1], ROWS[1])


def test_maps_keep_their_shape(store):
    maps = np.random.default_rng(1).random((2, 3, 4, 5)).astype(np.float32)
    store.put(LAYER, KEYS[:2], maps)
    np.testing.assert_array_equal(read(store, KEYS[:2], (3, 4, 5))[1], maps)


def test_what_is_there_is_left_as_it_is(store):
    store.put(LAYER, KEYS, ROWS)
    store.put(LAYER, KEYS, ROWS + 1)
    np.testing.assert_array_equal(read(store)[1], ROWS)


def test_float16_gives_the_same_when_it_comes_back_and_is_kept_apart(tmp_path):
    half = FeatureStore(tmp_path / "store", dtype="float16")
    returned = half.put(LAYER, KEYS, ROWS)
    assert returned.dtype == np.float32
    np.testing.assert_array_equal(read(half)[1], returned)
    assert 0 < np.abs(returned - ROWS).max() < 2e-3
    assert not read(FeatureStore(half.path))[0].any()


def test_info_counts(store):
    store.put(LAYER, KEYS, ROWS)
    read(store, KEYS[:4])
    info = store.info()
    assert info.loc[0, ["backbone", "layer", "pooling", "rows", "bytes", "hits"]].tolist() == [
        "net", "bottleneck", "avg", 10, 10 * 7 * 4, 4,
    ]  # fmt: skip
    assert info.attrs["bytes"] == store.path.stat().st_size


def test_clear_of_one_backbone_leaves_the_others(store):
    store.put(LAYER, KEYS, ROWS)
    store.put(StoredLayer(b"other", "other", {}), KEYS, ROWS)
    store.clear("net")
    assert store.info()["backbone"].tolist() == ["other"]
    store.clear()
    assert store.info().empty


def test_least_recently_used_rows_are_evicted(tmp_path):
    store = FeatureStore(tmp_path / "store", max_bytes=300_000)
    rows = np.zeros((20, 1000), np.float32)
    for start in range(0, 200, 20):
        store.put(LAYER, [str(start + i).encode() for i in range(20)], rows)
    first = store.fill(LAYER, [str(i).encode() for i in range(20)], np.empty((20, 1000), "f4"))
    last = store.fill(LAYER, [str(i).encode() for i in range(180, 200)], np.empty((20, 1000), "f4"))
    assert not first.any()
    assert last.all()
    with sqlite3.connect(store.path) as db:
        pages, free, size = (
            db.execute(f"PRAGMA {p}").fetchone()[0]
            for p in ("page_count", "freelist_count", "page_size")
        )
    assert (pages - free) * size <= 300_000


def test_file_digests_follow_the_content(store, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(b"one")
    one, nothing = store.see_files([str(path), str(tmp_path / "none")])
    assert nothing.digest is None
    path.write_bytes(b"two")
    two = store.see_files([str(path)])[0]
    path.write_bytes(b"one")
    assert store.see_files([str(path)])[0].digest == one.digest != two.digest


def test_an_unchanged_file_is_not_read_again(store, tmp_path, monkeypatch):
    path = tmp_path / "picture"
    path.write_bytes(b"one")
    # As if it had been written long ago.
    os.utime(path, ns=(0, time.time_ns() - 10**11))
    monkeypatch.setattr("sktl.engine._digests._RACY_NS", 0)
    expected = store.see_files([str(path)])
    monkeypatch.setattr(Content, "of_file", lambda path: pytest.fail("read again"))
    assert store.see_files([str(path)]) == expected


def test_a_file_of_the_same_size_and_a_fresh_time_is_not_trusted(store, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(b"one")
    stat = path.stat()
    one = store.see_files([str(path)])[0]
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.see_files([str(path)])[0].digest != one.digest


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00 broken"])
def test_a_damaged_file_is_reported_once_and_left_alone(tmp_path, content):
    path = tmp_path / "store"
    path.write_bytes(content)
    store = FeatureStore(path)
    with pytest.warns(StoreWarning, match="cannot be used") as caught:
        store.put(LAYER, KEYS, ROWS)
    assert not read(store)[0].any(), "without a second warning, which would be an error here"
    assert len(caught) == 1
    assert path.read_bytes() == content


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "store"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE precious (x)")
    before = path.read_bytes()
    with pytest.warns(StoreWarning, match="another program"):
        FeatureStore(path).put(LAYER, KEYS, ROWS)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(StoreWarning, match="goes on without"):
        rows = FeatureStore(tmp_path / "file" / "store").put(LAYER, KEYS, ROWS)
    np.testing.assert_array_equal(rows, ROWS)


def test_a_full_disk_is_reported(store, monkeypatch):
    store.put(LAYER, KEYS[:1], ROWS[:1])

    def full(path, **options):
        connection = connect(path, **options)
        connection.execute("PRAGMA max_page_count = 1")  # SQLite's own "database or disk is full"
        return connection

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", full)
    with pytest.warns(StoreWarning, match="full"):
        store.put(LAYER, KEYS, np.zeros((10, 100_000), np.float32))
    monkeypatch.undo()
    assert store.info()["rows"].tolist() == [1], "and the store is tried again"
    assert read(store)[0].tolist() == [True] + [False] * 9


def write_forever(path, number, started):
    store = FeatureStore(path)
    i = 0
    while True:
        keys = [f"{number}-{i + k}".encode() for k in range(8)]
        store.put(LAYER, keys, np.full((8, 500), i, np.float32))
        i += 8
        started.set()


def test_a_killed_writer_leaves_whole_rows(tmp_path):
    path = tmp_path / "store"
    context = multiprocessing.get_context("spawn")
    started = [context.Event() for _ in range(2)]
    writers = [context.Process(target=write_forever, args=(path, n, started[n])) for n in range(2)]
    for writer in writers:
        writer.start()  # both make the file at once
    for event in started:
        assert event.wait(60)
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counts = db.execute("SELECT LENGTH(row), COUNT(*) FROM features GROUP BY 1").fetchall()
    assert [size for size, _ in counts] == [2000]
    assert counts[0][1] % 8 == 0, "a batch is committed as a whole"
    FeatureStore(path).put(LAYER, KEYS, np.zeros((10, 500), np.float32))
    assert read(FeatureStore(path), shape=(500,))[0].all()


def test_threads_share_a_store(store):
    def work(start):
        for i in range(start, start + 20):
            store.put(LAYER, [str(i).encode()], np.full((1, 7), i, np.float32))

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 20, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, rows = read(store, [str(i).encode() for i in range(60)])
    assert found.all()
    np.testing.assert_array_equal(rows[:, 0], np.arange(60))


def test_what_the_parameter_means(tmp_path, monkeypatch):
    monkeypatch.setenv("SKTL_CACHE", str(tmp_path))
    assert resolve_store(None) is None
    assert resolve_store("default").path == tmp_path / "features.sqlite"
    assert resolve_store(tmp_path / "x").path == tmp_path / "x"
    memory = resolve_store("memory")
    assert memory is resolve_store("memory")
    assert pickle.loads(pickle.dumps(memory)) is memory
    with pytest.raises(ParameterError, match="store must be"):
        resolve_store(3)


def test_the_memory_store_keeps_rows():
    memory = resolve_store("memory")
    memory.put(LAYER, KEYS, ROWS)
    np.testing.assert_array_equal(read(memory)[1], ROWS)
    memory.clear()
    assert not read(memory)[0].any()


def test_a_store_pickles_as_its_settings(store):
    store.put(LAYER, KEYS, ROWS)
    again = pickle.loads(pickle.dumps(store))
    assert again.path == store.path
    np.testing.assert_array_equal(read(again)[1], ROWS)


def test_claims_are_exclusive_until_released_or_their_owner_is_dead(store):
    me, other = f"{os.getpid()}-me", f"{os.getpid()}-other"
    assert store.claim([LAYER], KEYS, 4, me) == [0, 1, 2, 3]
    assert store.claim([LAYER], KEYS, 20, other) == [4, 5, 6, 7, 8, 9]
    assert store.claim([LAYER], KEYS, 4, me) == []
    assert store.claim([StoredLayer(b"other", "net", {})], KEYS, 2, me) == [0, 1]
    store.release(me)
    assert store.claim([LAYER], KEYS, 1, other) == [0]
    finished = multiprocessing.get_context("spawn").Process(target=int)
    finished.start()
    finished.join()
    store.release(other)
    assert store.claim([LAYER], KEYS, 10, f"{finished.pid}-dead") == list(range(10))
    assert store.claim([LAYER], KEYS, 2, me) == [0, 1]


def test_what_is_stored_cannot_be_claimed_but_what_has_no_digest_always_can(store):
    store.put(LAYER, KEYS[:8], ROWS[:8])
    assert store.claim([LAYER], [*KEYS, None], 3, f"{os.getpid()}-me") == [8, 9, 10]
    assert store.claim([LAYER], [*KEYS, None], 3, f"{os.getpid()}-you") == [10]
    second = StoredLayer(b"second", "net", {})
    assert store.claim([LAYER, second], KEYS, 3, f"{os.getpid()}-you") == [0, 1, 2]


def damage(store, picture):
    """Flip one bit of a stored row."""
    with sqlite3.connect(store.path) as db:
        (row,) = db.execute("SELECT row FROM features WHERE picture = ?", [picture]).fetchone()
        changed = bytes([row[0] ^ 1]) + row[1:]
        db.execute("UPDATE features SET row = ? WHERE picture = ?", [changed, picture])


def test_a_damaged_row_is_not_handed_out_and_is_replaced(store):
    store.put(LAYER, KEYS, ROWS)
    damage(store, KEYS[3])
    found, rows = read(store)
    assert found.tolist() == [i != 3 for i in range(10)]
    assert np.isnan(rows[3]).all()
    store.put(LAYER, [KEYS[3]], ROWS[3:4])
    np.testing.assert_array_equal(read(store)[1], ROWS)


def test_verify_counts_and_deletes_damaged_rows(store):
    assert store.verify().empty
    assert not store.path.exists()
    store.put(LAYER, KEYS, ROWS)
    store.put(StoredLayer(b"other", "other", {"layer": "x"}), KEYS[:2], ROWS[:2])
    assert store.verify()["damaged"].tolist() == [0, 0]
    damage(store, KEYS[5])
    damage(store, KEYS[6])
    report = store.verify()
    assert report.to_numpy().tolist() == [["net", "bottleneck", 10, 2], ["other", "x", 2, 0]]
    assert report.attrs == {"path": str(store.path), "problems": []}
    assert store.verify()["rows"].tolist() == [8, 2]


def test_verify_reports_what_is_wrong_with_the_file(store, tmp_path):
    store.put(LAYER, KEYS * 50, np.tile(ROWS, (50, 1)))
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(store.path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    store.path.write_bytes(content)
    assert store.verify().attrs["problems"]
    (tmp_path / "foreign").write_bytes(b"something else" * 1000)
    assert FeatureStore(tmp_path / "foreign").verify().attrs["problems"]


@pytest.fixture
def digits(tmp_path):
    paths = []
    for i in range(6):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(b"picture %d" % i)
    return paths


def test_an_export_is_what_people_keep_by_hand(store, digits, tmp_path):
    pictures = picture_digests(as_images(digits), store)
    store.put(LAYER, pictures[:5], ROWS[:5])
    maps = np.random.default_rng(1).random((3, 2, 2)).astype(np.float32)[None].repeat(2, 0)
    store.put(StoredLayer(b"maps", "timm/net", {"layer": "x"}), pictures[3:5], maps)
    path = store.export_hdf5(tmp_path / "f.h5", digits[::-1], ["a", "b", "a", "b", "a", "ü"])
    with h5py.File(path) as file:
        assert sorted(file) == ["digests", "features", "labels", "paths", "recipe"]
        rows = file["features/net bottleneck"][:]
        np.testing.assert_array_equal(rows[1:], ROWS[4::-1])
        assert np.isnan(rows[0]).all()
        np.testing.assert_array_equal(file["features/timm net x"][1:3], maps)
        assert file["labels"].asstr()[:].tolist() == ["a", "b", "a", "b", "a", "ü"]
        assert file["paths"].asstr()[:].tolist() == [str(path) for path in digits[::-1]]
        assert file["digests"][2].tobytes() == pictures[3]
        assert json.loads(file["recipe/net bottleneck"][()])["pooling"] == "avg"


def test_everything_is_exported_by_default_and_comes_back(store, digits, tmp_path):
    pictures = picture_digests(as_images(digits), store)
    store.put(LAYER, pictures, ROWS[:6])
    store.put(StoredLayer(b"other", "net", {"layer": "bottleneck"}), pictures[:2], -ROWS[:2])
    path = store.export_hdf5(tmp_path / "f.h5")
    other = FeatureStore(tmp_path / "other.sqlite")
    assert other.import_hdf5(path) == 8
    assert other.import_hdf5(path) == 0
    np.testing.assert_array_equal(read(other, pictures)[1], ROWS[:6])
    assert other.info()["rows"].tolist() == [6, 2]
    assert other.verify()["damaged"].sum() == 0
    with h5py.File(path) as file:
        assert sorted(file["features"]) == ["net bottleneck", "net bottleneck 2"]


def test_transparent_pictures_keep_their_paths_in_an_export(store, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("RGBA", (20, 20), (9 * i, 0, 0, 128)).save(path)
    features = CNNFeatures("lenet", weights=None, layer=0, store=store)
    rows = {b: features.set_params(background=b).fit_transform(paths) for b in ("white", "black")}
    with h5py.File(store.export_hdf5(tmp_path / "all.h5")) as file:
        assert file["paths"].asstr()[:].tolist() == [*map(str, paths), "", "", ""]
    on_black = as_images(paths, background="black")
    for X, background in ((paths, "white"), (on_black, "black")):
        with h5py.File(store.export_hdf5(tmp_path / "some.h5", X)) as file:
            (name,) = file["features"]
            found = file["features"][name][:].reshape(3, -1)
        np.testing.assert_array_equal(found, rows[background].reshape(3, -1))


def test_an_export_of_another_version_is_refused(store, digits, tmp_path):
    store.put(LAYER, picture_digests(as_images(digits), store), ROWS[:6])
    path = store.export_hdf5(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 1
    with pytest.raises(ParameterError, match="written by another version of sktl"):
        store.import_hdf5(path)


def test_an_export_of_halves_comes_back_as_halves(tmp_path):
    half = FeatureStore(tmp_path / "half", dtype="float16")
    returned = half.put(LAYER, KEYS, ROWS)
    other = FeatureStore(tmp_path / "other", dtype="float16")
    other.import_hdf5(half.export_hdf5(tmp_path / "f.h5"))
    np.testing.assert_array_equal(read(other)[1], returned)


def test_a_damaged_row_is_not_exported(store, tmp_path):
    store.put(LAYER, KEYS, ROWS)
    damage(store, KEYS[3])
    other = FeatureStore(tmp_path / "other")
    assert other.import_hdf5(store.export_hdf5(tmp_path / "f.h5")) == 9
    assert read(other)[0].tolist() == [i != 3 for i in range(10)]


def test_exports_of_one_backbone(store, tmp_path):
    store.put(LAYER, KEYS, ROWS)
    store.put(StoredLayer(b"other", "other", {"layer": "x"}), KEYS[:2], ROWS[:2])
    with h5py.File(store.export_hdf5(tmp_path / "f.h5", backbone="other")) as file:
        assert list(file["features"]) == ["other x"]
        assert len(file["digests"]) == 2


def test_what_cannot_be_exported_or_imported_is_said(store, digits, tmp_path):
    store.put(LAYER, KEYS, ROWS)
    with pytest.raises(ParameterError, match="none of these pictures has stored features"):
        store.export_hdf5(tmp_path / "f.h5", digits)
    with pytest.raises(ParameterError, match="without X"):
        store.export_hdf5(tmp_path / "f.h5", y=[1] * 10)
    with pytest.raises(ParameterError, match=r"6 pictures; got shape \(5,\)"):
        store.export_hdf5(tmp_path / "f.h5", digits, [1] * 5)
    assert not list(tmp_path.glob("f.h5*"))
    (tmp_path / "text").write_text("no HDF5")
    with h5py.File(tmp_path / "h5", "w") as file:
        file["x"] = [1]
    for name, reason in [("none", "not found"), ("text", "not an HDF5"), ("h5", "not written by")]:
        with pytest.raises(ParameterError, match=reason):
            store.import_hdf5(tmp_path / name)


def test_a_store_that_is_not_there_or_cannot_be_opened_is_not_exported(store, digits, tmp_path):
    store.put(LAYER, KEYS, ROWS)
    store.export_hdf5(tmp_path / "f.h5")
    absent, text = tmp_path / "absent.sqlite", tmp_path / "text.sqlite"
    with pytest.raises(ParameterError, match=r"no feature store at .*absent"):
        FeatureStore(absent).export_hdf5(tmp_path / "f.h5", digits)
    assert not absent.exists()
    text.write_text("no database, and longer than the header of one" * 20)
    for action in (FeatureStore(text).export_hdf5, FeatureStore(text).import_hdf5):
        with pytest.raises(ParameterError, match=r"text\.sqlite cannot be opened: file is not"):
            action(tmp_path / "f.h5")


def test_claims_end_with_their_work(store):
    assert store.claim([LAYER], KEYS, 4, f"{os.getpid()}-one") == [0, 1, 2, 3]
    assert store.claim([LAYER], KEYS, 4, f"{os.getpid()}-two") == [4, 5, 6, 7]
    store.put(LAYER, KEYS[:2], ROWS[:2])
    assert store.claim([LAYER], KEYS, 4, f"{os.getpid()}-one", KEYS[:4]) == [2, 3, 8, 9]
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT COUNT(*) FROM claims").fetchone() == (8,)
