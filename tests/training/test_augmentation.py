"""Augmentation: each change does what its name says, and nothing else."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from sktl.exceptions import ParameterError
from sktl.training import Augmentation
from sktl.training._augmentation import as_augmentation
from sktl.utils._parameters import ParameterChecks


@pytest.fixture(scope="module")
def photographs():
    """Two squares of real pictures, (2, 3, 96, 96), 0-255."""
    cut = np.stack([image[100:196, 200:296] for image in load_sample_images().images])
    return torch.from_numpy(cut).permute(0, 3, 1, 2).float()


def rng(seed=0):
    return np.random.default_rng(seed)


def test_nothing_is_changed_by_default(photographs):
    assert torch.equal(Augmentation()(photographs, rng()), photographs)


def test_flips_are_exact_and_of_half_the_pictures(photographs):
    many = photographs[:1].expand(64, -1, -1, -1)
    for name, axis in (("horizontal_flip", 3), ("vertical_flip", 2)):
        changed = Augmentation(**{name: True})(many, rng())
        flipped = [torch.equal(x, many[0].flip(axis - 1)) for x in changed]
        kept = [torch.equal(x, many[0]) for x in changed]
        assert all(a != b for a, b in zip(flipped, kept, strict=True))
        assert 20 < sum(flipped) < 44


def fixed(augmentation, **draws):
    """The affine maps of an augmentation whose draws are all the largest."""

    class Largest:
        def uniform(self, low, high, n):
            return np.full(n, high)

    return augmentation._affine(1, Largest())


def test_a_quarter_turn_is_numpys(photographs):
    quarter = Augmentation(rotation=90)
    maps = torch.from_numpy(fixed(quarter))
    grid = torch.nn.functional.affine_grid(maps, [1, 3, 96, 96], align_corners=False)
    turned = torch.nn.functional.grid_sample(photographs[:1], grid, align_corners=False)
    expected = np.rot90(photographs[0].numpy(), axes=(1, 2))
    np.testing.assert_allclose(turned[0].numpy(), expected, atol=1e-2)


def test_a_shift_reflects_at_the_border(photographs):
    class Quarter:
        def uniform(self, low, high, n):
            return np.full(n, high)

    changed = Augmentation(width_shift=0.25)(photographs, Quarter())
    padded = np.pad(photographs.numpy(), ((0, 0), (0, 0), (0, 0), (0, 24)), mode="symmetric")
    np.testing.assert_allclose(changed.numpy(), padded[:, :, :, 24:], atol=1e-2)


@pytest.mark.parametrize(
    ("fill_mode", "value"), [("constant", 0.0), ("nearest", 9.0), ("reflect", 9.0)]
)
def test_what_is_seen_beyond_the_border(fill_mode, value):
    class Quarter:
        def uniform(self, low, high, n):
            return np.full(n, high)

    white = torch.full((1, 3, 8, 8), 9.0)
    changed = Augmentation(width_shift=0.5, fill_mode=fill_mode)(white, Quarter())
    assert torch.allclose(changed[..., -3:], torch.tensor(value), atol=1e-4)


def test_zoom_keeps_the_centre_and_scales_the_rest(photographs):
    maps = fixed(Augmentation(zoom=0.2))
    np.testing.assert_allclose(maps, [[[1.2, 0, 0], [0, 1.2, 0]]], atol=1e-6)


def test_random_crops_are_windows_of_the_picture(photographs):
    crops = Augmentation(random_crop=True)(photographs, rng(), 64)
    assert crops.shape == (2, 3, 64, 64)
    for crop, picture in zip(crops, photographs, strict=True):
        windows = picture.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4)
        assert (windows == crop).flatten(2).all(2).any()
    centred = Augmentation()(photographs, rng(), 64)
    assert torch.equal(centred, photographs[:, :, 16:80, 16:80])


def test_erasing_and_jitter_stay_in_range(photographs):
    erased = Augmentation(random_erasing=1.0)(photographs, rng())
    share = (erased == 127.5).all(1).float().mean((1, 2))
    assert ((share > 0.01) & (share < 0.4)).all()
    changed = Augmentation(color_jitter=0.5)(photographs, rng())
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert not torch.equal(changed, photographs)


@pytest.mark.parametrize("augment", ["light", "trivial"])
def test_draws_come_from_the_generator_alone(photographs, augment):
    augmentation = as_augmentation(augment)
    before = photographs.clone()
    torch.manual_seed(1)
    one = augmentation(photographs, rng(5))
    after = torch.random.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), after), "torch's own generator was used"
    torch.manual_seed(2)
    assert torch.equal(one, augmentation(photographs, rng(5)))
    assert not torch.equal(one, augmentation(photographs, rng(6)))
    assert torch.equal(photographs, before), "the pictures themselves were changed"


def test_wrong_parameters_are_named_together():
    checks = ParameterChecks("CNNClassifier")
    Augmentation(rotation=-3, zoom=1.5, fill_mode="mirror").check(checks)
    with pytest.raises(ParameterError, match=r"(?s)fill_mode.*rotation.*zoom"):
        checks.done()
