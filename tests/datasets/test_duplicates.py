"""Duplicates within a set and leakage between two, on pictures changed in known ways."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from sktl.datasets._duplicates import check_leakage, near_duplicate_groups
from sktl.datasets._duplicates_search import Fingerprints, find_pairs, perceptual_hash
from sktl.datasets._report_measure import Look, look_at
from sktl.exceptions import BadImageWarning, ParameterError
from sktl.images import as_images

TEMPLE = load_sample_images().images[0]


@pytest.fixture(scope="module")
def photos():
    """Different views, all of two photographs."""
    views = []
    for array in load_sample_images().images:
        image = Image.fromarray(array)
        views += [image, image.crop((0, 0, 300, 200)), image.crop((320, 210, 640, 427))]
    return views


def jpeg(image, quality=75):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


CHANGES = {
    "compressed": lambda image: jpeg(image, 15),
    "small": lambda image: image.resize((image.width // 3, image.height // 3)),
    "enlarged": lambda image: image.resize((image.width * 2, image.height * 2)),
    "squeezed": lambda image: image.resize((224, 224)),
    "gray": lambda image: image.convert("L"),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "dull": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_pictures_are_near_duplicates(photos, change):
    changed = [CHANGES[change](photo) for photo in photos]
    pairs = check_leakage(photos, changed)
    found = sorted(pairs[["train", "test"]].to_numpy().tolist())
    assert found == [[i, i] for i in range(len(photos))]
    assert pairs["distance"].is_monotonic_increasing
    assert set(pairs["kind"]) == {"near"}
    assert near_duplicate_groups(photos + changed).tolist() == 2 * list(range(len(photos)))


@pytest.mark.parametrize(
    "change", [ImageOps.mirror, lambda image: image.crop((60, 40, image.width, image.height))]
)
def test_mirror_images_and_crops_are_not(photos, change):
    """As the docstring says."""
    assert check_leakage(photos, [change(photo) for photo in photos]).empty


def test_exact_is_by_pixels_however_they_are_held(photos, tmp_path):
    path = tmp_path / "2.png"
    photos[2].save(path, pnginfo=None)
    held = [png(photos[0]), photos[1], np.asarray(photos[3]), str(path)]
    pairs = check_leakage(photos, held)
    assert pairs[["train", "test"]].to_numpy().tolist() == [[0, 0], [1, 1], [2, 3], [3, 2]]
    assert set(pairs["kind"]) == {"exact"}
    assert (pairs["distance"] == 0).all()
    assert (pairs["correlation"] == 1).all()
    assert pairs["test_source"].iloc[2] == str(path)


def test_every_pair_of_copies_is_listed(photos):
    pairs = check_leakage([photos[0], photos[1], photos[0]], [photos[0], jpeg(photos[0], 30)])
    assert pairs[["train", "test", "kind"]].to_numpy().tolist() == [
        [0, 0, "exact"], [2, 0, "exact"], [0, 1, "near"], [2, 1, "near"],
    ]  # fmt: skip


def test_no_leak_gives_an_empty_table_with_all_columns(photos):
    pairs = check_leakage(photos[:2], photos[3:])
    assert pairs.empty
    assert pairs.columns.tolist() == [
        "train", "test", "kind", "distance", "correlation", "train_source", "test_source",
    ]  # fmt: skip


@pytest.mark.parametrize("n", [0, 1])
def test_sets_of_none_or_one(photos, n):
    assert near_duplicate_groups(photos[:n]).tolist() == list(range(n))
    assert len(check_leakage(photos[:n], photos)) == n


def test_flat_pictures_are_duplicates_only_if_equal():
    rng = np.random.default_rng(0)
    flat = [rng.integers(100, 102, (64, 64)).astype(np.uint8) for _ in range(4)]
    plain = [np.full((64, 64), level, dtype=np.uint8) for level in (0, 0, 128, 255)]
    ramp = [np.tile(np.arange(s, s + 64, dtype=np.uint8)[:, None], (1, 64)) for s in (0, 50)]
    assert near_duplicate_groups(flat + plain + ramp).tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]


def test_groups_are_connected_components():
    """A chain, each link of which is near the next: by plain Python on made up fingerprints."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=1024)
    chain = [start + k * 0.6 * rng.normal(size=1024) for k in range(2)]
    chain.append(chain[1] + 0.3 * rng.normal(size=1024))
    detail = np.array([*chain, *rng.normal(size=(3, 1024))])
    detail /= np.linalg.norm(detail, axis=1, keepdims=True)
    hashes = np.zeros(6, dtype=np.uint64)
    fingerprints = Fingerprints(np.arange(6), hashes, detail.astype(np.float32))
    pairs = find_pairs(fingerprints, fingerprints, 0, 0.8)
    correlation = detail @ detail.T
    expected = [(i, j) for i in range(6) for j in range(i + 1, 6) if correlation[i, j] >= 0.8]
    assert 2 <= len(expected) < 15
    assert pairs[["a", "b"]].to_numpy().tolist() == [list(pair) for pair in expected]
    np.testing.assert_allclose(
        pairs["correlation"], [correlation[pair] for pair in expected], rtol=1e-5
    )


def test_pairs_are_those_of_a_plain_loop(monkeypatch):
    """Blocks of hashes lose none, whatever their size."""
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 1 << 6, 40).astype(np.uint64)  # few bits: many are near
    detail = np.zeros((40, 1024), dtype=np.float32)
    detail[:, 0] = 1
    a = Fingerprints(np.arange(40), hashes, detail)
    b = Fingerprints(np.arange(30), hashes[:30][::-1].copy(), detail[:30])
    bits = [[(int(x) ^ int(y)).bit_count() for y in b.hashes] for x in a.hashes]
    for block in (1, 100, 1 << 22):
        monkeypatch.setattr("sktl.datasets._duplicates_search._BLOCK", block)
        monkeypatch.setattr("sktl.datasets._duplicates_search._CONFIRMED", 7)
        pairs = find_pairs(a, b, 1, 0.9)
        expected = [[i, j, bits[i][j]] for i in range(40) for j in range(30) if bits[i][j] <= 1]
        assert pairs[["a", "b", "distance"]].to_numpy().tolist() == expected
        own = find_pairs(a, a, 1, 0.9)
        expected = [
            [i, j]
            for i in range(40)
            for j in range(i + 1, 40)
            if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 1
        ]
        assert own[["a", "b"]].to_numpy().tolist() == expected


def test_hash_is_that_of_a_plain_cosine_transform():
    thumbs = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    n, k = np.arange(32), np.arange(1, 9)
    waves = np.cos(np.pi * (2 * n[None] + 1) * k[:, None] / 64)  # (8, 32)
    for thumb, found in zip(thumbs, perceptual_hash(thumbs), strict=True):
        low = (waves @ thumb.astype(float) @ waves.T).ravel()
        bits = np.unpackbits(np.array([found]).view(np.uint8))
        np.testing.assert_array_equal(bits, low > np.median(low))
        assert bits.sum() == 32


def test_broken_pictures_are_alone_and_named(photos):
    broken = [b"", b"no picture", jpeg(photos[0])[:2000]]
    with pytest.warns(BadImageWarning, match=r"(?s)3 of 5 pictures in X .*empty"):
        groups = near_duplicate_groups([jpeg(photos[0]), *broken, jpeg(photos[0])])
    assert groups.tolist() == [0, 1, 2, 3, 0]
    with pytest.warns(BadImageWarning, match="3 of 3 pictures in X_test"):
        assert check_leakage(photos, broken).empty


def test_threads_change_nothing(photos):
    pictures = (photos + [jpeg(photo, 40) for photo in photos]) * 6
    np.testing.assert_array_equal(
        near_duplicate_groups(pictures, n_jobs=1), near_duplicate_groups(pictures, n_jobs=4)
    )


def test_thresholds_decide(photos):
    changed = [jpeg(photo, 5) for photo in photos]
    looks = [look_at(as_images(some)) for some in (photos, changed)]
    a, b = (Fingerprints.from_looks(some) for some in looks)
    pairs = find_pairs(a, b, 8, 0.5)
    least = pairs["correlation"].max() + 1e-6
    assert least < 1
    assert not pairs.empty
    assert check_leakage(photos, changed, min_correlation=float(least)).empty


def test_looks_without_pixels_have_no_fingerprint():
    gone = [Look("a", broken="gone"), Look("b", broken="gone")]
    fingerprints = Fingerprints.from_looks(gone)
    assert fingerprints.code.tolist() == [-1, -1]
    assert len(fingerprints.hashes) == 0
    (seen,) = look_at(as_images([TEMPLE]))
    fingerprints = Fingerprints.from_looks([gone[0], seen, gone[1], seen])
    assert fingerprints.code.tolist() == [-1, 0, -1, 0]
    np.testing.assert_array_equal(fingerprints.hashes, perceptual_hash(seen.thumb[None]))


@pytest.mark.parametrize("wrong", [{"max_distance": -1}, {"min_correlation": 0}, {"n_jobs": 0}])
def test_wrong_arguments(photos, wrong):
    name = next(iter(wrong))
    with pytest.raises(ParameterError, match=f"near_duplicate_groups: {name} must be"):
        near_duplicate_groups(photos, **wrong)
    with pytest.raises(ParameterError, match=f"check_leakage: {name} must be"):
        check_leakage(photos, photos, **wrong)


def test_flowers(shared_data):
    """Neighbours in the list, of which some are copies that the naked eye confirms."""
    folder = shared_data / "flowers" / "roses"
    paths = sorted(str(path) for path in folder.glob("*.jpg"))
    groups = near_duplicate_groups(paths[:150], n_jobs=2)
    sizes = np.bincount(groups)
    assert sizes.max() <= 2
    assert (sizes == 2).sum() <= 3
