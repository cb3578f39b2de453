"""The loaders on the public data sets that they are for."""

import numpy as np
import pandas as pd
import pytest

from sktl import load_image_folder, load_image_table


def folder_of(shared_data, *parts):
    folder = shared_data.joinpath(*parts)
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    return folder


def test_caltech101_with_the_studys_list(shared_data):
    folder = folder_of(shared_data, "caltech101")
    split = folder / "train.txt"
    root = folder / "101_ObjectCategories"
    data = load_image_folder(root, split_file=split, exclude="BACKGROUND_Google")
    assert len(data.images) == len(data.target) == len(set(data.images)) == 5784
    assert len(data.target_names) == 101
    listed = [line for line in split.read_text().split() if not line.startswith("BACKGROUND")]
    assert [f"{root}/{line}" for line in listed] == data.images.tolist()
    assert len(load_image_folder(root, split_file=split).target_names) == 102


def test_flowers(shared_data):
    images, target = load_image_folder(folder_of(shared_data, "flowers"), return_X_y=True)
    names, counts = np.unique(target, return_counts=True)
    assert names.tolist() == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    assert counts.tolist() == [420] * 5
    assert len(images) == 2100


def test_dogs_vs_cats_lies_flat(shared_data):
    data = load_image_folder(folder_of(shared_data, "dogs-vs-cats", "train"))
    assert len(data.images) == 1200
    assert data.target is None


def test_dogs_vs_cats_as_a_table(shared_data):
    folder = folder_of(shared_data, "dogs-vs-cats", "train")
    ids = sorted(path.stem for path in folder.glob("*.jpg"))
    frame = pd.DataFrame({"id": ids, "kind": [name.partition(".")[0] for name in ids]})
    images, target = load_image_table(frame, folder=folder, suffix=".jpg", return_X_y=True)
    assert images.tolist() == load_image_folder(folder).images.tolist()
    assert np.unique(target, return_counts=True)[1].tolist() == [600, 600]
