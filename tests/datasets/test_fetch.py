"""What all fetchers share: whole or not at all, local folders and archives, one at a time."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from scipy.io import savemat

from sktl.datasets import _fetch
from sktl.datasets._fetch import Published, data_folder, open_dataset, read_mat
from sktl.exceptions import DatasetError


@pytest.fixture
def published(server, tmp_path, make):
    """A set of two files: an archive, with another inside, and a list."""
    make.text(tmp_path / "inner", "inner/3.txt", "three")
    make.text(tmp_path / "outer", "top/pictures/1.txt", "one")
    make.zip(tmp_path / "outer/top/inner.zip", tmp_path / "inner")
    make.tar(server.folder / "pictures.tgz", tmp_path / "outer")
    make.text(server.folder, "list.txt", "1.txt")
    digests = {
        path.name: "md5:" + hashlib.md5(path.read_bytes()).hexdigest()
        for path in server.folder.iterdir()
    }
    return Published("set", "Fetch it yourself.", digests, archives=("inner.zip",))


@pytest.fixture
def fetch(published, server, tmp_path):
    def fetch(**options):
        options = {"data_home": tmp_path / "home", "base_url": server.url, **options}
        return open_dataset(published, source=options.pop("source", None), **options)

    return fetch


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def check(files):
    assert (files.folder("pictures") / "1.txt").read_text() == "one"
    assert (files.folder("inner") / "3.txt").read_text() == "three"
    assert files.file("list.txt").read_text() == "1.txt"


def test_download(fetch, server, tmp_path):
    check(fetch())
    assert sorted(name for name, _ in server.requests) == ["list.txt", "pictures.tgz"]
    assert visible(tmp_path / "home") == ["set"]
    assert not list((tmp_path / "home").rglob("*.tgz")) + list((tmp_path / "home").rglob("*.zip"))
    server.requests.clear()
    check(fetch(base_url="http://127.0.0.1:9"))
    check(fetch(download_if_missing=False))
    assert server.requests == []


def test_no_download_where_none_is_wanted(fetch, server):
    with pytest.raises(DatasetError, match=r"there is no .*home/set.*Fetch it yourself"):
        fetch(download_if_missing=False)
    assert server.requests == []


def test_a_local_folder_packed_or_not(fetch, server, tmp_path):
    check(fetch(source=server.folder))
    assert visible(server.folder) == ["list.txt", "pictures.tgz"]
    assert server.requests == []
    check(fetch())
    check(fetch(source=str(tmp_path / "home/set"), data_home="/nowhere"))


def test_a_local_archive_is_unpacked_once(fetch, server, tmp_path):
    archive = server.folder / "pictures.tgz"
    first = fetch(source=archive).folder("pictures")
    assert (first / "1.txt").read_text() == "one"
    (first / "1.txt").write_text("changed")
    assert (fetch(source=archive).folder("pictures") / "1.txt").read_text() == "changed"
    os.utime(archive, (1, 1))  # another archive of the same name
    assert (fetch(source=archive).folder("pictures") / "1.txt").read_text() == "one"
    assert server.requests == []


def test_only_archives_that_are_needed_are_unpacked(tmp_path, make):
    make.text(tmp_path / "a", "train/1.txt", "one")
    (tmp_path / "local").mkdir()
    make.zip(tmp_path / "local/train.zip", tmp_path / "a")
    (tmp_path / "local/test.zip").write_bytes(b"damaged")
    two = Published("two", "", archives=("test.zip", "train.zip"))
    files = open_dataset(two, source=tmp_path / "local", data_home=tmp_path / "home")
    assert (files.folder("train") / "1.txt").read_text() == "one"
    with pytest.raises(DatasetError, match=r"test\.zip is neither"):
        files.folder("test")


def test_what_is_missing_is_named(fetch, tmp_path):
    with pytest.raises(DatasetError, match=r"there is no .*nowhere.*Fetch it yourself"):
        fetch(source=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"there is no Images or images in .*empty"):
        fetch(source=tmp_path / "empty").folder("Images", "images")


def test_the_nearest_of_a_name_is_found(tmp_path, fetch, make):
    make.text(tmp_path / "x", "a/b/train/far.txt", "")
    make.text(tmp_path / "x", "z/train/near.txt", "")
    make.text(tmp_path / "x", "train.txt/1.txt", "")  # a folder, where a file is wanted
    files = fetch(source=tmp_path / "x")
    assert (files.folder("train") / "near.txt").exists()
    assert fetch(source=tmp_path / "x/z/train").folder("train") == tmp_path / "x/z/train"
    with pytest.raises(DatasetError, match=r"no train\.txt"):
        files.file("train.txt")


def test_a_damaged_archive_leaves_nothing(fetch, server, published, tmp_path):
    whole = (server.folder / "pictures.tgz").read_bytes()
    (server.folder / "pictures.tgz").write_bytes(whole[:-40])
    with pytest.raises(DatasetError, match="damaged"):
        fetch(source=server.folder / "pictures.tgz")
    with pytest.raises(DatasetError, match="cannot be had"):
        fetch()
    assert visible(tmp_path / "home") == []
    (server.folder / "pictures.tgz").write_bytes(whole)
    server.requests.clear()
    check(fetch())
    assert [name for name, _ in server.requests] == ["pictures.tgz"]  # the list was there


def test_a_killed_process_leaves_no_half_set(published, server, tmp_path, make):
    """It is killed while it unpacks; the next one cleans up and does it."""
    archive = server.folder / "pictures.tgz"
    code = (
        "import sys, time\n"
        "from sktl.datasets import _fetch\n"
        "unpack = _fetch.unpack\n"
        "def slow(*args, **options):\n"
        "    unpack(*args, **options)\n"
        "    print('unpacked', flush=True)\n"
        "    time.sleep(60)\n"
        "_fetch.unpack = slow\n"
        "p = _fetch.Published('set', '')\n"
        "_fetch.open_dataset(p, source=sys.argv[1], data_home=sys.argv[2])\n"
    )
    home = tmp_path / "home"
    command = [sys.executable, "-c", code, str(archive), str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"unpacked\n"
        process.send_signal(signal.SIGKILL)
    assert visible(home) == []
    assert list(home.glob(".*.new-*"))
    files = open_dataset(published, source=archive, data_home=home)
    assert (files.folder("pictures") / "1.txt").read_text() == "one"
    assert not list(home.glob(".*.new-*"))


def test_processes_that_want_the_same_wait(fetch, server, monkeypatch):
    """Threads hold the lock as processes do: each opens the file itself."""
    counted, one = [], threading.Lock()
    real = _fetch.unpack

    def slow(*args, **options):
        with one:
            counted.append(args)
        time.sleep(0.1)
        real(*args, **options)

    monkeypatch.setattr(_fetch, "unpack", slow)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(fetch) for _ in range(4)]
    for files in found:
        check(files.result())
    assert len(counted) == 2  # the archive and the one inside
    assert len(server.requests) == 2


def test_a_home_that_cannot_be_written_to(fetch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="data_home="):
        fetch(data_home=tmp_path / "file" / "home")


def test_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SKTL_CACHE", str(tmp_path))
    assert data_folder(None) == tmp_path / "datasets"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder("~/home") == tmp_path / "home"
    monkeypatch.delenv("SKTL_CACHE")
    assert data_folder(None).parts[-2:] == ("sktl", "datasets")


def test_read_mat(tmp_path):
    savemat(tmp_path / "a.mat", {"x": [[1, 2, 3]]})
    (x,) = read_mat(tmp_path / "a.mat", "x")
    assert x.tolist() == [1, 2, 3]
    with pytest.raises(DatasetError, match=r"a\.mat is not a MATLAB file with y"):
        read_mat(tmp_path / "a.mat", "y")
    (tmp_path / "b.mat").write_text("<html>")
    with pytest.raises(DatasetError, match=r"b\.mat"):
        read_mat(tmp_path / "b.mat", "y")
