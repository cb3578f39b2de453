"""The report of a set of pictures: every fault that was put into it, and no other."""

import io
import itertools
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_images

from sktl.datasets._report import image_report
from sktl.datasets._report_display import ImageReportDisplay
from sktl.datasets._report_measure import look_at
from sktl.exceptions import ImageFormatError, ParameterError
from sktl.images import as_images

TEMPLE, FLOWER = (Image.fromarray(image) for image in load_sample_images().images)


@pytest.fixture
def folder(tmp_path):
    """Nine pictures; name -> path, label."""
    gray = TEMPLE.crop((0, 0, 200, 300)).convert("L")
    TEMPLE.save(tmp_path / "a.jpg")
    FLOWER.save(tmp_path / "b.png")
    FLOWER.resize((320, 213)).save(tmp_path / "b_small.jpg")
    gray.save(tmp_path / "c.jpg")
    (tmp_path / "c_copy.jpg").write_bytes((tmp_path / "c.jpg").read_bytes())
    Image.new("RGB", (90, 60), (3, 2, 1)).save(tmp_path / "dark.png")
    TEMPLE.crop((320, 210, 640, 427)).filter(ImageFilter.GaussianBlur(4)).save(
        tmp_path / "soft.jpg"
    )
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:5000])
    (tmp_path / "empty.jpg").touch()
    names = {
        "a.jpg": "x", "b.png": "x", "b_small.jpg": "y", "c.jpg": "z", "c_copy.jpg": "z",
        "dark.png": "y", "soft.jpg": "x", "cut.jpg": "y", "empty.jpg": "z",
    }  # fmt: skip
    return [str(tmp_path / name) for name in names], np.array(list(names.values()))


@pytest.fixture
def report(folder):
    return image_report(*folder)


def test_pictures(folder, report):
    paths, y = folder
    table = report.pictures.set_axis([path.rpartition("/")[2] for path in paths])
    assert table["source"].tolist() == paths
    assert table["label"].tolist() == y.tolist()
    assert table["format"].tolist() == [
        "JPEG", "PNG", "JPEG", "JPEG", "JPEG", "PNG", "JPEG", "JPEG", None,
    ]  # fmt: skip
    assert table["mode"].tolist()[:6] == ["RGB", "RGB", "RGB", "L", "L", "RGB"]
    assert table.loc["c.jpg", ["width", "height"]].tolist() == [200, 300]
    assert table.loc["c.jpg", "aspect"] == pytest.approx(2 / 3)
    assert table.loc["cut.jpg", ["width", "height", "bytes"]].tolist() == [640, 427, 5000]
    assert table.loc["empty.jpg", "bytes"] == 0
    assert pd.isna(table.loc["empty.jpg", "width"])
    marks = {name: table.index[table[name].astype(bool)].tolist() for name in
             ("broken", "dark", "flat", "blurred", "conflicting")}  # fmt: skip
    assert marks == {
        "broken": ["cut.jpg", "empty.jpg"],
        "dark": ["dark.png"],
        "flat": ["dark.png"],
        "blurred": ["soft.jpg"],
        "conflicting": ["b.png", "b_small.jpg"],
    }
    assert "truncated" in table.loc["cut.jpg", "broken"]
    assert table.loc[["b.png", "b_small.jpg"], "duplicate"].tolist() == ["near", "near"]
    assert table.loc[["c.jpg", "c_copy.jpg"], "duplicate"].tolist() == ["exact", "exact"]
    assert (table["duplicate"] != "").sum() == 4
    assert report.groups.tolist() == [0, 1, 1, 2, 2, 3, 4, 5, 6]


def test_light_is_that_of_the_gray_pixels(report, folder):
    gray = np.asarray(Image.open(folder[0][0]).convert("L"), dtype=float)
    row = report.pictures.iloc[0]
    assert row["brightness"] == pytest.approx(gray.mean())
    assert row["contrast"] == pytest.approx(gray.std())
    (look,) = look_at(as_images([folder[0][0]]))
    assert (gray <= look.highlight).mean() >= 0.99 > (gray < look.highlight).mean()


def test_sharpness_is_that_of_a_plain_laplacian():
    gray = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(float)
    laplacian = [
        gray[i - 1, j] + gray[i + 1, j] + gray[i, j - 1] + gray[i, j + 1] - 4 * gray[i, j]
        for i in range(1, 19)
        for j in range(1, 29)
    ]
    (look,) = look_at(as_images([gray.astype(np.uint8)]))
    assert look.sharpness == pytest.approx(np.var(laplacian) / gray.var())


def test_blur_grows_and_contrast_does_not_matter():
    pictures = [TEMPLE.filter(ImageFilter.GaussianBlur(r)) for r in (0, 2, 5, 10)]
    dull = TEMPLE.point(lambda level: 100 + level // 4)
    sharpness = [look.sharpness for look in look_at(as_images([*pictures, dull]))]
    assert sharpness[0] > sharpness[1] > sharpness[2] > sharpness[3]
    assert sharpness[4] == pytest.approx(sharpness[0], rel=0.1)


def test_classes(report):
    classes = report.classes
    assert classes.index.tolist() == ["x", "y", "z"]
    assert classes["n_pictures"].tolist() == [3, 3, 3]
    np.testing.assert_allclose(classes["share"], 1 / 3)
    assert classes["width"].tolist() == [640, 320, 200]  # medians of what is known
    assert classes["broken"].tolist() == [0, 1, 1]
    assert classes["dark"].tolist() == [0, 1, 0]
    assert classes["blurred"].tolist() == [1, 0, 0]
    assert classes["exact_duplicate"].tolist() == [0, 0, 2]
    assert classes["near_duplicate"].tolist() == [1, 1, 0]
    assert classes["conflicting"].tolist() == [1, 1, 0]


def test_duplicates(report, folder):
    table = report.duplicates
    assert table["kind"].tolist() == ["near", "exact"]  # conflicts first
    assert table["conflicting"].tolist() == [True, False]
    assert table["labels"].tolist() == [("x", "y"), ("z",)]
    assert table["positions"].tolist() == [(1, 2), (3, 4)]
    assert table["sources"].iloc[1] == tuple(folder[0][3:5])


def test_flagged(report):
    flagged = report.flagged
    assert flagged.index.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert flagged["problems"].tolist() == [
        *2 * ["conflicting, duplicate"], *2 * ["duplicate"], "dark, flat", "blurred", "broken",
        "broken",
    ]  # fmt: skip


def test_words(report):
    lines = repr(report).splitlines()
    assert lines[0] == "9 pictures of 3 classes: 3 a class"
    assert "mode: RGB 6, L 2" in lines
    assert "broken 2, dark 1, flat 1, blurred 1" in lines
    assert lines[-1] == "groups of duplicates: 1 exact, 1 near; 1 with conflicting labels"


def test_words_name_the_rarest_class(folder):
    paths, y = folder
    words = repr(image_report(paths, ["new", *y[1:]]))
    assert words.startswith("9 pictures of 4 classes: 1 (new) to 3 (y) a class")


def test_words_count_what_has_no_label(folder):
    paths, y = folder
    words = repr(image_report(paths[:3], np.array([*y[:1], None, y[2]], dtype=object)))
    assert words.startswith("3 pictures of 2 classes: 1 a class; 1 without a label\n")


def test_without_labels(folder):
    report = image_report(folder[0])
    assert report.classes.index.tolist() == ["all"]
    assert report.classes["n_pictures"].tolist() == [9]
    assert report.classes["near_duplicate"].tolist() == [2]
    assert not report.duplicates["conflicting"].any()
    assert repr(report).startswith("9 pictures\n")


def test_arrays_and_rows():
    digits = load_digits()
    rows = as_images(digits.data[:50], image_shape=(8, 8))
    report = image_report(rows, digits.target[:50])
    assert report.classes.index.tolist() == list(range(10))
    assert report.classes["n_pictures"].tolist() == np.bincount(digits.target[:50]).tolist()
    assert set(report.pictures["mode"]) == {"L"}
    assert report.pictures["format"].isna().all()
    assert report.pictures["bytes"].isna().all()
    assert (report.pictures[["width", "height"]] == 8).all(axis=None)
    assert not report.pictures["dark"].any()
    colour = image_report(np.zeros((2, 3, 9, 12), dtype=np.uint8))
    assert set(colour.pictures["mode"]) == {"RGB"}
    assert colour.pictures["duplicate"].tolist() == ["exact", "exact"]


def test_orientation_counts():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    FLOWER.resize((40, 20)).save(file, "JPEG", exif=exif)
    row = image_report([file.getvalue()]).pictures.iloc[0]
    assert (row["width"], row["height"]) == (20, 40)


def test_thresholds(folder):
    assert image_report(*folder, blurred=0).pictures["blurred"].sum() == 0
    assert image_report(*folder, dark=256).pictures["dark"].sum() == 7  # all that can be read
    assert image_report(*folder, flat=200).pictures["flat"].sum() == 7


def test_empty_set():
    report = image_report([])
    assert len(report.pictures) == len(report.duplicates) == len(report.flagged) == 0
    assert repr(report).startswith("0 pictures")


def test_all_broken():
    report = image_report([b"", b"x"], ["a", "b"])
    assert report.classes["broken"].tolist() == [1, 1]
    assert report.groups.tolist() == [0, 1]


def test_survives_pickling_and_threads(folder, report):
    again = pickle.loads(pickle.dumps(image_report(*folder, n_jobs=3, verbose=1)))
    pd.testing.assert_frame_equal(again.pictures, report.pictures)
    pd.testing.assert_frame_equal(again.classes, report.classes)


def test_wrong_arguments(folder):
    paths, y = folder
    with pytest.raises(ParameterError, match=r"y must have one label a picture, shape \(9,\)"):
        image_report(paths, y[:3])
    with pytest.raises(ParameterError, match="image_report has 2 wrong parameters"):
        image_report(paths, y, dark="very", blurred=-1)
    with pytest.raises(ParameterError, match="max_distance"):
        image_report(paths, y, max_distance=1.5)
    with pytest.raises(ImageFormatError):
        image_report(5)


def test_plot(report):
    display = report.plot(n_shown=6)
    assert isinstance(display, ImageReportDisplay)
    counts, sizes, *shown = display.ax_
    assert [patch.get_width() for patch in counts.patches] == [3, 3, 3]
    assert [label.get_text() for label in counts.get_yticklabels()] == ["x", "y", "z"]
    points = sizes.collections[0].get_offsets().data.tolist()
    assert sorted(points) == sorted(
        [list(size) for size in {(640, 427), (320, 213), (200, 300), (90, 60), (320, 217)}]
    )
    # A pair, and one of each other fault.
    titles = [ax.get_title() for ax in shown]
    assert titles == ["conflict 1", "conflict 1", "broken", "dark", "flat", "blurred"]
    plt.close(display.figure_)


def test_plot_shows_why_a_picture_is_broken(report):
    display = report.plot(n_shown=20)
    texts = [text.get_text() for ax in display.ax_ for text in ax.texts]
    assert any("empty" in text for text in texts)
    plt.close(display.figure_)


def test_plot_in_a_given_place(report):
    figure, (left, right) = plt.subplots(1, 2)
    display = ImageReportDisplay(report).plot(ax=right, n_shown=3)
    assert display.figure_ is figure
    assert not right.axison
    assert left.axison
    assert all(ax.get_position().x0 > 0.5 for ax in display.ax_)
    plt.close(figure)


@pytest.mark.parametrize("divided", [False, True])
def test_long_names_keep_off_their_neighbours(folder, divided):
    names = dict(zip("xyz", ["American_Staffordshire_terrier", "Greater_Swiss_Mountain_dog",
                             "West_Highland_white_terrier"], strict=True))  # fmt: skip
    report = image_report(folder[0], [names[label] for label in folder[1]])
    ax = plt.subplots(1, 2, figsize=(16, 6))[1][1] if divided else None
    counts, _, *shown = report.plot(ax=ax).ax_
    figure = counts.figure
    figure.canvas.draw()
    captions = [ax.xaxis.label.get_window_extent() for ax in shown]
    assert len(captions) == 9
    assert not any(a.overlaps(b) for a, b in itertools.combinations(captions, 2))
    widest = max(label.get_window_extent().width for label in counts.get_yticklabels())
    assert widest < 0.12 * figure.bbox.width
    plt.close(figure)


def test_plot_of_many_classes_and_of_none():
    digits = load_digits()
    names = [f"class {i}" for i in range(40)]
    display = image_report(digits.images[:40] / 16, names).plot()
    words = "40 classes, by number of pictures\nmost: class 0 1; median: 1; least: class 9 1"
    assert display.ax_[0].get_xlabel() == words
    assert not display.ax_[0].texts, "they would be on the bars"
    plt.close(display.figure_)
    display = image_report([]).plot()
    assert len(display.ax_) == 2
    plt.close(display.figure_)


def test_labels_of_several_types_are_listed(folder):
    files, _ = folder
    report = image_report(files[3:5], np.array([1, "a"], dtype=object))
    assert report.duplicates["labels"].tolist() == [(1, "a")]


def test_thresholds_may_be_numbers_of_numpy(folder):
    files, _ = folder
    options = {"dark": np.int64(40), "min_correlation": np.float32(0.9)}
    assert image_report([files[0], files[5]], **options).pictures["dark"].tolist() == [False, True]
