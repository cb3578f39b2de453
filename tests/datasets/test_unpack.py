"""Archives: unpacked whole, and refused where they would write elsewhere."""

import gzip
import io
import os
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from sktl.datasets._unpack import unpack
from sktl.exceptions import DatasetError


def tar_of(path, *members):
    """Members are (name, bytes) or TarInfo."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def zip_of(path, *members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "deep" / "target"
    folder.mkdir(parents=True)
    return folder


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("mode", ["", "gz", "bz2", "xz"])
def test_tar(tmp_path, target, make, mode):
    make.text(tmp_path / "in", "a/b/1.txt", "one")
    make.text(tmp_path / "in", "2.txt", "two")
    make.tar(tmp_path / "set.tar", tmp_path / "in", f"w:{mode}")
    unpack(tmp_path / "set.tar", target)
    assert files(target) == {"a/b/1.txt": b"one", "2.txt": b"two"}


def test_zip(tmp_path, target, make):
    make.text(tmp_path / "in", "a/b/1.txt", "one")
    make.text(tmp_path / "in", "__MACOSX/a/b/._1.txt", "attributes")
    make.text(tmp_path / "in", "a/._1.txt", "attributes")
    make.zip(tmp_path / "set.zip", tmp_path / "in")
    unpack(tmp_path / "set.zip", target)
    assert files(target) == {"a/b/1.txt": b"one"}


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path, target):
    inner = zip_of(tmp_path / "inner.zip", ("1.txt", b"one"))
    archive = tar_of(tmp_path / "set.tar", ("inner.zip", inner.read_bytes()))
    unpack(archive, target)
    assert list(files(target)) == ["inner.zip"]


OUTSIDE = ["../evil.txt", "a/../../evil.txt", "/tmp/sktl-evil.txt", "..\\evil.txt", "C:\\evil.txt"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_members_that_leave_the_folder(tmp_path, target, pack, name):
    archive = pack(tmp_path / "evil.archive", (name, b"evil"), ("ok.txt", b"ok"))
    with pytest.raises(DatasetError, match=r"evil\.archive is refused.*leads out"):
        unpack(archive, target)
    assert not list(tmp_path.rglob("evil.txt"))
    assert not os.path.exists("/tmp/sktl-evil.txt")  # noqa: PTH110
    assert files(target) == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("link", ["../../secret.txt", "/etc/passwd"])
def test_links_out_of_the_folder(tmp_path, target, kind, link):
    (tmp_path / "secret.txt").write_text("secret")
    archive = tar_of(tmp_path / "evil.tar", special("a", kind, link))
    with pytest.raises(DatasetError, match="leads out"):
        unpack(archive, target)
    assert list(target.iterdir()) == []


def test_nothing_is_written_through_a_link(tmp_path, target):
    archive = tar_of(
        tmp_path / "evil.tar", special("a", tarfile.SYMTYPE, str(tmp_path)), ("a/evil.txt", b"evil")
    )
    with pytest.raises(DatasetError, match="leads out"):
        unpack(archive, target)
    assert not (tmp_path / "evil.txt").exists()


def test_links_inside_become_copies(tmp_path, target):
    archive = tar_of(
        tmp_path / "set.tar",
        ("a/1.txt", b"one"),
        special("b/2.txt", tarfile.SYMTYPE, "../a/1.txt"),
        special("b/3.txt", tarfile.LNKTYPE, "a/1.txt"),
    )
    unpack(archive, target)
    assert files(target) == dict.fromkeys(["a/1.txt", "b/2.txt", "b/3.txt"], b"one")
    assert not any(path.is_symlink() for path in target.rglob("*"))


@pytest.mark.parametrize("link", ["nowhere.txt", "folder"])
def test_links_to_nothing(tmp_path, target, link):
    folder = special("folder", tarfile.DIRTYPE)
    archive = tar_of(tmp_path / "set.tar", folder, special("a", tarfile.SYMTYPE, link))
    with pytest.raises(DatasetError, match="'a' is a link"):
        unpack(archive, target)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_in_tar(tmp_path, target, kind):
    archive = tar_of(tmp_path / "evil.tar", special("null", kind))
    with pytest.raises(DatasetError, match="device"):
        unpack(archive, target)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_zip(tmp_path, target, kind):
    info = zipfile.ZipInfo("a")
    info.external_attr = (kind | 0o644) << 16
    archive = zip_of(tmp_path / "evil.zip", (info, "/etc/passwd"))
    with pytest.raises(DatasetError, match="link"):
        unpack(archive, target)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("kind", ["tgz", "tar", "zip", "text"])
def test_damaged_archives(tmp_path, target, make, kind):
    archive = tmp_path / f"set.{kind}"
    make.text(tmp_path / "in", "1.bin", "0123456789" * 20_000)
    if kind == "zip":
        make.zip(archive, tmp_path / "in")
        content = bytearray(archive.read_bytes())
        content[1000] ^= 255
    elif kind == "text":
        content = b"<html>not found</html>"
    else:
        make.tar(archive, tmp_path / "in", "w:gz" if kind == "tgz" else "w")
        content = archive.read_bytes()
        content = content[: len(content) // 2]
    archive.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"set\.{kind}.*damaged"):
        unpack(archive, target)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:1024],  # between the members
        lambda content: content[:1200],  # in the second one's header
        lambda content: content[:1024] + b"x" * 512 + content[1536:],
        lambda content: content[:2048],  # all members, but not the end's mark
    ],
)
def test_a_tar_that_is_cut_or_damaged_between_members(tmp_path, target, mode, damage):
    whole = tar_of(tmp_path / "whole.tar", ("1.txt", b"one"), ("2.txt", b"two")).read_bytes()
    content = damage(whole)
    archive = tmp_path / "set.tar"
    archive.write_bytes(gzip.compress(content) if mode == "w:gz" else content)
    with pytest.raises(DatasetError, match=r"set\.tar is damaged"):
        unpack(archive, target)


def test_a_tar_whose_end_is_one_block_of_zeros(tmp_path, target):
    """Half of the mark is enough: no member is missing."""
    archive = tar_of(tmp_path / "set.tar", ("1.txt", b"one"), ("2.txt", b"two"))
    archive.write_bytes(archive.read_bytes()[: 4 * 512 + 512])
    unpack(archive, target)
    assert files(target) == {"1.txt": b"one", "2.txt": b"two"}


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_of_long_names(tmp_path, target, layout):
    archive, name = tmp_path / "set.tar", f"{'a' * 60}/{'b' * 120}.txt"
    with tarfile.open(archive, "w", format=layout) as tar:
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"one"))
    content = archive.read_bytes()
    unpack(archive, target)
    assert files(target) == {name: b"one"}
    archive.write_bytes(content[:1024])  # the long name, but not the member
    with pytest.raises(DatasetError, match=r"set\.tar .*damaged"):
        unpack(archive, target)


def test_a_file_where_a_folder_should_be(tmp_path, target):
    archive = tar_of(tmp_path / "set.tar", ("a", b"file"), ("a/b", b"below it"))
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack(archive, target)


def test_a_flipped_bit_in_a_compressed_tar_is_noticed(tmp_path, target):
    """It may lie in a file's content, of which tar has no checksum."""
    content = np.random.default_rng(0).bytes(20_000)
    with tarfile.open(tmp_path / "whole.tgz", "w:gz") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    damaged = bytearray((tmp_path / "whole.tgz").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.tgz").write_bytes(damaged)
    with pytest.raises(DatasetError, match=r"damaged.tgz is damaged: CRC"):
        unpack(tmp_path / "damaged.tgz", target)
    with pytest.raises(DatasetError, match=r"^inner.tgz in outer.tgz is damaged"):
        unpack(tmp_path / "damaged.tgz", target, name="inner.tgz in outer.tgz")
