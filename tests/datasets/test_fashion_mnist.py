"""FashionMNIST from a folder, over HTTP, and damaged."""

import gzip
import hashlib
import shutil
import struct
import zlib

import numpy as np
import pytest

from sktl.datasets import _fashion_mnist, fetch_fashion_mnist
from sktl.exceptions import DatasetError, ParameterError


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def archive(tmp_path):
    """The four files, with a few pictures each, and the same as arrays."""
    rng = np.random.default_rng(0)
    folder, arrays = tmp_path / "files", {}
    folder.mkdir()
    for part, n in (("train", 6), ("t10k", 4)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        arrays[part] = images, labels
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return folder, arrays


def test_a_folder(archive):
    folder, arrays = archive
    data = fetch_fashion_mnist(source=folder)
    np.testing.assert_array_equal(data.data, arrays["train"][0])
    np.testing.assert_array_equal(data.target, arrays["train"][1])
    assert data.target.dtype == np.int64
    assert data.target_names[9] == "Ankle boot"
    X, y = fetch_fashion_mnist(source=folder, subset="all", return_X_y=True)
    assert X.shape == (10, 28, 28)
    np.testing.assert_array_equal(y[6:], arrays["t10k"][1])
    for file in folder.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    np.testing.assert_array_equal(fetch_fashion_mnist(source=folder).data, arrays["train"][0])


def test_a_download_is_kept_and_checked(archive, server, tmp_path, monkeypatch):
    folder, arrays = archive
    shutil.copytree(folder, server.folder, dirs_exist_ok=True)
    options = {"base_url": server.url, "data_home": tmp_path / "home"}
    with pytest.raises(DatasetError, match="source="):  # other content than the published
        fetch_fashion_mnist(**options)
    files = {
        part: {
            name: f"md5:{hashlib.md5((folder / name).read_bytes()).hexdigest()}" for name in names
        }
        for part, names in _fashion_mnist._FILES.items()
    }
    monkeypatch.setattr(_fashion_mnist, "_FILES", files)
    with pytest.raises(DatasetError, match="source="):
        fetch_fashion_mnist(**options, download_if_missing=False)
    server.requests.clear()
    data = fetch_fashion_mnist(**options)
    np.testing.assert_array_equal(data.data, arrays["train"][0])
    assert sorted(name for name, _ in server.requests) == sorted(files["train"])
    server.requests.clear()
    for more in ({}, {"download_if_missing": False}):
        X, y = fetch_fashion_mnist(**options, **more, return_X_y=True)
        np.testing.assert_array_equal(X, data.data)
        np.testing.assert_array_equal(y, data.target)
    assert server.requests == []


def test_an_archive(archive, tmp_path):
    folder, arrays = archive
    shutil.make_archive(str(tmp_path / "mine"), "zip", folder)
    data = fetch_fashion_mnist(source=tmp_path / "mine.zip", data_home=tmp_path, subset="test")
    np.testing.assert_array_equal(data.data, arrays["t10k"][0])
    assert "MIT" in data.DESCR


def test_what_is_wrong_is_named(archive):
    folder, _ = archive
    with pytest.raises(ParameterError, match="subset"):
        fetch_fashion_mnist(subset="valid", source=folder)
    name = folder / "train-images-idx3-ubyte.gz"
    whole = name.read_bytes()
    name.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="train-images"):
        fetch_fashion_mnist(source=folder)
    name.unlink()
    with pytest.raises(DatasetError, match="no train-images"):
        fetch_fashion_mnist(source=folder)


def test_the_real_files(shared_data):
    X, y = fetch_fashion_mnist(source=shared_data / "fashion-mnist", return_X_y=True)
    assert X.shape == (60000, 28, 28)
    assert np.bincount(y).tolist() == [6000] * 10


def test_a_damaged_stream_is_named(archive):
    folder, _ = archive
    file = folder / "train-images-idx3-ubyte.gz"
    whole = gzip.compress(idx(np.zeros((6, 28, 28), np.uint8)))
    seen = 0
    for i in range(10, len(whole) - 8):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :])
        try:
            gzip.decompress(file.read_bytes())
        except zlib.error:
            seen += 1
        except (OSError, EOFError):
            pass
        with pytest.raises(DatasetError, match="train-images"):
            fetch_fashion_mnist(source=folder)
    assert seen
