import copy
import functools
import importlib
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.base import clone
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision import models

from sktl import CNNFeatures
from sktl.backbones import Backbone, BackboneSpec, Preprocessing, load_backbone
from sktl.backbones._timm import preprocessing_of
from sktl.backbones._weights import digest_tensors, seeded
from sktl.exceptions import LayerNotFoundError, ParameterError

PHOTOS = load_sample_images().images
AT_32 = Preprocessing(size=32, resize=32)


def features(backbone, *layers, x=None):
    """Each layer alone for one random picture."""
    size = backbone.preprocessing.size
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) if x is None else x
    with torch.inference_mode():
        return backbone.feature_network(layers)(x)


def empty(name):
    """A network without numbers, which is enough to know its shapes."""
    with torch.device("meta"):
        if name.startswith("timm/"):
            net = timm.create_model(name.removeprefix("timm/"))
            preprocessing = preprocessing_of(net, name)
        else:
            net, preprocessing = models.get_model(name, weights=None), Preprocessing()
    return Backbone(net, BackboneSpec(name, "module", None, ""), preprocessing=preprocessing)


def small_vit():
    net = models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
    return Backbone(net, preprocessing=AT_32, name="vit")


def hooks(module):
    return [
        hook
        for part in module.modules()
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]


STAGES = {
    "resnet18": [
        ("relu", (64, 112, 112)), ("layer1", (64, 56, 56)), ("layer2", (128, 28, 28)),
        ("layer3", (256, 14, 14)), ("layer4", (512, 7, 7)),
    ],
    "vgg11_bn": [
        ("features.2", (64, 224, 224)), ("features.6", (128, 112, 112)),
        ("features.13", (256, 56, 56)), ("features.20", (512, 28, 28)),
        ("features.27", (512, 14, 14)), ("features", (512, 7, 7)),
    ],
    "densenet121": [
        ("features.relu0", (64, 112, 112)), ("features.denseblock1", (256, 56, 56)),
        ("features.denseblock2", (512, 28, 28)), ("features.denseblock3", (1024, 14, 14)),
        ("features", (1024, 7, 7)),
    ],
    "efficientnet_b0": [
        ("features.1", (16, 112, 112)), ("features.2", (24, 56, 56)), ("features.3", (40, 28, 28)),
        ("features.5", (112, 14, 14)), ("features", (1280, 7, 7)),
    ],
    "vit_b_32": [
        ("conv_proj", (768, 7, 7)),
        *((f"encoder.layers.encoder_layer_{i}", (768,)) for i in range(12)),
        ("encoder", (768,)),
    ],
    "swin_t": [
        ("features.1", (96, 56, 56)), ("features.3", (192, 28, 28)), ("features.5", (384, 14, 14)),
        ("permute", (768, 7, 7)),
    ],
    "timm/test_resnet": [
        ("act1", (32, 80, 80)), ("layer1", (32, 40, 40)), ("layer2", (48, 20, 20)),
        ("layer3", (192, 10, 10)), ("bottleneck", (96, 5, 5)),
    ],
    "timm/test_vit": [
        ("patch_embed", (64, 10, 10)), *((f"blocks.{i}", (64,)) for i in range(6)),
        ("bottleneck", (64,)),
    ],
    "timm/swin_tiny_patch4_window7_224": [
        ("layers.0", (96, 56, 56)), ("layers.1", (192, 28, 28)), ("layers.2", (384, 14, 14)),
        ("bottleneck", (768, 7, 7)),
    ],
    "timm/cait_xxs24_224": [
        *((f"blocks.{i}", (192, 196, 1)) for i in range(24)),
        *((f"blocks_token_only.{i}", (192, 1, 1)) for i in range(2)),
        ("bottleneck", (192,)),
    ],
    "timm/volo_d1_224": [
        ("network.0", (192, 28, 28)), ("network.4", (384, 14, 14)), ("post_network.0", (384,)),
        ("post_network.1", (384,)), ("bottleneck", (384,)),
    ],
    "timm/tf_efficientnet_lite0": [
        ("blocks.0", (16, 112, 112)), ("blocks.1", (24, 56, 56)), ("blocks.2", (40, 28, 28)),
        ("blocks.4", (112, 14, 14)), ("bottleneck", (1280, 7, 7)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_stages(name):
    backbone = empty(name)
    expected = STAGES[name]
    assert [(stage.name, stage.shape) for stage in backbone.stages] == expected
    assert backbone.n_features == expected[-1][1][0]
    for index in (0, len(expected) - 1, -1, -len(expected)):
        assert backbone.layer_name(index) == expected[index][0]
        assert backbone.shapes([index]) == [expected[index][1]]
        assert backbone.taps([index]) == backbone.taps([expected[index][0]])


def test_there_is_no_stage_beyond_the_last():
    backbone = load_backbone("timm/test_resnet", None)
    for index in (5, -6):
        with pytest.raises(LayerNotFoundError, match=f"has 5 stages; there is no stage {index}"):
            backbone.taps([index])


@pytest.mark.parametrize("name", ["squeezenet1_1", "timm/test_vit", "timm/test_mambaout"])
def test_shapes_are_those_of_the_features(name):
    backbone = load_backbone(name, None)
    layers = [*range(len(backbone.stages)), "bottleneck", "penultimate"]
    values = features(backbone, *layers)
    assert [tuple(value.shape[1:]) for value in values] == backbone.shapes(layers)


def test_shapes_at_another_size():
    backbone = empty("resnet18")
    assert backbone.shapes(["bottleneck", "layer1", "fc"], 64) == [
        (512, 2, 2),
        (64, 16, 16),
        (1000,),
    ]
    assert backbone.shapes(["bottleneck"]) == [(512, 7, 7)]


@pytest.mark.parametrize("size", [0, -5, "a", 1.5])
def test_sizes_are_whole_numbers(size):
    with pytest.raises(ParameterError, match="size must be an integer of at least 1 or None"):
        load_backbone("resnet18", None).shapes(["bottleneck"], size=size)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ((5,), "module must be an nn.Module.*got 5"),
        (("resnet18",), "load_backbone gives networks by name; got 'resnet18'"),
        ((nn.ReLU(), "x"), "spec must be a BackboneSpec or None; got 'x'"),
    ],
)
def test_what_is_no_network(arguments, wrong):
    with pytest.raises(ParameterError, match=wrong):
        Backbone(*arguments)


def test_preprocessing_of_another_kind():
    with pytest.raises(ParameterError, match="preprocessing must be a Preprocessing or None"):
        Backbone(nn.ReLU(), preprocessing={"size": 32})


def test_a_size_that_a_network_cannot_take():
    with pytest.raises(
        ParameterError, match=r"vit cannot work on pictures of 65 x 65 pixels.*Its own size is 32"
    ):
        small_vit().shapes(["bottleneck"], 65)


def test_a_network_that_cannot_take_the_size_assumed_for_it():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(4 * 15 * 15, 2))
    with pytest.raises(
        ParameterError, match=r"224 x 224 pixels.*preprocessing=Preprocessing\(size"
    ):
        _ = load_backbone(net).n_features
    assert Backbone(net, preprocessing=AT_32).n_features == 4


def test_an_unknown_layer_brings_the_one_probably_meant():
    with pytest.raises(LayerNotFoundError) as caught:
        load_backbone("timm/test_resnet", None).taps(["layer3.0.conv9"])
    for part in ("no layer 'layer3.0.conv9'", "'layer3.0.conv1'", "'layer1', 'layer2'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("encoder.layers.encoder_layer_1.self_attention", "gives a tuple, not a tensor"),
        (
            "encoder.layers.encoder_layer_1.self_attention.out_proj",
            "does not run in a forward pass",
        ),
    ],
)
def test_layers_that_cannot_be_read(layer, reason):
    with pytest.raises(LayerNotFoundError, match=f"the layer '{layer}' of vit {reason}; choose"):
        small_vit().shapes([layer])


def test_names_of_layers_in_errors_are_those_of_timm():
    message = "the layer 'bottleneck' of timm/crossvit_tiny_240 gives a list"
    with pytest.raises(LayerNotFoundError, match=message):
        empty("timm/crossvit_tiny_240").shapes(["bottleneck"])
    assert empty("timm/crossvit_tiny_240").shapes(["norm.0"]) == [(96,)]


class Shared(nn.Module):
    """One convolution called three times, one ReLU in place, and a part that never runs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.idle = nn.Linear(3, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.relu(self.stem(x))
        for _ in range(3):
            x = self.again(x)
        return self.fc(self.relu(x).mean((2, 3)))


def shared():
    with seeded(0):
        return Backbone(Shared(), preprocessing=AT_32)


def test_of_a_module_that_runs_several_times_the_last_call_counts():
    backbone = shared()
    net = backbone.module
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        y = net.stem(x).relu()
        for _ in range(3):
            y = net.again(y)
    (tap,) = backbone.taps(["again"])
    assert tap.n_calls == 3
    torch.testing.assert_close(features(backbone, "again", x=x)[0], y)
    torch.testing.assert_close(features(backbone, "again", "again", x=x)[1], y)
    torch.testing.assert_close(features(backbone, "relu", x=x)[0], y.relu())


def test_what_runs_later_does_not_change_a_layer():
    backbone = shared()
    alone, *_ = features(backbone, "stem")
    assert alone.min() < 0, "else a ReLU in place would change nothing"
    beside, _ = features(backbone, "stem", "penultimate")
    assert torch.equal(alone, beside)


@pytest.mark.parametrize(
    ("name", "layer"), [("squeezenet1_1", "features.0"), ("resnet18", "layer3.1.bn2")]
)
def test_layers_before_an_operation_in_place(name, layer):
    backbone = load_backbone(name, None)
    x = torch.rand(1, 3, 64, 64)
    (alone,), (beside, _) = features(backbone, layer, x=x), features(backbone, layer, -1, x=x)
    assert alone.min() < 0
    assert torch.equal(alone, beside)


def test_layers_are_returned_as_asked_for():
    backbone = shared()
    layers = ["penultimate", "stem", "bottleneck", "stem", -1]
    each = [features(backbone, layer)[0] for layer in layers]
    for together, alone in zip(features(backbone, *layers), each, strict=True):
        assert torch.equal(together, alone)


def test_a_part_that_never_runs():
    with pytest.raises(LayerNotFoundError, match="'idle' of shared does not run in a forward pass"):
        shared().shapes(["idle"])


class Counting(nn.Identity):
    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return x


def test_only_the_part_that_is_needed_runs():
    net = models.resnet18(weights=None)
    net.layer3 = nn.Sequential(Counting(), net.layer3)
    backbone = Backbone(net, preprocessing=Preprocessing(size=64, resize=64))
    early, late = (backbone.feature_network([layer, "conv1"]) for layer in ("layer2", "layer3"))
    Counting.calls = 0
    with torch.inference_mode():
        early(torch.rand(1, 3, 64, 64))
        assert Counting.calls == 0
        late(torch.rand(1, 3, 64, 64))
    assert Counting.calls == 1


@pytest.mark.parametrize("precision", ["exact", "auto"])
@pytest.mark.parametrize("name", ["mnasnet0_5", "timm/test_efficientnet", "timm/test_vit"])
def test_use_leaves_no_trace_in_the_network(name, precision):
    backbone = load_backbone(name, None)
    before = digest_tensors(backbone.module)
    strides = [parameter.stride() for parameter in backbone.module.parameters()]
    backbone.stages, backbone.n_features  # noqa: B018 (they run the network)
    CNNFeatures(
        backbone, layer=[0, "bottleneck", "penultimate"], precision=precision, store=None
    ).fit_transform(PHOTOS)
    assert digest_tensors(backbone.module) == before == backbone.spec.digest
    assert [parameter.stride() for parameter in backbone.module.parameters()] == strides
    assert not any(part.training for part in backbone.module.modules())
    assert hooks(backbone.module) == []


def test_an_unknown_network_is_explored_without_a_trace():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    backbone = Backbone(net.train(), preprocessing=AT_32)
    assert backbone.n_features == 4
    assert hooks(net) == []
    assert digest_tensors(net) == backbone.spec.digest


def test_shapes_need_no_arithmetic():
    seen = []
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity())
    network[1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].device.type))
    backbone = Backbone(network, preprocessing=AT_32)
    assert backbone.shapes(["bottleneck"]) == [(4, 30, 30)]
    assert set(seen) == {"meta"}


def test_networks_that_decide_by_values_are_measured_too():
    class Chooser(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x) if float(x.mean()) <= 1 else x

    backbone = Backbone(Chooser(), preprocessing=AT_32)
    assert backbone.shapes(["bottleneck"]) == [(4, 30, 30)]


def test_replicas_share_the_weights():
    backbone = load_backbone("resnet18", None)
    networks = [backbone.feature_network(["bottleneck"]) for _ in range(2)]
    own = backbone.module.state_dict()
    for network in networks:
        assert network.replica is not backbone.module
        assert not any(parameter.requires_grad for parameter in network.parameters())
        for name, tensor in network.replica.state_dict().items():
            assert tensor.data_ptr() == own[name].data_ptr()


def test_a_channels_last_replica_reorders_a_copy():
    backbone = load_backbone("timm/test_resnet", None)
    network = backbone.feature_network(["bottleneck"], channels_last=True)
    weights = [p for p in network.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert all(p.is_contiguous() for p in backbone.module.parameters())
    x = torch.rand(2, 3, 160, 160)
    (fast,), (plain,) = network(x), features(backbone, "bottleneck", x=x)
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


def test_shared_parameters_stay_shared_in_a_replica():
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    net[1].weight = net[0].weight
    replica = Backbone(net, preprocessing=AT_32).feature_network(["bottleneck"]).replica
    assert replica[1].weight is replica[0].weight


def test_threads_extract_different_layers_at_once():
    backbone = load_backbone("timm/test_resnet", None)
    layers = ["layer1", "bottleneck", "penultimate", "conv1"]
    expected = {layer: features(backbone, layer)[0] for layer in layers}
    fresh = Backbone(backbone.module, backbone.spec)  # nothing cached yet
    results, barrier = {layer: [] for layer in layers}, threading.Barrier(len(layers))

    def work(layer):
        barrier.wait()
        for _ in range(5):
            results[layer].append(features(fresh, layer)[0])

    threads = [threading.Thread(target=work, args=(layer,)) for layer in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for layer in layers:
        assert len(results[layer]) == 5
        for value in results[layer]:
            torch.testing.assert_close(value, expected[layer])


@pytest.mark.parametrize("hand_on", [clone, copy.copy, copy.deepcopy, load_backbone])
def test_a_backbone_is_handed_on_not_copied(hand_on):
    backbone = load_backbone("timm/test_vit", None)
    assert hand_on(backbone) is backbone
    estimator = CNNFeatures(backbone)
    assert clone(estimator).backbone is backbone
    assert copy.deepcopy(estimator).backbone is backbone


def test_a_pickle_holds_the_network():
    backbone = load_backbone("timm/test_vit", None)
    backbone.stages  # noqa: B018 (fills caches that a pickle does not need)
    blob = pickle.dumps(backbone)
    size = sum(p.numel() * p.element_size() for p in backbone.module.parameters())
    assert len(blob) < 1.2 * size
    again = pickle.loads(blob)
    assert again.spec == backbone.spec
    assert digest_tensors(again.module) == backbone.spec.digest
    assert not again.module.training
    for one, other in zip(
        features(backbone, 2, "penultimate"), features(again, 2, "penultimate"), strict=True
    ):
        assert torch.equal(one, other)


def test_gradients_are_left_out():
    backbone = load_backbone("timm/test_resnet", None)
    (value,) = backbone.feature_network(["bottleneck"])(torch.rand(1, 3, 160, 160))
    assert not value.requires_grad


def test_the_head_reads_the_penultimate_features():
    for name in ("squeezenet1_1", "mobilenet_v3_small", "timm/test_vit", "timm/test_efficientnet"):
        backbone = load_backbone(name, None)
        x = torch.rand(1, 3, backbone.preprocessing.size, backbone.preprocessing.size)
        with torch.inference_mode():
            logits = backbone.head(features(backbone, "penultimate", x=x)[0])
            if logits.ndim == 4:
                logits = logits.relu().mean((2, 3))  # SqueezeNet's head is a convolution
            torch.testing.assert_close(logits, backbone.module(x))


def test_a_network_without_a_head():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = Backbone(net, preprocessing=AT_32)
    assert backbone.head is None
    bottleneck, penultimate = features(backbone, "bottleneck", "penultimate")
    torch.testing.assert_close(bottleneck.mean((2, 3)), penultimate)


def test_a_network_without_feature_maps():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5), nn.Tanh(), nn.Linear(5, 2))
    backbone = Backbone(net, preprocessing=AT_32)
    assert backbone.shapes(["bottleneck", "penultimate"]) == [(5,), (5,)]


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x):
        return self.head(self.pool(self.body(x)))


def test_the_parts_of_an_unknown_network():
    backbone = Backbone(Wrapped(), preprocessing=AT_32)
    assert [(s.name, s.shape) for s in backbone.stages] == [
        ("body.1", (4, 15, 15)),
        ("body", (8, 7, 7)),
    ]
    assert backbone.head is backbone.module.head[3]
    assert backbone.shapes(["bottleneck", "penultimate", "head.1"]) == [(8, 7, 7), (6,), (6,)]


@pytest.mark.parametrize(
    ("name", "part", "head", "n_features", "n_penultimate"),
    [
        ("resnet18", "fc", nn.Linear(512, 7), 512, 512),
        ("resnet18", "fc", nn.Sequential(nn.Dropout(), nn.Linear(512, 9), nn.Linear(9, 7)), 512, 9),
        ("resnet18", "fc", nn.Identity(), 512, 512),
        ("mobilenet_v3_small", "classifier", nn.Linear(576, 7), 576, 576),
        ("mobilenet_v3_small", "classifier", nn.Identity(), 576, 576),
        (
            "squeezenet1_1",
            "classifier",
            nn.Sequential(nn.Conv2d(512, 7, 1), nn.Flatten()),
            512,
            512,
        ),
        ("densenet121", "classifier", nn.Sequential(nn.Linear(1024, 7)), 1024, 1024),
    ],
)
def test_torchvision_networks_with_heads_of_the_users_own(
    name, part, head, n_features, n_penultimate
):
    net = models.get_model(name, weights=None)
    setattr(net, part, head)
    backbone = Backbone(net, preprocessing=Preprocessing(size=64, resize=64))
    shapes = backbone.shapes(["bottleneck", "penultimate"])
    assert [shape[0] for shape in shapes] == [n_features, n_penultimate]
    features(backbone, "penultimate")


def test_a_timm_network_without_its_head():
    backbone = load_backbone(timm.create_model("test_resnet", num_classes=0))
    assert backbone.shapes(["bottleneck", "penultimate"]) == [(96, 5, 5), (96,)]


def test_half_precision_networks():
    backbone = Backbone(shared().module.to(torch.bfloat16), preprocessing=AT_32)
    assert backbone.n_features == 4


def test_preprocessing_of_a_network_of_ones_own():
    assert Backbone(nn.Conv2d(3, 4, 3)).preprocessing == Preprocessing()
    assert Backbone(nn.Conv2d(3, 4, 3), preprocessing=AT_32).preprocessing == AT_32


def test_with_another_preprocessing_a_named_network_is_no_longer_that_of_its_name():
    named = load_backbone("timm/test_vit", None)
    same = Backbone(named.module, named.spec, preprocessing=named.preprocessing)
    assert same.spec == named.spec
    other = Backbone(named.module, named.spec, preprocessing=AT_32)
    assert other.spec == replace(named.spec, preprocessing=AT_32, source="module")


def test_names():
    assert load_backbone("timm/test_vit", None).name == "test_vit"
    assert Backbone(Shared()).name == "shared"
    assert Backbone(Shared(), name="mine").name == "mine"
    assert repr(shared()) == "Backbone(name='shared', source='module', n_features=4)"


def test_fingerprints_tell_networks_apart():
    backbone = load_backbone("timm/test_vit", None)
    assert backbone.fingerprints(["bottleneck"]) == backbone.fingerprints(["bottleneck"])
    assert backbone.fingerprints(["bottleneck"]) != backbone.fingerprints([-2])
    relu, tanh = (
        Backbone(nn.Sequential(shared().module.stem, activation), preprocessing=AT_32)
        for activation in (nn.ReLU(), nn.Tanh())
    )
    assert relu.spec.digest == tanh.spec.digest
    assert relu.fingerprints(["bottleneck"]) != tanh.fingerprints(["bottleneck"])
    before = relu.fingerprints(["bottleneck"])
    with torch.no_grad():
        relu.module[0].bias[0] += 1
    assert relu.fingerprints(["bottleneck"]) != before


@pytest.mark.parametrize("name", ["efficientnet_lite0", "squeezenet1_1"])
def test_the_number_of_threads_does_not_change_a_fingerprint(name):
    backbone = load_backbone(name, "default" if name == "efficientnet_lite0" else None)
    n_threads, found = torch.get_num_threads(), set()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.update(backbone.fingerprints(["bottleneck"]))
    finally:
        torch.set_num_threads(n_threads)
    assert len(found) == 1


def test_networks_that_differ_in_their_padding_have_different_fingerprints():
    plain, same = (load_backbone(f"timm/{name}mobilenetv3_small_075", None) for name in ("", "tf_"))
    same.module.load_state_dict(plain.module.state_dict())
    same = Backbone(same.module, replace(same.spec, preprocessing=plain.preprocessing))
    assert plain.fingerprints(["bottleneck"]) != same.fingerprints(["bottleneck"])


def test_tokens_of_a_vision_transformer_are_read_as_its_head_reads_them():
    backbone = load_backbone("timm/test_vit", None)
    x = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        tokens = backbone.module.forward_features(x)
        patches = backbone.module.patch_embed(x)  # (N, H, W, D)
    bottleneck, embedding = features(backbone, "bottleneck", "patch_embed", x=x)
    torch.testing.assert_close(bottleneck, tokens[:, 0])
    torch.testing.assert_close(embedding, patches.permute(0, 3, 1, 2))


def test_tokens_without_a_class_token_are_maps():
    backbone = load_backbone("timm/test_vit2", None)
    net, x = backbone.module, torch.rand(2, 3, 64, 64)
    assert net.global_pool == "avg"
    with torch.inference_mode():
        tokens = net.forward_features(x)
    (maps,) = features(backbone, "bottleneck", x=x)
    expected = tokens[:, net.num_prefix_tokens :]
    torch.testing.assert_close(maps, expected.transpose(1, 2).unsqueeze(3))
    np.testing.assert_equal(tuple(maps.shape[1:]), backbone.shapes(["bottleneck"], 64)[0])


def test_class_attention_reads_patches_before_it_and_the_class_behind_it():
    backbone = load_backbone("timm/cait_xxs24_224", None)
    x = torch.rand(1, 3, 224, 224)
    block, bottleneck = features(backbone, "blocks.0", "bottleneck", x=x)
    with torch.inference_mode():
        torch.testing.assert_close(bottleneck, backbone.module.forward_features(x)[:, 0])
    assert block.shape == (1, 192, 196, 1)


class Held(nn.Module):
    """A network of which what it holds is not seen in its modules, tensors and words."""

    def __init__(self, held=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 5)
        self.held = held
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.01)

    def forward(self, x):
        x = self.stem(x)
        if isinstance(self.held, (torch.Tensor, np.ndarray)):
            return x * float(self.held.sum())
        if isinstance(self.held, SimpleNamespace):
            return x.clamp(max=self.held.most)
        return x if self.held is None else self.held(x)


class Calls(Held):
    def forward(self, x):
        return _helper(self.stem(x))


def _helper(x):
    return x.clamp(max=1e6)


def _other_helper(x):
    return x.clamp(max=2e6)


def _clamps(most):
    def clamp(x):
        return x.clamp(max=most)

    return clamp


def _in_turn(most):
    one, other = _clamps(1e6), _clamps(2e6)
    parts = [one, other, other if most > 1e6 else one]
    return lambda x: functools.reduce(lambda y, part: part(y), parts, x)


def _in_slots(most):
    class Clamp:
        __slots__ = ("most",)

        def __call__(self, x):
            return x.clamp(max=self.most)

    clamp = Clamp()
    clamp.most = most
    return clamp


def _cached(most):
    @functools.cache
    def limit():
        return 1e6 if most == 1e6 else 2e6

    return lambda x: x.clamp(max=limit())


def _hooked(most):
    network = Held()
    network.stem.register_forward_hook(lambda module, inputs, output: output.clamp(max=most))
    return network


def _patched(most):
    network = Held()
    network.forward = lambda x: network.stem(x).clamp(max=most)
    return network


# Limits that no probe meets.
@pytest.mark.parametrize(
    "make",
    [
        lambda most: Held([F.relu6, F.relu][most > 1e6]),
        lambda most: Held([lambda x: x.clamp(max=1e6), lambda x: x.clamp(max=2e6)][most > 1e6]),
        lambda most: Held(_clamps(most)),
        lambda most: Held(_in_turn(most)),
        lambda most: Held(_in_slots(most)),
        lambda most: Held(_cached(most)),
        lambda most: Held(functools.partial(torch.clamp, max=most)),
        lambda most: Held(SimpleNamespace(most=most)),
        lambda most: Held(torch.tensor([1.0, 1 + most * 1e-12])),
        lambda most: Held(np.array([1.0, 1 + most * 1e-12])),
        lambda most: torch.fx.symbolic_trace(Held(functools.partial(torch.clamp, max=most))),
        _hooked,
        _patched,
    ],
    ids=[
        *("function", "lambda", "closure", "closures", "slots", "cache"),
        *("partial", "object", "tensor", "array"),
        *("graph", "hook", "forward"),
    ],
)
def test_what_a_network_holds_tells_it_apart(make):
    found = [
        Backbone(make(most), preprocessing=AT_32).fingerprints([0])[0] for most in (1e6, 2e6, 1e6)
    ]
    assert found[0] == found[2] != found[1]


def test_functions_that_a_network_calls_tell_it_apart(monkeypatch):
    found = []
    for helper in (_helper, _other_helper, _helper):
        monkeypatch.setitem(globals(), "_helper", helper)
        found += Backbone(Calls(), preprocessing=AT_32).fingerprints([0])
    assert found[0] == found[2] != found[1]


def test_functions_of_modules_tell_a_network_apart(tmp_path, monkeypatch):
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / "__init__.py").write_text("")
    (tmp_path / "limits" / "parts.py").write_text(
        "def clamp(x): return x.clamp(max=1e6)\ndef other(x): return x.clamp(max=1e6)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    parts = importlib.import_module("limits.parts")
    limits = importlib.import_module("limits")

    def imported(x):
        from limits.parts import clamp

        return clamp(x)

    networks = [
        lambda x: limits.parts.clamp(x),
        imported,
        lambda x: getattr(parts, "".join(["cla", "mp"]))(x),
    ]
    for network in networks:
        backbone = Backbone(Held(network), preprocessing=AT_32)
        with monkeypatch.context() as patch:
            before = backbone.fingerprints([0])
            patch.setattr(parts, "clamp", lambda x: x.clamp(max=2e6))
            assert Backbone(Held(network), preprocessing=AT_32).fingerprints([0]) != before


def test_functions_that_call_each_other_without_end(monkeypatch):
    code = "".join(f"def f{i}(x): return f{i + 1}(x)\n" for i in range(2000))
    names = {}
    exec(code + "def f2000(x): return x", names)
    network = Held(lambda x: x if x is not None else names["f0"](x))
    network.first = names["f0"]
    assert Backbone(network, preprocessing=AT_32).fingerprints([0])


def test_a_network_of_the_script_is_known_in_workers(tmp_path):
    (tmp_path / "script.py").write_text(
        "import joblib, sys, torch\n"
        "from torch import nn\n"
        "from sktl.backbones import Backbone, Preprocessing\n"
        "MOST = float(sys.argv[1])\n"
        "def clamp(x): return x.clamp(max=MOST)\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.c = nn.Conv2d(3, 4, 3)\n"
        "        nn.init.constant_(self.c.weight, .1); nn.init.zeros_(self.c.bias)\n"
        "    def forward(self, x):\n"
        "        return clamp(self.c(x))\n"
        "def fingerprint(backbone): return backbone.fingerprints([0])[0]\n"
        "if __name__ == '__main__':\n"
        "    backbone = Backbone(Net(), preprocessing=Preprocessing(size=16, resize=16))\n"
        "    there = joblib.Parallel(2)(joblib.delayed(fingerprint)(backbone) for _ in range(2))\n"
        "    print(fingerprint(backbone), *there)\n"
    )
    found = [
        subprocess.run(
            [sys.executable, "script.py", most],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for most in ("1e6", "2e6")
    ]
    assert len(set(found[0])) == len(set(found[1])) == 1
    assert found[0][0] != found[1][0]


def test_a_hook_may_keep_what_it_sees():
    kept = {}
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 2))
    network[3].register_forward_hook(lambda module, inputs, output: kept.update(fc=output))
    assert Backbone(network, preprocessing=AT_32).fingerprints(["penultimate"])


def test_a_fingerprint_is_the_same_in_another_process(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import functools, torch\n"
        "from torch import nn\n"
        "from sktl.backbones import Backbone, Preprocessing\n"
        "KNOWN = {'a', 'b', 'c', 'd'}\n"
        "def clamp(x, most): return x.clamp(max=most) if 'a' in KNOWN else x\n"
        "class Net(nn.Module):\n"
        "    names = {'relu', 'gelu', 'silu'}\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.c, self.f = nn.Conv2d(3, 4, 3), functools.partial(clamp, most=3)\n"
        "        self.lock = object()\n"
        "        nn.init.constant_(self.c.weight, .1); nn.init.zeros_(self.c.bias)\n"
        "    def forward(self, x):\n"
        "        return self.f(self.c(x)) if 'relu' in {'relu', 'gelu', 'x'} else x\n"
        "backbone = Backbone(Net(), preprocessing=Preprocessing(size=16, resize=16))\n"
        "print(backbone.fingerprints([0])[0])\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "mine.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


class SequenceFirst(nn.Module):
    def __init__(self, patch):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, patch, stride=patch)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0)

    def forward(self, x):
        return self.encoder(self.patches(x).flatten(2).permute(2, 0, 1)).mean(0)


@pytest.mark.parametrize(("patch", "n_rows"), [(16, 4), (32, 1)])
def test_a_layer_that_has_no_row_for_each_picture(patch, n_rows):
    backbone = Backbone(SequenceFirst(patch), preprocessing=AT_32)
    reason = rf"the layer 'encoder' of sequencefirst gives {n_rows} rows for 2 .*batch_first=True"
    with pytest.raises(LayerNotFoundError, match=reason):
        CNNFeatures(backbone, layer="encoder", store=None).fit(PHOTOS)
    assert [stage.name for stage in backbone.stages] == ["patches"]


def test_windows_are_no_pictures():
    layer = "layers.0.blocks.0.attn"
    with pytest.raises(LayerNotFoundError, match=f"'{layer}' of .* gives 128 rows for 2 pictures"):
        empty("timm/swin_tiny_patch4_window7_224").shapes([layer])


@pytest.mark.parametrize(
    ("part", "n_dimensions"), [(nn.Flatten(0), 1), (nn.Unflatten(1, (2, 2)), 5)]
)
def test_layers_of_too_few_or_too_many_dimensions(part, n_dimensions):
    backbone = Backbone(nn.Sequential(nn.Conv2d(3, 4, 3), part), preprocessing=AT_32)
    with pytest.raises(LayerNotFoundError, match=f"gives {n_dimensions} dimensions; choose"):
        backbone.shapes(["1"])


def test_maps_of_convolutions_have_channels_first_whatever_their_shape():
    net = nn.Sequential(
        nn.Conv2d(3, 16, (3, 5), stride=(2, 4), padding=1), nn.ReLU(), nn.Conv2d(16, 20, 1)
    )
    backbone = Backbone(net, preprocessing=AT_32)
    x = torch.rand(2, 3, 32, 32)
    assert net[:2](x).shape == (2, 16, 16, 8)
    for layer, end in (("0", 1), ("1", 2)):
        assert backbone.shapes([layer]) == [(16, 16, 8)]
        torch.testing.assert_close(features(backbone, layer, x=x)[0], net[:end](x))
    assert [(stage.name, stage.shape) for stage in backbone.stages] == [("2", (20, 16, 8))]


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.act = nn.GELU()
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.act(self.norm(self.stem(x).permute(0, 2, 3, 1))).mean((1, 2)))


def test_maps_of_linear_layers_and_their_normalisations_have_channels_last():
    with seeded(0):
        net = ChannelsLast().eval()
    backbone = Backbone(net, preprocessing=AT_32)
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        maps = net.stem(x)  # 8 channels of 8 x 8 pixels
        normalised = net.norm(maps.permute(0, 2, 3, 1))
    stem, norm, act = features(backbone, "stem", "norm", "act", x=x)
    torch.testing.assert_close(stem, maps)
    torch.testing.assert_close(norm, normalised.permute(0, 3, 1, 2))
    torch.testing.assert_close(act, net.act(normalised).permute(0, 3, 1, 2))


def test_convolutions_over_a_sequence_have_channels_first():
    net = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.Flatten(2), nn.Conv1d(16, 12, 1))
    backbone = Backbone(net, preprocessing=AT_32)
    assert backbone.shapes(["2"]) == [(12, 64, 1)]
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(features(backbone, "2", x=x)[0], net(x).unsqueeze(3))


class Holding(nn.Module):
    """A network with something beside its layers."""

    def __init__(self, thing):
        super().__init__()
        self.layer, self.thing = nn.Conv2d(3, 8, 3), thing

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("load", [Backbone, load_backbone])
def test_networks_that_cannot_be_copied_or_looked_into_are_named(load):
    with pytest.raises(ParameterError, match=r"Holding must be copied .*lock.*Keep locks"):
        load(Holding(threading.Lock())).shapes(["layer"])
    with pytest.raises(ParameterError, match="no part of it of TorchScript"):
        load(Holding(torch.jit.script(nn.Conv2d(3, 8, 3))))


def test_networks_may_keep_what_they_compute_of_a_size():
    kept = {}

    class Keeping(Holding):
        def forward(self, x):
            if x.shape[-2:] not in kept:
                kept[x.shape[-2:]] = torch.ones(x.shape[-2:], device=x.device)
            return self.layer(x * kept[x.shape[-2:]])

    network = Keeping(None).eval()
    backbone = Backbone(network, preprocessing=Preprocessing(size=24, resize=24))
    assert backbone.shapes(["layer"]) == [(8, 22, 22)]
    x = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        found = backbone.feature_network(["layer"])(x)[0]
        torch.testing.assert_close(found, network.layer(x))
