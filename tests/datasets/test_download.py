"""Downloads: checked, gone on with where the connection broke, never joined from two versions."""

import hashlib

import numpy as np
import pooch
import pytest

from sktl.datasets._download import download
from sktl.exceptions import DatasetError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def get(server, tmp_path):
    (server.folder / "set.bin").write_bytes(CONTENT)

    def get(digest=DIGEST, name="set.bin", progress=False):
        return download(
            name, digest, tmp_path / "home",
            base_url=server.url, remedy="Fetch it yourself", progress=progress,
        )  # fmt: skip

    return get


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_downloaded_once(get, server, tmp_path):
    assert get().read_bytes() == CONTENT
    assert get() == tmp_path / "home/set.bin"
    assert server.requests == [("set.bin", None)]
    assert left_in(tmp_path / "home") == ["set.bin"]


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_a_broken_connection_is_taken_up_where_it_broke(get, server, digest):
    server.breaks = [100_000, 70_000]
    assert get(digest).read_bytes() == CONTENT
    ranges = [wanted for _, wanted in server.requests]
    assert ranges[0] is None
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in ranges[1:]]
    assert 0 < starts[0] <= 100_000 < starts[1] <= 170_000


def test_a_later_call_goes_on(get, server, tmp_path):
    server.breaks, server.errors = [150_000], [None, 403]
    with pytest.raises(DatasetError, match=r"403.*Fetch it yourself"):
        get()
    assert left_in(tmp_path / "home") == ["set.bin.part", "set.bin.part.version"]
    server.requests.clear()
    assert get().read_bytes() == CONTENT
    ((_, wanted),) = server.requests
    assert 0 < int(wanted.removeprefix("bytes=").rstrip("-")) <= 150_000
    assert left_in(tmp_path / "home") == ["set.bin"]


def a_part(home, content, version):
    home.mkdir()
    (home / "set.bin.part").write_bytes(content)
    if version:
        (home / "set.bin.part.version").write_text(version)


@pytest.mark.parametrize("version", ['"an older one"', None])
def test_parts_of_two_versions_are_not_joined(get, server, tmp_path, version):
    a_part(tmp_path / "home", bytes(1000), version)
    assert get(None).read_bytes() == CONTENT


def test_a_part_that_is_whole(get, server, tmp_path):
    a_part(tmp_path / "home", CONTENT, f'"{hashlib.md5(CONTENT).hexdigest()}"')
    assert get(None).read_bytes() == CONTENT
    assert server.requests == [("set.bin", f"bytes={len(CONTENT)}-")]


def test_a_part_longer_than_the_file_is_begun_anew(get, server, tmp_path):
    a_part(tmp_path / "home", CONTENT + b"more", f'"{hashlib.md5(CONTENT).hexdigest()}"')
    assert get(None).read_bytes() == CONTENT


@pytest.mark.parametrize("lacks", ["ranges", "tags"])
def test_servers_without_ranges_begin_anew(get, server, lacks):
    setattr(server, lacks, False)
    server.breaks = [100_000]
    assert get(None).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_server_that_always_breaks_off_is_left(get, server):
    server.ranges = False
    server.breaks = [100_000] * 50
    with pytest.raises(DatasetError, match=r"set\.bin cannot be had"):
        get()
    assert len(server.requests) < 10


def test_passing_errors_of_the_server(get, server):
    server.errors = [503, 429]
    assert get().read_bytes() == CONTENT
    assert len(server.requests) == 3
    (get().parent / "set.bin").unlink()
    server.requests.clear()
    server.errors = [403]
    with pytest.raises(DatasetError, match="403"):
        get()
    assert len(server.requests) == 1


def test_without_a_network_there_is_no_waiting(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("sktl.datasets._download.time.sleep", pauses.append)
    with pytest.raises(DatasetError, match=r"a\.zip cannot be had.*by hand"):
        download(
            "a.zip", None, tmp_path, base_url="http://127.0.0.1:9", remedy="by hand", progress=False
        )
    assert pauses == []


def test_another_file_than_the_published_is_refused(get, server, tmp_path):
    with pytest.raises(DatasetError, match=r"(?s)hash.*Fetch it yourself"):
        get("md5:" + 32 * "0")
    assert left_in(tmp_path / "home") == []


def test_a_damaged_file_is_replaced(get, tmp_path):
    get().write_bytes(b"damaged")
    assert get().read_bytes() == CONTENT


def test_nothing_is_logged_or_shown(get, capfd, caplog):
    logger = pooch.get_logger()
    level = logger.level
    logger.addHandler(caplog.handler)
    try:
        get(None)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert logger.level == level


def test_progress_counts_what_was_there(get, server, tmp_path, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, **options):
            self.options, self.n = options, options["initial"]
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        def update(self, n):
            self.n += n

    monkeypatch.setattr("sktl.datasets._download.tqdm", Bar)
    server.breaks = [100_000]
    get(progress=True)
    assert [bar.options["total"] for bar in bars] == [300_000, 300_000]
    assert not bars[0].options["disable"]
    assert bars[0].n == bars[1].options["initial"] > 0
    assert bars[1].n == 300_000
