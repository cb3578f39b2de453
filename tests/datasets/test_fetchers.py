"""Each named set: archives of the true layout, served over HTTP, given as files, as folders."""

import hashlib
import importlib
import inspect
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from sktl import datasets
from sktl.datasets import _fashion_mnist, _oxford_flowers
from sktl.datasets._dog_breed import _BREEDS
from sktl.datasets._imagenet_classes import choose_wnids, imagenet_classes
from sktl.exceptions import DatasetError, ParameterError

DOGS = ["n02085620-Chihuahua", "n02086240-Shih-Tzu", "n02110958-pug"]


def names(images, n=2):
    return ["/".join(Path(path).parts[-n:]) for path in images]


def cells(*texts):
    """A MATLAB cell array."""
    array = np.empty((len(texts), 1), dtype=object)
    array[:, 0] = texts
    return array


def flowers(folder, make):
    kinds = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    work = folder.parent / "work"
    make.pictures(work / "flower_photos", *(f"{k}/{n}_m.jpg" for k in kinds for n in (10, 9, 8)))
    make.text(work, "flower_photos/LICENSE.txt", "CC-BY")
    make.tar(folder / "flower_photos.tgz", work)


def stanford_dogs(folder, make):
    work = folder.parent / "work"
    files = [f"{dog}/{dog[:9]}_{n}.jpg" for dog in DOGS for n in (7, 10)]
    make.pictures(work / "Images", *files)
    make.tar(folder / "images.tar", work, "w")
    lists = folder.parent / "lists"
    lists.mkdir()
    train, test = [files[1], files[2]], [files[5], files[0], files[3], files[4]]
    for part, chosen in (("file", files), ("train", train), ("test", test)):
        labels = [[DOGS.index(Path(file).parts[0]) + 1] for file in chosen]
        content = {"file_list": cells(*chosen), "labels": np.array(labels, np.uint8)}
        savemat(lists / f"{part}_list.mat", content)
    make.tar(folder / "lists.tar", lists, "w")


def imagenet_v2(folder, make):
    work = folder.parent / "work"
    top = work / "imagenetv2-matched-frequency-format-val"
    make.pictures(top, *(f"{n}/{h}.jpeg" for n in (0, 2, 10, 151, 268, 269, 999) for h in "ab"))
    make.tar(folder / "imagenetv2-matched-frequency.tar.gz", work)


def caltech101(folder, make):
    work = folder.parent / "work"
    kinds = ("accordion", "BACKGROUND_Google", "camera", "Faces")
    files = (f"{kind}/image_{n:04d}.jpg" for kind in kinds for n in (1, 2, 3))
    make.pictures(work / "in/101_ObjectCategories", *files)
    make.text(work, "in/101_ObjectCategories/BACKGROUND_Google/tmp", "")
    make.text(work, "zip/caltech-101/show_annotation.m", "function")
    make.text(work, "zip/__MACOSX/caltech-101/._101_ObjectCategories.tar.gz", "attributes")
    make.tar(work / "zip/caltech-101/101_ObjectCategories.tar.gz", work / "in")
    (work / "annotations").mkdir()
    make.tar(work / "zip/caltech-101/Annotations.tar", work / "annotations", "w")
    make.zip(folder / "caltech-101.zip", work / "zip")


def flowers17(folder, make):
    work = folder.parent / "work"
    make.pictures(work / "jpg", *(f"image_{n:04d}.jpg" for n in range(1, 1361)))
    listed = "\n".join(f"image_{n:04d}.jpg" for n in range(1, 1361))
    make.text(work, "jpg/files.txt", listed)
    make.tar(folder / "17flowers.tgz", work)
    numbers = np.random.default_rng(0).permuted(
        np.arange(1, 1361).reshape(17, 80) * np.ones((3, 1, 1), dtype=int), axis=2
    )
    parts = {}
    for split, of_class in enumerate(numbers, start=1):
        parts[f"trn{split}"] = of_class[:, :40].reshape(1, -1)
        parts[f"val{split}"] = of_class[:, 40:60].reshape(1, -1)
        parts[f"tst{split}"] = of_class[:, 60:].reshape(1, -1)
    savemat(folder / "datasplits.mat", {k: v.astype(np.uint16) for k, v in parts.items()})


def flowers102(folder, make):
    work = folder.parent / "work"
    labels = np.array([77, 77, 1, 102, 1, 50, 2], dtype=np.uint8)
    make.pictures(work / "jpg", *(f"image_{n:05d}.jpg" for n in range(1, 8)))
    make.tar(folder / "102flowers.tgz", work)
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    parts = {"trnid": [[3, 1]], "valid": [[6, 7]], "tstid": [[5, 4, 2]]}
    savemat(folder / "setid.mat", {k: np.array(v, np.uint16) for k, v in parts.items()})


def tiny_imagenet(folder, make):
    top = folder.parent / "work/tiny-imagenet-200"
    for wnid in ("n01443537", "n02123045"):
        files = (f"train/{wnid}/images/{wnid}_{n}.JPEG" for n in (0, 1, 10))
        make.pictures(top, *files)
        make.text(top, f"train/{wnid}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t7\t5\n")
    make.pictures(top, *(f"val/images/val_{n}.JPEG" for n in range(3)))
    make.pictures(top, *(f"test/images/test_{n}.JPEG" for n in range(2)))
    rows = [(0, "n02123045"), (1, "n01443537"), (2, "n02123045")]
    lines = (f"val_{n}.JPEG\t{wnid}\t0\t0\t7\t5\n" for n, wnid in rows)
    make.text(top, "val/val_annotations.txt", "".join(lines))
    make.text(top, "wnids.txt", "n02123045\nn01443537\n")
    words = (
        "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn02123045\ttabby, tabby cat\n"
    )
    make.text(top, "words.txt", words)
    make.zip(folder / "tiny-imagenet-200.zip", folder.parent / "work")


DOWNLOADED = {
    "flowers": (flowers, 15),
    "stanford_dogs": (stanford_dogs, 6),
    "imagenet_v2": (imagenet_v2, 14),
    "caltech101": (caltech101, 9),
    "flowers17": (flowers17, 1360),
    "flowers102": (flowers102, 7),
    "tiny_imagenet": (tiny_imagenet, 6),
}


@pytest.fixture
def publish(server, make, monkeypatch, tmp_path):
    """Publish a set on the server, with digests of its own; returns its fetcher."""

    def publish(name):
        DOWNLOADED[name][0](server.folder, make)
        fetcher = getattr(datasets, f"fetch_{name}")
        module = sys.modules[fetcher.__module__]
        number = name.removeprefix("flowers")
        constant = f"_PUBLISHED_{number}" if number.isdigit() else "_PUBLISHED"
        published = getattr(module, constant)
        digests = {
            file: "sha256:" + hashlib.sha256((server.folder / file).read_bytes()).hexdigest()
            for file in published.files
        }
        assert sorted(digests) == sorted(path.name for path in server.folder.iterdir())
        monkeypatch.setattr(module, constant, replace(published, files=digests))

        def fetch(**options):
            return fetcher(**{"base_url": server.url, "data_home": tmp_path / "home", **options})

        return fetch

    return publish


def same(a, b):
    assert names(a.images) == names(b.images)
    np.testing.assert_array_equal(a.target, b.target)
    assert a.target_names == b.target_names


@pytest.mark.parametrize("name", DOWNLOADED)
def test_download_folder_and_archives_give_the_same(publish, server, tmp_path, name):
    fetch = publish(name)
    data = fetch()
    assert len(data.images) == len(data.target) == len(set(data.images)) == DOWNLOADED[name][1]
    assert data.images.dtype == object
    assert data.target.dtype.kind == "U"
    assert data.target_names == sorted(set(data.target))
    with Image.open(data.images[-1]) as picture:
        assert picture.size == (8, 6)
    assert data.DESCR.count("\n") > 2
    assert len(server.requests) == len(list(server.folder.iterdir()))
    images, target = fetch(return_X_y=True, base_url="http://127.0.0.1:9")
    assert images.tolist() == data.images.tolist()
    np.testing.assert_array_equal(target, data.target)
    server.requests.clear()
    home = tmp_path / "home"
    (unpacked,) = (path for path in home.iterdir() if path.is_dir() and path.name[0] != ".")
    same(data, fetch(source=unpacked))
    same(data, fetch(source=home))  # a folder around it
    same(data, fetch(source=server.folder, data_home=tmp_path / "elsewhere"))
    if len(list(server.folder.iterdir())) == 1:
        (archive,) = server.folder.iterdir()
        same(data, fetch(source=str(archive), data_home=tmp_path / "third"))
    shutil.make_archive(str(tmp_path / "mine"), "zip", unpacked)
    same(data, fetch(source=tmp_path / "mine.zip"))
    assert server.requests == []


@pytest.mark.parametrize("name", DOWNLOADED)
def test_other_content_than_the_published_is_refused(publish, server, tmp_path, name):
    fetch = publish(name)
    for file in server.folder.iterdir():
        file.write_bytes(file.read_bytes() + b"changed")
    with pytest.raises(DatasetError, match=r"cannot be had from .*source="):
        fetch()
    with pytest.raises(DatasetError, match="source="):
        fetch(download_if_missing=False)
    with pytest.raises(DatasetError, match="source="):
        fetch(source=tmp_path / "nowhere")


def test_published_digests():
    """Each file that is downloaded has one, of the length that its algorithm has."""
    lengths = {"md5": 32, "sha256": 64}
    found = 0
    for name in ("flowers", "stanford_dogs", "imagenet_v2", "caltech101", "oxford_flowers",
                 "tiny_imagenet"):  # fmt: skip
        module = importlib.import_module(f"sktl.datasets._{name}")
        for published in vars(module).values():
            for digest in getattr(published, "files", {}).values():
                algorithm, _, value = digest.partition(":")
                assert len(value) == lengths[algorithm]
                int(value, 16)
                found += 1
    assert found == 11


def test_flowers_of_tensorflow(publish):
    data = publish("flowers")()
    assert data.target_names == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    assert names(data.images[:3]) == ["daisy/10_m.jpg", "daisy/8_m.jpg", "daisy/9_m.jpg"]
    assert names(data.ignored) == ["flower_photos/LICENSE.txt"]


@pytest.mark.parametrize("twice", [False, True])
def test_flowers_of_kaggle(tmp_path, make, twice):
    kinds = ("daisy", "dandelion", "rose", "sunflower", "tulip")
    for top in ("flowers", "flowers/flowers") if twice else ("flowers",):
        make.pictures(tmp_path / "in" / top, *(f"{kind}/{n}.jpg" for kind in kinds for n in (1, 2)))
    make.text(tmp_path / "in", "flowers/dandelion/flickr.py", "import")
    make.zip(tmp_path / "archive.zip", tmp_path / "in")
    data = datasets.fetch_flowers(source=tmp_path / "archive.zip", data_home=tmp_path / "home")
    assert data.target_names == list(kinds)
    assert len(data.images) == 10
    images, y = datasets.fetch_flowers(source=tmp_path / "in", return_X_y=True)
    np.testing.assert_array_equal(y, data.target)
    assert len(images) == 10


def test_stanford_dogs(publish):
    fetch = publish("stanford_dogs")
    data = fetch()
    assert data.target.tolist() == ["Chihuahua"] * 2 + ["Shih-Tzu"] * 2 + ["pug"] * 2
    assert data.target_names == ["Chihuahua", "Shih-Tzu", "pug"]
    assert data.wnids == ["n02085620", "n02086240", "n02110958"]
    train, test = fetch(subset="train"), fetch(subset="test")
    assert names(train.images, 1) == ["n02085620_10.jpg", "n02086240_7.jpg"]
    assert train.target.tolist() == ["Chihuahua", "Shih-Tzu"]
    assert train.wnids == ["n02085620", "n02086240"]
    assert test.target.tolist() == ["pug", "Chihuahua", "Shih-Tzu", "pug"]
    assert sorted([*train.images, *test.images]) == sorted(data.images)
    Path(train.images[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"n02086240_7\.jpg.*train_list\.mat"):
        fetch(subset="train")
    with pytest.raises(ParameterError, match="subset"):
        fetch(subset="val")


def test_imagenet_v2(publish):
    fetch = publish("imagenet_v2")
    data = fetch()
    assert names(data.images[::2]) == [
        f"{n}/a.jpeg" for n in (0, 2, 10, 151, 268, 269, 999)
    ]  # in the order of the class indices
    assert data.target_names[:3] == ["n01440764", "n01484850", "n01530575"]
    assert data.target.tolist() == [wnid for wnid in data.target_names for _ in "ab"]
    assert data.class_names[2:5] == ["brambling", "Chihuahua", "Mexican hairless"]
    assert data.class_names[-1] == "toilet tissue"
    dogs = fetch(classes="dogs")
    assert dogs.class_names == ["Chihuahua", "Mexican hairless"]
    assert names(dogs.images) == ["151/a.jpeg", "151/b.jpeg", "268/a.jpeg", "268/b.jpeg"]
    some = fetch(classes=["mexican_hairless", "n01440764", "pug"])
    assert some.target_names == ["n01440764", "n02113978"]
    with pytest.raises(ParameterError, match=r"(?s)'chiwawa' is none. Did you mean.*'n00000001'"):
        fetch(classes=["chiwawa", "n00000001"])
    for wrong in ("cats", "pug", []):
        with pytest.raises(ParameterError, match="classes"):
            fetch(classes=wrong)
    with pytest.raises(DatasetError, match="no pictures of these classes"):
        fetch(classes=["pug"])


def test_imagenet_v2_of_a_part_and_of_other_folders(tmp_path, make):
    make.pictures(tmp_path / "mine", "254/1.jpeg", "151/1.jpeg")
    data = datasets.fetch_imagenet_v2(source=tmp_path / "mine")
    assert data.class_names == ["Chihuahua", "pug"]
    make.pictures(tmp_path / "mine", "n02110958/1.jpeg")
    with pytest.raises(DatasetError, match=r"0 to 999.*n02110958"):
        datasets.fetch_imagenet_v2(source=tmp_path / "mine")


def test_the_table_of_imagenet_is_that_of_the_networks(shared_data):
    from torchvision.models import ResNet18_Weights

    table = imagenet_classes()
    assert list(table.values()) == ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    folder = shared_data / "imagenet-samples"
    assert list(table) == (folder / "synsets.txt").read_text().split()
    # The file names have words of their own for some classes; the ids agree.
    dogs = choose_wnids("dogs")
    assert len(dogs) == 118
    there = {path.name[:9] for path in folder.glob("*.JPEG")}
    assert set(dogs) <= there


def test_the_table_of_imagenet_is_whole():
    table = imagenet_classes()
    assert len(table) == len(set(table.values())) == 1000
    assert list(table) == sorted(table)
    assert all(wnid[0] == "n" and wnid[1:].isdigit() and len(wnid) == 9 for wnid in table)


def test_caltech101(publish, tmp_path):
    fetch = publish("caltech101")
    data = fetch()
    assert data.target_names == ["Faces", "accordion", "camera"]
    assert not any("BACKGROUND" in path for path in data.images)
    whole = fetch(background=True)
    assert "BACKGROUND_Google" in whole.target_names
    assert len(whole.images) == 12
    split = tmp_path / "train.txt"
    split.write_text(
        "camera/image_0003.jpg\nBACKGROUND_Google/image_0001.jpg\nFaces/image_0002.jpg\n"
    )
    part = fetch(split_file=split)
    assert names(part.images) == ["camera/image_0003.jpg", "Faces/image_0002.jpg"]
    assert part.target.tolist() == ["camera", "Faces"]
    assert len(fetch(split_file=split, background=True).images) == 3
    with pytest.raises(DatasetError, match=r"no lists\.txt"):
        fetch(split_file="lists.txt")


def test_caltech101_of_the_study(shared_data):
    folder = shared_data / "caltech101"
    train = datasets.fetch_caltech101(source=folder, split_file="train.txt")
    assert len(train.images) == 5784
    assert len(train.target_names) == 101
    assert len(datasets.fetch_caltech101(source=folder, background=True).target_names) == 102


def test_caltech101_is_that_of_torchvision(publish, tmp_path):
    from torchvision.datasets import Caltech101

    data = publish("caltech101")()
    (tmp_path / "torchvision").mkdir()
    shutil.copytree(Path(data.images[0]).parents[2], tmp_path / "torchvision/caltech101")
    (tmp_path / "torchvision/caltech101/101_ObjectCategories/BACKGROUND_Google/tmp").unlink()
    theirs = Caltech101(tmp_path / "torchvision")
    ours = datasets.fetch_caltech101(source=tmp_path / "torchvision")
    assert [theirs.categories[y] for y in theirs.y] == ours.target.tolist()
    for i in range(len(theirs)):
        np.testing.assert_array_equal(theirs[i][0], Image.open(ours.images[i]))


def test_flowers17(publish):
    fetch = publish("flowers17")
    data = fetch()
    assert names(data.images[[0, 1359]], 1) == ["image_0001.jpg", "image_1360.jpg"]
    assert data.target[[0, 79, 80, 1359]].tolist() == ["daffodil", "daffodil", "snowdrop", "pansy"]
    assert np.unique(data.target, return_counts=True)[1].tolist() == [80] * 17
    label_of = dict(zip(data.images, data.target, strict=True))
    seen = []
    for split in (1, 2, 3):
        parts = [fetch(subset=part, split=split) for part in ("train", "val", "test")]
        assert [len(part.images) for part in parts] == [680, 340, 340]
        assert set().union(*(part.images for part in parts)) == set(data.images)
        for part in parts:
            assert [label_of[image] for image in part.images] == part.target.tolist()
        seen.append(set(parts[0].images))
    assert seen[0] != seen[1] != seen[2]
    for wrong in (0, 4, "1", None):
        with pytest.raises(ParameterError, match="split must be 1, 2 or 3"):
            fetch(split=wrong)
    Path(data.images[7]).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1360"):
        fetch()


def test_flowers102(publish, tmp_path):
    fetch = publish("flowers102")
    data = fetch()
    first, other = "pink primrose", "passion flower"
    assert data.target[[0, 1, 2, 4]].tolist() == [other, other, first, first]
    assert data.target[[3, 5]].tolist() == ["blackberry lily", "common dandelion"]
    train = fetch(subset="train")
    assert names(train.images, 1) == ["image_00003.jpg", "image_00001.jpg"]
    assert train.target.tolist() == [first, other]
    assert fetch(subset="val").target.tolist() == ["common dandelion", "hard-leaved pocket orchid"]
    assert names(fetch(subset="test").images, 1) == [f"image_0000{n}.jpg" for n in (5, 4, 2)]
    savemat(tmp_path / "home/flowers-102/setid.mat", {"trnid": [8], "valid": [0], "tstid": [[]]})
    for part in ("train", "val", "test"):
        with pytest.raises(DatasetError, match="not among the 7 labelled"):
            fetch(subset=part)
    savemat(tmp_path / "home/flowers-102/imagelabels.mat", {"labels": [1, 2, 103, 1, 1, 1, 1]})
    with pytest.raises(DatasetError, match="from 1 to 102"):
        fetch()


def test_flowers102_is_that_of_torchvision(publish, tmp_path, monkeypatch):
    from torchvision.datasets import Flowers102

    fetch = publish("flowers102")
    data = fetch()
    shutil.copytree(Path(data.images[0]).parents[1], tmp_path / "torchvision/flowers-102")
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)
    for part in ("train", "val", "test"):
        theirs = Flowers102(tmp_path / "torchvision", split=part)
        ours = fetch(source=tmp_path / "torchvision", subset=part)
        assert [str(path) for path in theirs._image_files] == ours.images.tolist()
        assert [Flowers102.classes[label] for label in theirs._labels] == ours.target.tolist()
    assert list(_oxford_flowers._NAMES_102) == Flowers102.classes


def test_digests_are_those_of_torchvision():
    from torchvision.datasets import FashionMNIST, Flowers102

    theirs = {name: f"md5:{md5}" for name, md5 in Flowers102._file_dict.values()}
    assert dict(_oxford_flowers._PUBLISHED_102.files) == theirs
    ours = {k: v for files in _fashion_mnist._FILES.values() for k, v in files.items()}
    assert ours == {name: f"md5:{md5}" for name, md5 in FashionMNIST.resources}


def test_tiny_imagenet(publish):
    fetch = publish("tiny_imagenet")
    train = fetch()
    assert names(train.images[:3], 1) == [f"n01443537_{n}.JPEG" for n in (0, 1, 10)]
    assert train.target.tolist() == ["n01443537"] * 3 + ["n02123045"] * 3
    assert train.class_names == ["goldfish, Carassius auratus", "tabby, tabby cat"]
    val = fetch(subset="val")
    assert names(val.images, 1) == ["val_0.JPEG", "val_1.JPEG", "val_2.JPEG"]
    assert val.target.tolist() == ["n02123045", "n01443537", "n02123045"]
    assert val.class_names == train.class_names
    test = fetch(subset="test")
    assert names(test.images, 1) == ["test_0.JPEG", "test_1.JPEG"]
    assert test.target is test.target_names is test.class_names is None
    Path(val.images[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"val_1\.JPEG"):
        fetch(subset="val")


@pytest.fixture
def cats(tmp_path, make):
    """dogs-vs-cats.zip, as Kaggle packs it: archives in an archive."""
    work = tmp_path / "work"
    make.pictures(
        work / "a", *(f"train/{kind}.{n}.jpg" for kind in ("cat", "dog") for n in range(3))
    )
    make.pictures(work / "b", *(f"test1/{n}.jpg" for n in (1, 2)))
    (work / "all").mkdir()
    make.zip(work / "all/train.zip", work / "a")
    make.zip(work / "all/test1.zip", work / "b")
    make.text(work, "all/sampleSubmission.csv", "id,label\n1,0\n2,0\n")
    make.zip(tmp_path / "dogs-vs-cats.zip", work / "all")
    return tmp_path


def test_dogs_vs_cats(cats):
    home = cats / "home"
    archive = cats / "dogs-vs-cats.zip"
    for source in (archive, cats / "work/all", cats / "work/a", cats / "work/a/train"):
        data = datasets.fetch_dogs_vs_cats(source, data_home=home)
        assert data.target.tolist() == ["cat"] * 3 + ["dog"] * 3
        assert names(data.images)[::3] == ["train/cat.0.jpg", "train/dog.0.jpg"]
        assert data.target_names == ["cat", "dog"]
    X, y = datasets.fetch_dogs_vs_cats(archive, subset="test", data_home=home, return_X_y=True)
    assert names(X) == ["test1/1.jpg", "test1/2.jpg"]
    assert y is None


def test_dogs_vs_cats_of_other_folders(tmp_path, make):
    with pytest.raises(DatasetError, match=r"kaggle\.com/c/dogs-vs-cats.*source="):
        datasets.fetch_dogs_vs_cats(data_home=tmp_path)
    make.pictures(tmp_path / "a/train", "cat.0.jpg", "hamster.0.jpg")
    with pytest.raises(DatasetError, match="hamster"):
        datasets.fetch_dogs_vs_cats(tmp_path / "a")
    make.pictures(tmp_path / "b/train", "cats/1.jpg", "dogs/1.jpg")
    with pytest.raises(DatasetError, match="load_image_folder"):
        datasets.fetch_dogs_vs_cats(tmp_path / "b")
    with pytest.raises(ParameterError, match="subset"):
        datasets.fetch_dogs_vs_cats(tmp_path / "a", subset="val")


def test_dogs_vs_cats_of_real_pictures(shared_data):
    X, y = datasets.fetch_dogs_vs_cats(shared_data / "dogs-vs-cats", return_X_y=True)
    assert np.unique(y, return_counts=True)[1].tolist() == [600, 600]
    assert all(Path(path).name.startswith(kind) for path, kind in zip(X, y, strict=True))


IDS = ["000bec", "1e5", "007"]


@pytest.fixture(params=["zip in zip", "zip"])
def breeds(tmp_path, make, request):
    work = tmp_path / "work"
    make.pictures(work / "a", *(f"train/{i}.jpg" for i in IDS))
    make.pictures(work / "b", "test/ffe.jpg", "test/0a1.jpg")
    make.text(work / "c", "labels.csv", "id,breed\n000bec,boxer\n1e5,shih-tzu\n007,boxer\n")
    if request.param == "zip":
        for part in "abc":
            shutil.copytree(work / part, work / "all", dirs_exist_ok=True)
    else:
        (work / "all").mkdir()
        for part, name in zip("abc", ("train", "test", "labels.csv"), strict=True):
            make.zip(work / f"all/{name}.zip", work / part)
    make.zip(tmp_path / "dog-breed-identification.zip", work / "all")
    return tmp_path


def test_dog_breed(breeds):
    options = {"data_home": breeds / "home"}
    for source in (breeds / "dog-breed-identification.zip", breeds / "work/all"):
        data = datasets.fetch_dog_breed(source, **options)
        assert data.ids.tolist() == IDS
        assert data.target.tolist() == ["boxer", "shih-tzu", "boxer"]
        assert names(data.images) == [f"train/{i}.jpg" for i in IDS]
        test = datasets.fetch_dog_breed(source, subset="test", **options)
        assert test.ids.tolist() == ["0a1", "ffe"]
        assert test.target is None
    with pytest.raises(DatasetError, match=r"kaggle\.com/c/dog-breed.*source="):
        datasets.fetch_dog_breed(**options)


def test_dog_breed_submission(tmp_path):
    assert len(set(_BREEDS)) == 120
    assert list(_BREEDS) == sorted(_BREEDS)
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(120), 5).astype(np.float32)
    classes = rng.permutation(_BREEDS)
    images = np.array([f"/data/test/0{n}e1.jpg" for n in range(5)], dtype=object)
    file = tmp_path / "submission.csv"
    table = datasets.write_dog_breed_submission(file, images, P, classes)
    read = pd.read_csv(file, dtype={"id": str})
    assert list(read.columns) == ["id", *_BREEDS]
    assert read.shape == table.shape == (5, 121)
    assert read["id"].tolist() == [f"0{n}e1" for n in range(5)]
    for breed, column in zip(classes, P.T, strict=True):
        np.testing.assert_allclose(read[breed], column, rtol=1e-6)


def test_dog_breed_submission_of_some_breeds(tmp_path):
    write = datasets.write_dog_breed_submission
    table = write(tmp_path / "a.csv", ["a.b", "c"], np.eye(2), ["pug", "boxer"])
    assert table["id"].tolist() == ["a.b", "c"]
    assert table.drop(columns=["id", "pug", "boxer"]).to_numpy().sum() == 0
    other = write(tmp_path / "b.csv", ["x"], [[1.0]], ["cat"], breeds=["cat", "cow"])
    assert other.columns.tolist() == ["id", "cat", "cow"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"probabilities": [[1, 0, 0], [0, 1, 0]]}, r"shape \(2, 2\).*\(2, 3\)"),
        ({"probabilities": [1, 0]}, "shape"),
        ({"probabilities": [[1, 0], [np.nan, 1]]}, r"from 0 to 1.*rows \[1\]"),
        ({"probabilities": [[-3, 4], [0, 1]]}, r"from 0 to 1.*rows \[0\]"),
        ({"images": ["a/1.jpg", "b/1.jpg"]}, "images must not come twice"),
        ({"classes": ["pug", "pug"]}, "classes must not come twice"),
        ({"classes": ["pug", "Boxer"]}, "'Boxer'.*Did you mean 'boxer'"),
    ],
)
def test_wrong_submissions_are_not_written(tmp_path, change, match):
    right = {"images": ["1", "2"], "probabilities": np.eye(2), "classes": ["pug", "boxer"]}
    with pytest.raises(ParameterError, match=match):
        datasets.write_dog_breed_submission(tmp_path / "a.csv", **{**right, **change})
    assert not (tmp_path / "a.csv").exists()


def test_fetchers_have_the_same_parameters():
    common = {"source", "data_home", "verbose", "return_X_y"}
    downloads = {"base_url", "download_if_missing"}
    fetchers = [name for name in datasets.__all__ if name.startswith("fetch_")]
    assert len(fetchers) == 10
    for name in fetchers:
        parameters = set(inspect.signature(getattr(datasets, name)).parameters)
        assert common <= parameters
        assert downloads <= parameters or "Kaggle" in getattr(datasets, name).__doc__
