"""FashionMNIST from a folder, over HTTP, and damaged."""

import gzip
import hashlib
import http.server
import struct
import threading
from functools import partial

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
    folder, arrays = tmp_path / "published", {}
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
    data = fetch_fashion_mnist(folder=folder)
    np.testing.assert_array_equal(data.data, arrays["train"][0])
    np.testing.assert_array_equal(data.target, arrays["train"][1])
    assert data.target.dtype == np.int64
    assert data.target_names[9] == "Ankle boot"
    X, y = fetch_fashion_mnist(folder=folder, subset="all", return_X_y=True)
    assert X.shape == (10, 28, 28)
    np.testing.assert_array_equal(y[6:], arrays["t10k"][1])
    for file in folder.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    np.testing.assert_array_equal(fetch_fashion_mnist(folder=folder).data, arrays["train"][0])


@pytest.fixture
def server(archive):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = partial(Quiet, directory=archive[0])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_download_is_kept_and_checked(archive, server, tmp_path, monkeypatch):
    folder, arrays = archive
    home = tmp_path / "home"
    with pytest.raises(DatasetError, match="folder="):  # other content than the published
        fetch_fashion_mnist(base_url=server, data_home=home)
    files = {
        part: {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in names}
        for part, names in _fashion_mnist._FILES.items()
    }
    monkeypatch.setattr(_fashion_mnist, "_FILES", files)
    X = fetch_fashion_mnist(base_url=server, data_home=home).data
    np.testing.assert_array_equal(X, arrays["train"][0])
    again = fetch_fashion_mnist(base_url="http://127.0.0.1:9/", data_home=home).data
    np.testing.assert_array_equal(again, X)


def test_what_is_wrong_is_named(archive):
    folder, _ = archive
    with pytest.raises(ParameterError, match="subset"):
        fetch_fashion_mnist(subset="valid", folder=folder)
    name = folder / "train-images-idx3-ubyte.gz"
    whole = name.read_bytes()
    name.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="train-images"):
        fetch_fashion_mnist(folder=folder)
    name.unlink()
    with pytest.raises(DatasetError, match="has no train-images"):
        fetch_fashion_mnist(folder=folder)


def test_the_real_files(shared_data):
    X, y = fetch_fashion_mnist(folder=shared_data / "fashion-mnist", return_X_y=True)
    assert X.shape == (60000, 28, 28)
    assert np.bincount(y).tolist() == [6000] * 10
