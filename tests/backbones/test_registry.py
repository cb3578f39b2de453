import gc
import random
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from sktl.backbones import (
    Backbone,
    Preprocessing,
    _registry,
    clear_loaded,
    list_backbones,
    load_backbone,
    register_backbone,
)
from sktl.backbones._weights import digest_file, digest_tensors, seeded
from sktl.exceptions import BackboneNotFoundError, ParameterError, WeightsError


def small(seed=0):
    with seeded(seed):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


def random_small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


def test_every_classification_network_of_torchvision_is_listed():
    names = list_backbones(source="torchvision")
    assert len(names) >= 80
    assert names == sorted(names)
    for name in names:
        assert callable(getattr(models, name))
    assert not {"fcn_resnet50", "raft_large", "r3d_18", "quantized_resnet18"} & set(names)


def test_names_of_all_sources_are_listed_in_order():
    register_backbone("my_net", random_small)
    names = list_backbones()
    by_source = [
        list_backbones(source=source)
        for source in ("packaged", "registered", "scratch", "torchvision", "timm")
    ]
    assert names == [name for group in by_source for name in group]
    assert names[:4] == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "my_net"]
    assert by_source[2] == ["basic5", "lenet", "small3"]
    assert "timm/convnext_tiny" in names
    assert len(set(names)) == len(names)


def test_names_are_filtered_without_regard_to_case():
    assert list_backbones("VGG1[16]_bn") == ["vgg11_bn", "vgg16_bn"]
    assert list_backbones("resnet1*", source="torchvision") == [
        "resnet101",
        "resnet152",
        "resnet18",
    ]
    assert list_backbones("no such network") == []
    assert all(name.startswith("timm/vit") for name in list_backbones("timm/ViT*"))


def test_an_unknown_source_is_named_with_a_suggestion():
    with pytest.raises(ParameterError, match=r"got 'torchvison'\. Did you mean 'torchvision'\?"):
        list_backbones(source="torchvison")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet81", "resnet18"),
        ("ResNet50", "resnet50"),
        ("efficientnet_lite", "efficientnet_lite0"),
        ("convnext_atto", "timm/convnext_atto"),
        ("timm/resnet81", "timm/resnet18"),
        ("timm/convnext_ato.d2_in1k", "timm/convnext_atto"),
        ("my_nett", "my_net"),
    ],
)
def test_an_unknown_name_brings_the_one_probably_meant(name, meant):
    register_backbone("my_net", random_small)
    with pytest.raises(BackboneNotFoundError, match=f"Did you mean .*'{meant}'"):
        load_backbone(name, weights=None)


@pytest.mark.parametrize("name", [3, None, nn.Linear])
def test_other_things_are_no_backbones(name):
    with pytest.raises(
        BackboneNotFoundError, match=r"an nn\.Module, a Backbone or a fitted estimator; got"
    ):
        load_backbone(name)


@pytest.mark.parametrize("weights", [models.ResNet18_Weights.DEFAULT, 1, True])
def test_weights_that_are_neither_words_nor_paths(weights):
    with pytest.raises(ParameterError, match="weights must be a string, a path or None"):
        load_backbone("resnet18", weights)


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0), "a", 1.5, [1], -1])
def test_seeds_are_whole_numbers(random_state):
    with pytest.raises(ParameterError, match="random_state must be an integer of at least 0; got"):
        load_backbone("lenet", None, random_state=random_state)


def test_a_seed_of_numpy_is_that_number():
    assert load_backbone("lenet", None, random_state=np.uint32(3)).spec == (
        load_backbone("lenet", None, random_state=3).spec
    )


@pytest.mark.parametrize("image_size", [0, -1, "a", 5.5, (28, 28)])
def test_sizes_are_whole_numbers(image_size):
    with pytest.raises(ParameterError, match="image_size must be an integer of at least 1 or None"):
        load_backbone("lenet", None, image_size=image_size)


def test_a_filter_is_a_pattern():
    with pytest.raises(ParameterError, match=r"filter must be a pattern.*got None"):
        list_backbones(None)


@pytest.mark.parametrize(
    ("name", "build", "more", "wrong"),
    [
        (5, small, {}, "name must be a word; got 5"),
        ("my_net", 3, {}, "build must be a function that returns the network; got 3"),
        ("my_net", nn.ReLU(), {}, r"build must be a function .*; got ReLU\(\)"),
        ("my_net", small, {"preprocessing": {"size": 32}}, "preprocessing must be a sktl"),
    ],
)
def test_what_cannot_be_registered(name, build, more, wrong):
    with pytest.raises(ParameterError, match=wrong):
        register_backbone(name, build, **more)
    assert list_backbones(source="registered") == []


def test_a_function_that_returns_no_network():
    register_backbone("my_net", lambda: 3)
    with pytest.raises(ParameterError, match=r"'my_net' builds no nn\.Module but 3"):
        load_backbone("my_net")


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("wrap", [Backbone, load_backbone])
def test_networks_of_torchscript_are_refused(wrap):
    script = torch.jit.trace(random_small(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ParameterError, match=r"an nn\.Module, no part of it of TorchScript"):
        wrap(script)


SOURCES = ["squeezenet1_1", "timm/test_vit", "efficientnet_lite0", "my_net"]


@pytest.mark.parametrize("name", SOURCES)
def test_random_weights_are_the_same_every_time_and_disturb_no_generator(name):
    register_backbone("my_net", random_small)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 (it is the global generator that must stay as it is)
    torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = load_backbone(name, weights=None)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])

    clear_loaded()
    torch.manual_seed(2)
    again = load_backbone(name, weights=None)
    assert again is not first
    assert again.spec == first.spec
    assert digest_tensors(again.module) == digest_tensors(first.module) == first.spec.digest
    other = load_backbone(name, weights=None, random_state=1)
    assert other.spec.digest != first.spec.digest
    assert (first.spec.weights, first.spec.licence, first.class_names) == (None, None, None)


@pytest.mark.parametrize("name", ["squeezenet1_1", "timm/test_vit", "efficientnet_lite0"])
def test_loading_a_file_disturbs_no_generator(name, tmp_path):
    torch.save(load_backbone(name, None, random_state=5).module.state_dict(), tmp_path / "a.pth")
    state = torch.get_rng_state()
    load_backbone(name, tmp_path / "a.pth")
    assert torch.equal(torch.get_rng_state(), state)


def test_one_copy_of_a_network_in_a_process():
    first = load_backbone("timm/test_resnet", None)
    assert load_backbone("timm/test_resnet", None) is first
    assert load_backbone(first) is first
    assert load_backbone("timm/test_resnet", None, random_state=1) is not first
    clear_loaded()
    assert load_backbone("timm/test_resnet", None) is not first


def test_two_names_of_the_same_weights_are_one_copy():
    assert load_backbone("efficientnet_lite0", "IMAGENET1K") is load_backbone("efficientnet_lite0")


def test_threads_that_ask_at_once_get_the_same_copy():
    found, barrier = [], threading.Barrier(4)

    def ask():
        barrier.wait()
        found.append(load_backbone("timm/test_vit", None))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(backbone) for backbone in found}) == 1


def test_the_networks_used_last_are_kept(tmp_path):
    files = [tmp_path / f"{i}.pth" for i in range(5)]
    for i, file in enumerate(files):
        network = load_backbone("timm/test_resnet", None, random_state=i)
        torch.save(network.module.state_dict(), file)
    clear_loaded()
    first = [load_backbone("timm/test_resnet", file) for file in files[:4]]
    assert load_backbone("timm/test_resnet", files[0]) is first[0]
    load_backbone("timm/test_resnet", files[4])
    assert load_backbone("timm/test_resnet", files[0]) is first[0]
    assert load_backbone("timm/test_resnet", files[1]) is not first[1]


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(load_backbone("timm/test_resnet", None).module.state_dict(), path)
    first = load_backbone("timm/test_resnet", path)
    assert load_backbone("timm/test_resnet", str(path)) is first
    torch.save(load_backbone("timm/test_resnet", None, random_state=1).module.state_dict(), path)
    second = load_backbone("timm/test_resnet", path)
    assert second.spec.digest == digest_file(path) != first.spec.digest


def test_a_registered_network_with_a_weights_file(tmp_path):
    torch.save(small(1).state_dict(), tmp_path / "a.pth")
    register_backbone(
        "my_net",
        small,
        weights=tmp_path / "a.pth",
        preprocessing=Preprocessing(size=8, resize=8),
        licence="MIT",
        class_names=("cat", "dog"),
    )
    backbone = load_backbone("my_net")
    spec = backbone.spec
    assert digest_tensors(backbone.module) == digest_tensors(small(1))
    assert (spec.source, spec.weights, spec.licence) == ("registered", "default", "MIT")
    assert spec.digest == digest_file(tmp_path / "a.pth")
    assert backbone.class_names == ("cat", "dog")
    assert backbone.n_features == 4
    random = load_backbone("my_net", None)
    assert random.spec.digest == digest_tensors(small())


def test_a_registered_network_that_brings_its_weights():
    register_backbone("my_net", small, preprocessing=Preprocessing(size=8, resize=8))
    assert load_backbone("my_net").spec.digest == digest_tensors(small())
    assert not load_backbone("my_net").module.training


def test_a_registered_network_with_other_weights(tmp_path):
    register_backbone("my_net", small)
    torch.save(small(1).state_dict(), tmp_path / "b.pth")
    backbone = load_backbone("my_net", tmp_path / "b.pth")
    assert digest_tensors(backbone.module) == digest_tensors(small(1))
    assert backbone.spec.weights == str(tmp_path / "b.pth")
    torch.save(random_small().state_dict(), tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"my_net from .*c\.pth: .*missing 2"):
        load_backbone("my_net", tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="my_net has no weights 'v2'"):
        load_backbone("my_net", "v2")


def test_a_registered_network_loads_its_own_names(tmp_path):
    register_backbone("my_net", lambda: AveragedModel(small()))
    net = AveragedModel(small(1))
    torch.save(net.state_dict(), tmp_path / "a.pth")
    backbone = load_backbone("my_net", tmp_path / "a.pth")
    assert digest_tensors(backbone.module) == digest_tensors(net)


def test_registering_again_replaces():
    register_backbone("my_net", small)
    first = load_backbone("my_net")
    register_backbone("my_net", lambda: small(1))
    assert load_backbone("my_net").spec.digest == digest_tensors(small(1)) != first.spec.digest


@pytest.mark.parametrize("name", ["resnet18", "timm/my_net", "efficientnet_lite0"])
def test_names_of_other_sources_are_not_given_away(name):
    with pytest.raises(ParameterError, match="belongs to another source"):
        register_backbone(name, small)


def test_a_network_of_the_users_own_is_copied_and_left_alone():
    net = small().train()
    before = digest_tensors(net)
    backbone = load_backbone(net)
    assert backbone.module is not net
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    with torch.no_grad():
        net[0].weight.zero_()
    assert digest_tensors(backbone.module) == before == backbone.spec.digest
    assert (backbone.name, backbone.spec.source) == ("sequential", "module")


def test_a_timm_network_of_the_users_own_keeps_its_preprocessing():
    import timm

    backbone = load_backbone(timm.create_model("test_resnet"))
    assert backbone.preprocessing == load_backbone("timm/test_resnet", None).preprocessing
    assert backbone.preprocessing.size == 160


@pytest.mark.parametrize("wrap", [lambda net: net, Backbone])
def test_weights_for_a_network_given_as_a_module_are_not_ignored(wrap):
    with pytest.raises(ParameterError, match=r"given by name; got 'a\.pth'"):
        load_backbone(wrap(small()), "a.pth")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert list_backbones(source="timm") == []
    with pytest.raises(ImportError, match=r"'timm/resnet18' needs the package timm.*sktl\[timm\]"):
        load_backbone("timm/resnet18")
    with pytest.raises(ImportError, match="package timm"):
        load_backbone("efficientnet_lite0")
    with pytest.raises(BackboneNotFoundError, match="there is no backbone 'resnet81'"):
        load_backbone("resnet81")


def test_is_registered():
    register_backbone("my_net", small)
    assert _registry.is_registered("my_net")
    assert not _registry.is_registered("resnet18")


def test_of_random_networks_the_last_one_stays_in_memory():
    pretrained = load_backbone("efficientnet_lite0")
    kept = [weakref.ref(load_backbone("lenet", None, random_state=seed)) for seed in range(3)]
    gc.collect()
    assert [network() is not None for network in kept] == [False, False, True]
    assert load_backbone("lenet", None, random_state=2) is kept[-1]()
    assert load_backbone("efficientnet_lite0") is pretrained
