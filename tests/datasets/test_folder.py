"""Folders of pictures: what is found, in which order, with which labels."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sktl import load_image_folder
from sktl.datasets._folder import PICTURE_SUFFIXES
from sktl.exceptions import ParameterError
from sktl.images import decode_image


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def below(root, paths):
    """Paths relative to the folder."""
    return [Path(path).relative_to(root).as_posix() for path in paths]


@pytest.fixture
def flowers(tmp_path):
    root = tmp_path / "flowers"
    touch(root, "rose/2.jpg", "daisy/1.jpg", "rose/1.jpg", "tulip/1.jpg")
    return root


def test_classes_are_sub_folders(flowers):
    data = load_image_folder(flowers)
    assert below(flowers, data.images) == ["daisy/1.jpg", "rose/1.jpg", "rose/2.jpg", "tulip/1.jpg"]
    assert data.target.tolist() == ["daisy", "rose", "rose", "tulip"]
    assert data.target_names == ["daisy", "rose", "tulip"]
    assert data.ignored == []
    assert data.images.dtype == object
    assert all(type(path) is str for path in data.images)
    assert data.target.dtype.kind == "U"


def test_pair_is_the_bunch(flowers):
    images, target = load_image_folder(flowers, return_X_y=True)
    data = load_image_folder(flowers)
    np.testing.assert_array_equal(images, data.images)
    np.testing.assert_array_equal(target, data.target)


def test_pictures_at_any_depth_have_the_class_at_the_top(tmp_path):
    touch(tmp_path, "rose/red/big/1.jpg", "rose/2.jpg", "daisy/x/1.jpg")
    images, target = load_image_folder(tmp_path, return_X_y=True)
    assert below(tmp_path, images) == ["daisy/x/1.jpg", "rose/2.jpg", "rose/red/big/1.jpg"]
    assert target.tolist() == ["daisy", "rose", "rose"]


@pytest.mark.parametrize(
    ("names", "level"),
    [
        (["train/rose/1.jpg", "train/daisy/1.jpg", "test/rose/2.jpg"], "test"),
        (["101_Objects/crab/1.jpg", "101_Objects/bass/1.jpg"], "101_Objects"),
    ],
)
def test_classes_one_level_below_are_pointed_out(tmp_path, names, level):
    touch(tmp_path, *names)
    with pytest.warns(UserWarning, match="which are taken for classes") as caught:
        load_image_folder(tmp_path)
    assert repr(str(tmp_path / level)) in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "names",
    [
        ["train/rose/1.jpg", "test/2.jpg"],
        ["train/1.jpg", "train/2.jpg"],
        ["train/wheels/1.jpg", "bus/2/1.jpg"],
        ["n02099601/images/1.jpg", "n02099601/images/2.jpg"],
    ],
)
def test_folders_that_may_well_be_classes_are_not(tmp_path, names):
    touch(tmp_path, *names)
    assert len(load_image_folder(tmp_path).images) == 2


def test_of_parts_that_are_excluded_nothing_is_said(tmp_path):
    touch(tmp_path, "train/1.jpg", "test/rose/1.jpg")
    assert len(load_image_folder(tmp_path, exclude="test").images) == 1


def test_flat_folder_has_no_labels(tmp_path):
    touch(tmp_path, "dog.1.jpg", "cat.0.jpg")
    data = load_image_folder(tmp_path)
    assert below(tmp_path, data.images) == ["cat.0.jpg", "dog.1.jpg"]
    assert data.target is None
    assert data.target_names is None
    assert load_image_folder(tmp_path, return_X_y=True)[1] is None


def test_hidden_files_and_folders_do_not_count(flowers):
    touch(flowers, ".loose.jpg", "rose/.3.jpg", ".git/1.jpg", "rose/.thumbs/1.jpg", ".DS_Store")
    data = load_image_folder(flowers)
    assert len(data.images) == 4
    assert data.ignored == []


def test_a_hidden_folder_can_be_the_root(tmp_path):
    touch(tmp_path, ".cache/rose/1.jpg")
    assert len(load_image_folder(tmp_path / ".cache").images) == 1


def test_other_files_are_named_in_ignored(flowers):
    touch(flowers, "README.txt", "rose/Thumbs.db", "rose/no_suffix", "daisy/1.jpg.part")
    data = load_image_folder(flowers)
    assert len(data.images) == 4
    assert sorted(below(flowers, data.ignored)) == [
        "README.txt",
        "daisy/1.jpg.part",
        "rose/Thumbs.db",
        "rose/no_suffix",
    ]


def test_a_folder_without_pictures_is_no_class(flowers):
    touch(flowers, "notes/todo.txt")
    (flowers / "empty").mkdir()
    data = load_image_folder(flowers)
    assert data.target_names == ["daisy", "rose", "tulip"]
    assert below(flowers, data.ignored) == ["notes/todo.txt"]


@pytest.mark.parametrize(
    "suffix", ["jpg", "JPG", "Jpeg", "png", "PNG", "webp", "tif", "BMP", "gif"]
)
def test_suffixes_of_pictures_in_any_case(tmp_path, suffix):
    touch(tmp_path, f"rose/1.{suffix}")
    assert below(tmp_path, load_image_folder(tmp_path).images) == [f"rose/1.{suffix}"]


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES))
def test_what_is_listed_can_be_read(tmp_path, suffix):
    if Image.registered_extensions()[suffix] not in Image.SAVE:
        pytest.skip(f"this build of Pillow does not write {suffix}")
    Image.new("L", (20, 10), 255).save(tmp_path / f"1{suffix}")
    (path,) = load_image_folder(tmp_path).images
    assert decode_image(path).shape == (10, 20, 3)


def test_order_is_by_class_then_name_whatever_the_file_system_says(tmp_path, monkeypatch):
    names = [
        "rose-red/1.jpg",
        "rose/b.jpg",
        "rose/a.jpg",
        "rose/a/1.jpg",
        "Rose/1.jpg",
        "rose!/1.jpg",
    ]
    touch(tmp_path, *names)
    scandir = os.scandir

    class Backwards:
        """os.scandir in another order."""

        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.entries)

    forwards = load_image_folder(tmp_path)
    monkeypatch.setattr(os, "scandir", Backwards)
    backwards = load_image_folder(tmp_path)
    expected = [
        "Rose/1.jpg",
        "rose/a/1.jpg",
        "rose/a.jpg",
        "rose/b.jpg",
        "rose!/1.jpg",
        "rose-red/1.jpg",
    ]
    assert below(tmp_path, forwards.images) == below(tmp_path, backwards.images) == expected
    # As the class names are sorted, so are the labels.
    assert forwards.target.tolist() == sorted(forwards.target)
    assert forwards.target_names == ["Rose", "rose", "rose!", "rose-red"]


def test_names_with_blanks_and_other_scripts(tmp_path):
    touch(tmp_path, "Gänse blümchen/ein Bild.jpg", "鬱金香/一 #1.jpg", "a%20b/c&d 'e'.jpg")
    data = load_image_folder(tmp_path)
    assert data.target.tolist() == ["Gänse blümchen", "a%20b", "鬱金香"]
    assert all(Path(path).is_file() for path in data.images)


def test_linked_class_folder_counts(tmp_path, flowers):
    touch(tmp_path, "elsewhere/9.jpg")
    (flowers / "lily").symlink_to(tmp_path / "elsewhere")
    data = load_image_folder(flowers)
    assert "lily/9.jpg" in below(flowers, data.images)
    assert "lily" in data.target_names


def test_linked_picture_counts(tmp_path, flowers):
    touch(tmp_path, "elsewhere/9.jpg")
    (flowers / "rose/9.jpg").symlink_to(tmp_path / "elsewhere/9.jpg")
    assert "rose/9.jpg" in below(flowers, load_image_folder(flowers).images)


@pytest.mark.parametrize("target", [".", ".."])
def test_link_to_a_folder_that_it_lies_in_is_not_followed(flowers, target):
    (flowers / "rose/again").symlink_to((flowers / "rose" / target).resolve())
    (flowers / "again").symlink_to(flowers)
    data = load_image_folder(flowers)
    assert len(data.images) == 4
    assert data.ignored == []


def test_a_folder_that_cannot_be_read_is_not_passed_over(flowers, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "rose":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="rose"):
        load_image_folder(flowers)


@pytest.mark.parametrize(
    "exclude",
    ["rose", ["rose"], ("rose",), {"rose"}, np.array(["rose"]), (name for name in ["rose"])],
    ids=["str", "list", "tuple", "set", "array", "generator"],
)
def test_exclude_leaves_classes_out(flowers, exclude):
    data = load_image_folder(flowers, exclude=exclude)
    assert data.target.tolist() == ["daisy", "tulip"]
    assert data.target_names == ["daisy", "tulip"]
    assert below(flowers, data.images) == ["daisy/1.jpg", "tulip/1.jpg"]


def test_unknown_classes_to_exclude_are_all_named_with_suggestions(flowers):
    with pytest.raises(ParameterError) as caught:
        load_image_folder(flowers, exclude=["TULIP", "rose", "oak", "daisies"])
    message = str(caught.value)
    assert "no class 'TULIP', 'daisies', 'oak'." in message
    assert "Did you mean 'tulip'?" in message
    assert "Did you mean 'daisy'?" in message
    assert "'rose'" not in message


def test_a_class_name_is_not_a_pattern_or_a_prefix(flowers):
    touch(flowers, "rose hip/1.jpg")
    assert load_image_folder(flowers, exclude="rose").target_names == ["daisy", "rose hip", "tulip"]


def test_a_flat_folder_has_no_class_to_exclude(tmp_path):
    touch(tmp_path, "1.jpg")
    with pytest.raises(ParameterError, match=r"no class '1\.jpg'"):
        load_image_folder(tmp_path, exclude="1.jpg")


def test_excluding_everything_is_said_to_be_so(flowers):
    with pytest.raises(ParameterError, match="leave none of the 4 pictures"):
        load_image_folder(flowers, exclude=["rose", "daisy", "tulip"])


SPLIT = ["tulip/1.jpg", "rose/2.jpg", "daisy/1.jpg"]


def write_split(folder, text, encoding="utf-8"):
    path = folder / "train.txt"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("\n".join(SPLIT), "utf-8"),
        ("\n".join(SPLIT) + "\n", "utf-8"),
        ("\r\n".join(SPLIT) + "\r\n", "utf-8"),
        ("\r\n".join(SPLIT), "utf-8-sig"),
        ("\n\n  \n" + " \n\n".join(SPLIT) + "\n\n", "utf-8"),
        ("\n".join("./" + path for path in SPLIT), "utf-8"),
    ],
    ids=["plain", "newline at the end", "Windows", "byte order mark", "blank lines", "dots"],
)
def test_split_file_decides_on_pictures_and_order(tmp_path, flowers, text, encoding):
    data = load_image_folder(flowers, split_file=write_split(tmp_path, text, encoding))
    assert below(flowers, data.images) == SPLIT
    assert data.target.tolist() == ["tulip", "rose", "daisy"]
    assert data.target_names == ["daisy", "rose", "tulip"]


def test_split_file_may_be_text_and_name_other_scripts(tmp_path):
    touch(tmp_path / "root", "鬱金香/ä b.jpg", "rose/1.jpg")
    split = write_split(tmp_path, "鬱金香/ä b.jpg\n")
    images, target = load_image_folder(
        str(tmp_path / "root"), split_file=str(split), return_X_y=True
    )
    assert below(tmp_path, images) == ["root/鬱金香/ä b.jpg"]
    assert target.tolist() == ["鬱金香"]


def test_excluded_classes_are_left_out_of_the_split(tmp_path, flowers):
    split = write_split(tmp_path, "\n".join(SPLIT))
    data = load_image_folder(flowers, split_file=split, exclude="rose")
    assert below(flowers, data.images) == ["tulip/1.jpg", "daisy/1.jpg"]
    assert data.target_names == ["daisy", "tulip"]


def test_split_of_a_flat_folder(tmp_path):
    touch(tmp_path / "root", "1.jpg", "2.jpg", "3.jpg")
    split = write_split(tmp_path, "3.jpg\n1.jpg")
    data = load_image_folder(tmp_path / "root", split_file=split)
    assert below(tmp_path / "root", data.images) == ["3.jpg", "1.jpg"]
    assert data.target is None


def test_missing_files_of_the_split_are_named_in_one_error(tmp_path, flowers):
    split = write_split(tmp_path, "rose/1.jpg\nrose/8.jpg\nlily/1.jpg\nrose/2.jpg\ndaisy/none\n")
    with pytest.raises(FileNotFoundError) as caught:
        load_image_folder(flowers, split_file=split)
    message = str(caught.value)
    assert message.startswith("3 of 5 listed pictures are not there")
    for name in ("rose/8.jpg", "lily/1.jpg", str(flowers / "daisy"), "train.txt"):
        assert name in message
    assert "rose/1.jpg" not in message


def test_many_missing_files_are_counted(tmp_path, flowers):
    split = write_split(tmp_path, "\n".join(f"rose/{i}.png" for i in range(30)))
    with pytest.raises(FileNotFoundError, match=r"30 of 30 .* and 25 more"):
        load_image_folder(flowers, split_file=split)


def test_split_may_list_a_picture_without_a_suffix(tmp_path, flowers):
    touch(flowers, "rose/tmp", "rose/other")
    data = load_image_folder(flowers, split_file=write_split(tmp_path, "rose/tmp\nrose/1.jpg"))
    assert below(flowers, data.images) == ["rose/tmp", "rose/1.jpg"]
    assert below(flowers, data.ignored) == ["rose/other"]


@pytest.mark.parametrize("line", ["notes.txt", "../other/1.jpg", "{tmp}/other/1.jpg"])
def test_split_must_list_files_inside_the_class_folders(tmp_path, flowers, line):
    touch(flowers, "notes.txt")
    touch(tmp_path, "other/1.jpg")
    split = write_split(tmp_path, f"rose/1.jpg\n{line}\n".format(tmp=tmp_path))
    with pytest.raises(ParameterError, match="must list paths relative to") as caught:
        load_image_folder(flowers, split_file=split)
    assert line.format(tmp=tmp_path) in str(caught.value)
    assert "rose/1.jpg" not in str(caught.value)


def test_empty_and_missing_split_file(tmp_path, flowers):
    with pytest.raises(ParameterError, match="leave none of the 4 pictures"):
        load_image_folder(flowers, split_file=write_split(tmp_path, "\n\n"))
    with pytest.raises(FileNotFoundError, match=r"no_such\.txt"):
        load_image_folder(flowers, split_file=tmp_path / "no_such.txt")


def test_pictures_beside_class_folders_are_an_error(flowers):
    touch(flowers, "stray.jpg", "other.png")
    with pytest.raises(ParameterError, match=r"other\.png, stray\.jpg.*beside its class folders"):
        load_image_folder(flowers)


def test_missing_folder(tmp_path, flowers):
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        load_image_folder(tmp_path / "no_such_folder")
    with pytest.raises(FileNotFoundError, match=r"1\.jpg"):
        load_image_folder(flowers / "rose/1.jpg")


def test_error_names_a_relative_folder_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "no_such_folder")):
        load_image_folder("no_such_folder")


@pytest.mark.parametrize("others", [(), ("readme.txt",), ("a/readme.txt",), (".hidden.jpg",)])
def test_folder_without_pictures(tmp_path, others):
    touch(tmp_path, *others)
    for options in ({}, {"exclude": "BACKGROUND_Google"}):
        with pytest.raises(ParameterError, match="no pictures in"):
            load_image_folder(tmp_path, **options)


@pytest.mark.parametrize("kind", [str, Path])
def test_home_folder_is_expanded(flowers, monkeypatch, kind):
    monkeypatch.setenv("HOME", str(flowers.parent))
    write_split(flowers.parent, "rose/2.jpg")
    data = load_image_folder(kind("~/flowers"), split_file=kind("~/train.txt"))
    assert data.images.tolist() == [str(flowers / "rose/2.jpg")]


def test_relative_folder(flowers, monkeypatch):
    monkeypatch.chdir(flowers.parent)
    data = load_image_folder("flowers")
    assert data.target.tolist() == ["daisy", "rose", "rose", "tulip"]
    assert all(Path(path).is_file() for path in data.images)


def test_nothing_is_opened(flowers):
    os.mkfifo(flowers / "rose/pipe.jpg")  # whoever opens it waits for ever
    assert len(load_image_folder(flowers).images) == 5


def test_classes_that_link_to_each_other_end(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a", target_is_directory=True)
    data = load_image_folder(tmp_path)
    assert below(tmp_path, data.images) == ["a/1.jpg", "a/to_b/2.jpg", "b/2.jpg", "b/to_a/1.jpg"]


def test_a_list_that_is_no_utf_8_is_named(flowers, tmp_path):
    file = tmp_path / "split.txt"
    file.write_bytes("rose/ü.jpg".encode("latin-1"))
    with pytest.raises(ParameterError, match=r"split.txt is no text in UTF-8"):
        load_image_folder(flowers, split_file=file)
