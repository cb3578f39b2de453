"""Tables that name pictures: names stay text, labels keep their type, nothing is missing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sktl import load_image_table
from sktl.exceptions import ParameterError

IDS = [
    "007",
    "1e5",
    "000bec180eb18c7604dcecc8fe0dba07",
    "0x10",
    "1_000",
    "NA",
    "null",
    "True",
    "3.0",
]


def names(images):
    return [Path(path).name for path in images]


def write(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def touch(folder, *files):
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


@pytest.fixture
def kaggle(tmp_path):
    """A labels.csv as Kaggle's dog breeds have it, beside its pictures."""
    touch(tmp_path, *(f"{i}.jpg" for i in IDS))
    rows = "".join(f"{i},breed{n % 2}\n" for n, i in enumerate(IDS))
    return write(tmp_path, "id,breed\n" + rows)


def test_ids_stay_text(kaggle):
    data = load_image_table(kaggle, suffix=".jpg")
    assert data.images.tolist() == [str(kaggle.parent / f"{i}.jpg") for i in IDS]
    assert data.images.dtype == object
    assert all(type(path) is str for path in data.images)
    assert data.target.tolist() == [f"breed{n % 2}" for n in range(len(IDS))]
    assert data.target_names == ["breed0", "breed1"]
    assert list(data.frame.columns) == ["id", "breed"]
    assert data.frame["id"].tolist() == IDS


def test_pair_is_the_bunch(kaggle):
    images, target = load_image_table(kaggle, suffix=".jpg", return_X_y=True)
    data = load_image_table(str(kaggle), suffix=".jpg")
    np.testing.assert_array_equal(images, data.images)
    np.testing.assert_array_equal(target, data.target)


def test_pictures_may_be_elsewhere(tmp_path):
    touch(tmp_path / "train", "1.jpg", "sub/2.jpg")
    table = write(tmp_path / "train", "file,y\n1.jpg,a\nsub/2.jpg,b\n")
    table = table.rename(tmp_path / "labels.csv")
    for folder in (tmp_path / "train", str(tmp_path / "train")):
        images, _ = load_image_table(table, folder=folder, return_X_y=True)
        assert images.tolist() == [
            str(tmp_path / "train/1.jpg"),
            str(tmp_path / "train/sub/2.jpg"),
        ]


def test_absolute_paths_need_no_folder(tmp_path):
    touch(tmp_path / "elsewhere", "1.jpg")
    table = write(tmp_path, f"file,y\n{tmp_path}/elsewhere/1.jpg,a\n")
    assert load_image_table(table).images.tolist() == [str(tmp_path / "elsewhere/1.jpg")]


@pytest.mark.parametrize("folder", [None, "~"])
def test_home_folder_is_expanded(kaggle, monkeypatch, folder):
    monkeypatch.setenv("HOME", str(kaggle.parent))
    images, _ = load_image_table("~/labels.csv", folder=folder, suffix=".jpg", return_X_y=True)
    assert images[0] == str(kaggle.parent / "007.jpg")


@pytest.mark.parametrize("suffix", [".jpg", "_front.png"])
def test_suffix_is_put_behind_the_id(tmp_path, suffix):
    touch(tmp_path, f"7{suffix}", f"8.v2{suffix}")
    table = write(tmp_path, "id,y\n7,a\n8.v2,b\n")
    assert names(load_image_table(table, suffix=suffix).images) == [f"7{suffix}", f"8.v2{suffix}"]


@pytest.fixture
def wide(tmp_path):
    touch(tmp_path, "007.jpg", "008.jpg")
    return write(tmp_path, "breed,age,name\nboxer,3,007.jpg\ncollie,4,008.jpg\n")


def test_path_column_need_not_be_first(wide):
    data = load_image_table(wide, path_column="name", label_column="breed")
    assert names(data.images) == ["007.jpg", "008.jpg"]
    assert data.target.tolist() == ["boxer", "collie"]


def test_second_of_two_columns_is_the_path(tmp_path):
    touch(tmp_path, "007.jpg", "1e5.jpg")
    table = write(tmp_path, "breed,id\nboxer,007\ncollie,1e5\n")
    data = load_image_table(table, path_column="id", suffix=".jpg")
    assert names(data.images) == ["007.jpg", "1e5.jpg"]
    assert data.target.tolist() == ["boxer", "collie"]


def test_more_than_two_columns_need_label_column(wide):
    with pytest.raises(ParameterError, match=r"label_column='breed'.*label_column=None") as caught:
        load_image_table(wide, path_column="name")
    assert "['breed', 'age', 'name']" in str(caught.value)


def test_no_labels(wide):
    data = load_image_table(wide, path_column="name", label_column=None)
    assert names(data.images) == ["007.jpg", "008.jpg"]
    assert data.target is None
    assert data.target_names is None


def test_a_single_column_has_no_labels(tmp_path):
    touch(tmp_path, "1.jpg")
    assert load_image_table(write(tmp_path, "file\n1.jpg\n")).target is None


def test_the_frame_is_whole(wide):
    frame = load_image_table(wide, path_column="name", label_column="breed").frame
    assert frame.to_dict("list") == {
        "breed": ["boxer", "collie"],
        "age": [3, 4],
        "name": ["007.jpg", "008.jpg"],
    }


def test_unknown_columns_are_named_with_a_suggestion(wide):
    with pytest.raises(ParameterError, match=r"path_column: .* 'nam'\. Did you mean 'name'\?"):
        load_image_table(wide, path_column="nam", label_column="breed")
    with pytest.raises(ParameterError, match=r"label_column: .* 'Breed'\. Did you mean 'breed'\?"):
        load_image_table(wide, path_column="name", label_column="Breed")


@pytest.mark.parametrize(
    ("cells", "expected", "kind"),
    [
        (["3", "7"], [3, 7], "i"),
        (["0.5", "2"], [0.5, 2.0], "f"),
        (["True", "False"], [True, False], "b"),
        (["a", "b"], ["a", "b"], "U"),
        (["1", "b"], ["1", "b"], "U"),
        (["None", "NA"], ["None", "NA"], "U"),
        (["null", "nan"], ["null", "nan"], "U"),
        (["chien énorme", "犬"], ["chien énorme", "犬"], "U"),
    ],
)
def test_labels_keep_their_type(tmp_path, cells, expected, kind):
    touch(tmp_path, "a.jpg", "b.jpg")
    table = write(tmp_path, f"file,y\na.jpg,{cells[0]}\nb.jpg,{cells[1]}\n")
    data = load_image_table(table)
    assert data.target.dtype.kind == kind
    assert data.target.tolist() == expected
    assert data.target_names == sorted(expected)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (pd.Series([3, 7], dtype="Int64"), "i"),
        (pd.Series([True, False], dtype="boolean"), "b"),
        (pd.Series([3, 7], dtype=object), "i"),
        (pd.Series([True, False], dtype=object), "b"),
        (pd.Series(["b", "a"], dtype="category"), "U"),
        (pd.Series(["b", "a"], dtype="string"), "U"),
        (pd.Series([1, "a"], dtype=object), "U"),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_labels_of_a_frame_keep_their_type(tmp_path, labels, kind):
    touch(tmp_path, "a.jpg", "b.jpg")
    frame = pd.DataFrame({"file": ["a.jpg", "b.jpg"], "y": labels})
    target = load_image_table(frame, folder=tmp_path).target
    assert target.dtype.kind == kind
    assert target.tolist() == [str(v) if kind == "U" else v for v in labels]


def test_labels_are_a_copy(tmp_path):
    touch(tmp_path, "a.jpg")
    frame = pd.DataFrame({"file": ["a.jpg"], "y": [3]})
    target = load_image_table(frame, folder=tmp_path).target
    target[0] = 4
    assert frame["y"].tolist() == [3]


def test_frame_without_folder_is_about_the_current_one(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"file": ["a.jpg"], "y": [3]})
    data = load_image_table(frame)
    assert data.images.tolist() == ["a.jpg"]
    assert data.frame is frame


def test_frame_with_any_index_numbers_as_columns_and_paths(tmp_path):
    touch(tmp_path, "7.jpg", "8.jpg")
    numbered = pd.DataFrame([[7, "a"], [8, "b"]], index=["x", "y"])
    data = load_image_table(numbered, folder=tmp_path, suffix=".jpg")
    assert names(data.images) == ["7.jpg", "8.jpg"]
    assert data.target.tolist() == ["a", "b"]
    assert (
        load_image_table(numbered, folder=tmp_path, suffix=".jpg", path_column=0).target[1] == "b"
    )
    paths = pd.DataFrame({"path": [tmp_path / "7.jpg", tmp_path / "8.jpg"], "y": [0, 1]})
    assert names(load_image_table(paths).images) == ["7.jpg", "8.jpg"]


@pytest.mark.parametrize(
    ("file", "suffix", "remedy"),
    [
        ("007.png", "", "'.png'"),
        ("007.JPG", "", "'.JPG'"),
        ("007.jpeg", ".jpg", "'.jpeg'"),
        ("007.jpg", "jpg", "'.jpg'"),
    ],
)
def test_missing_files_hint_at_the_suffix(tmp_path, file, suffix, remedy):
    touch(tmp_path, file, file.replace("7", "8"))
    table = write(tmp_path, "id,y\n007,a\n008,b\n")
    with pytest.raises(FileNotFoundError, match=f"2 of 2 .*suffix={remedy}") as caught:
        load_image_table(table, suffix=suffix)
    assert str(tmp_path / f"007{suffix}") in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ""])
def test_no_suffix_is_hinted_at_that_would_not_do(tmp_path, suffix):
    """Neither the one that was passed nor one that finds some of the files alone."""
    touch(tmp_path, "1.jpg")
    table = write(tmp_path, "id,y\n1,a\n2,b\n")
    with pytest.raises(FileNotFoundError, match="Check folder= and suffix="):
        load_image_table(table, suffix=suffix)


def test_missing_files_are_named_in_one_error(tmp_path):
    touch(tmp_path, "1.jpg")
    table = write(tmp_path, "file,y\n1.jpg,a\n2.jpg,b\n3.jpg,b\n")
    with pytest.raises(FileNotFoundError, match=r"2 of 3 .*2\.jpg.*3\.jpg.*folder= and suffix="):
        load_image_table(table)


@pytest.mark.parametrize(
    ("text", "column", "rows"),
    [
        ("file,y\na.jpg,1\n,2\na.jpg,3\n,4\n", "file", r"\[1, 3\]"),
        ("file,y\na.jpg,x\na.jpg,\n", "y", r"\[1\]"),
        ("file,y\na.jpg,\na.jpg,2\n", "y", r"\[0\]"),
    ],
)
def test_missing_values(tmp_path, text, column, rows):
    touch(tmp_path, "a.jpg")
    with pytest.raises(ParameterError, match=f"{column!r} has no value in the rows {rows}"):
        load_image_table(write(tmp_path, text))


def test_missing_values_of_other_columns_do_not_matter(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    table = write(tmp_path, "file,y,age\na.jpg,x,\nb.jpg,z,3\n")
    data = load_image_table(table, label_column="y")
    assert data.target.tolist() == ["x", "z"]
    assert data.frame["age"].isna().tolist() == [True, False]


@pytest.mark.parametrize("text", ["", "\n", "id,breed\n", "id\n"])
def test_empty_table(tmp_path, text):
    with pytest.raises(ParameterError, match="names no pictures"):
        load_image_table(write(tmp_path, text))


@pytest.mark.parametrize(
    "frame", [pd.DataFrame(), pd.DataFrame({"id": []}), pd.DataFrame(index=[1])]
)
def test_empty_frame(frame):
    with pytest.raises(ParameterError, match="names no pictures"):
        load_image_table(frame)


def test_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no_such\.csv"):
        load_image_table(tmp_path / "no_such.csv")


def test_windows_text(tmp_path):
    touch(tmp_path, "007.jpg")
    table = tmp_path / "labels.csv"
    table.write_bytes("id,breed\r\n007,boxer\r\n".encode("utf-8-sig"))
    data = load_image_table(table, path_column="id", suffix=".jpg")
    assert names(data.images) == ["007.jpg"]
    assert data.target.tolist() == ["boxer"]


def test_categories_of_numbers_stay_numbers(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    table = pd.DataFrame({"id": ["a.jpg", "b.jpg"], "y": pd.Categorical([1, 2])})
    _, y = load_image_table(table, folder=tmp_path, return_X_y=True)
    assert y.tolist() == [1, 2]


@pytest.mark.parametrize(
    "content", ["id,label\nü,1".encode("latin-1"), b"id,label\na,1\nb,2,3,4\n"]
)
def test_what_is_no_table_is_named(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ParameterError, match=r"table.csv is no table of comma-separated values"):
        load_image_table(tmp_path / "table.csv")


@pytest.mark.parametrize("column", ["path_column", "label_column"])
def test_two_columns_of_one_name_are_refused(column):
    frame = pd.DataFrame([["a", "b", "c"]], columns=["id", "id", "label"])
    with pytest.raises(ParameterError, match=f"{column}: the table has several columns 'id'"):
        load_image_table(frame, **{"path_column": "label", column: "id"})


def test_long_columns_are_of_one_type(tmp_path):
    """pandas by itself reads long files part by part, and finds a type for each part."""
    (tmp_path / "a.png").touch()
    more = ",0" * 20
    lines = [f"a.png,{'01' if i < 39999 else 'unknown'}{more}" for i in range(40000)]
    header = "file,label," + ",".join(f"m{i}" for i in range(20))
    (tmp_path / "long.csv").write_text("\n".join([header, *lines]))
    _, y = load_image_table(tmp_path / "long.csv", label_column="label", return_X_y=True)
    assert dict(zip(*np.unique(y, return_counts=True), strict=True)) == {"01": 39999, "unknown": 1}
