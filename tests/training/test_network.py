"""Which part of a network learns, and cutting it in two."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from sktl import Phase, load_backbone
from sktl.backbones import Backbone, Preprocessing
from sktl.exceptions import ParameterError
from sktl.nn import make_head, pooled_shape
from sktl.training._network import TransferNet

SIZES = {"inception_v3": 139, "googlenet": 96}


def transfer(name, layer="penultimate", seed=0):
    backbone = load_backbone(name, None, random_state=seed)
    (shape,) = backbone.shapes([layer])
    return TransferNet(backbone, layer, "avg", make_head(pooled_shape(shape, "avg")[0], 3))


def pictures(name="", n=2):
    size = SIZES.get(name, 64)
    return torch.randn((n, 3, size, size), generator=torch.Generator().manual_seed(0))


def learning(net, train):
    net.begin(Phase(train), is_pretrained=True)
    return {n for n, p in net.trunk.named_parameters() if p.requires_grad}


def test_what_the_names_mean_in_vgg():
    """VGG16: stages end where the resolution falls; fc6 and fc7 follow, fc8 is the head."""
    net = transfer("vgg16")
    assert learning(net, "head") == set()
    conv5 = {f"features.{i}.{t}" for i in (24, 26, 28) for t in ("weight", "bias")}
    fc = {f"classifier.{i}.{t}" for i in (0, 3) for t in ("weight", "bias")}
    assert learning(net, "last:1") == conv5 | fc
    assert learning(net, "fc") == fc
    everything = learning(net, "all")
    assert learning(net, "conv") == everything - fc
    assert len(everything) == 26 + 4
    assert learning(net, "last:5") == everything
    assert learning(net, "last:9") == everything
    without_fc = learning(transfer("vgg16", "bottleneck"), "last:1")
    assert {name.removeprefix("network.replica.") for name in without_fc} == conv5


def small_vit():
    vit = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    backbone = Backbone(vit.eval(), preprocessing=Preprocessing(size=32, resize=32))
    return TransferNet(backbone, "penultimate", "avg", make_head(16, 3))


def test_a_parameter_that_a_container_holds_belongs_to_its_beginning():
    net = small_vit()
    assert "encoder.pos_embedding" not in learning(net, "last:2")
    net.begin(Phase("all"), is_pretrained=False)
    scales = {id(p): group["scale"] for group in net.groups(0.5) for p in group["params"]}
    encoder = net.trunk.encoder
    assert scales[id(encoder.pos_embedding)] == scales[id(encoder.layers[0].ln_1.weight)]


def test_a_normalisation_behind_the_last_block_counts_with_the_block():
    net = small_vit()
    everything = learning(net, "all")
    layers = [{n for n in everything if f"encoder_layer_{i}." in n} for i in range(3)]
    norm = {"encoder.ln.weight", "encoder.ln.bias"}
    assert learning(net, "last:1") == layers[2] | norm
    assert learning(net, "last:2") == layers[1] | layers[2] | norm
    assert learning(net, "conv") == everything
    net.begin(Phase("last:2"), is_pretrained=True)
    assert sorted(group["scale"] for group in net.groups(0.5)) == [0.25, 0.5, 1.0]


def test_what_a_block_holds_itself_learns_with_the_block():
    net = transfer("convnext_tiny")
    scaled = {name for name, _ in net.trunk.named_parameters() if name.endswith(".layer_scale")}
    last = {name for name in scaled if name.startswith("features.7.")}
    assert scaled & learning(net, "last:1") == last != set()


def test_paths_and_patterns():
    net = transfer("resnet18")
    assert learning(net, ["layer4"]) == {
        n for n, _ in net.trunk.named_parameters() if n.startswith("layer4.")
    }
    assert learning(net, ["layer?.0.conv1.*", "bn1.weight"]) == {
        *(f"layer{i}.0.conv1.weight" for i in range(1, 5)),
        "bn1.weight",
    }


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["layer9"], "layer9.*Did you mean"),
        (["head", "conv9.*"], "conv9"),
        (["fc"], "the head, in place of the network's last layer, learns in every phase"),
    ],
)
def test_what_is_not_there_is_an_error(train, message):
    with pytest.raises(ParameterError, match=message):
        transfer("resnet18").begin(Phase(train), is_pretrained=True)


def test_frozen_parts_are_in_eval_mode():
    net = transfer("resnet18")
    net.begin(Phase("last:1"), is_pretrained=True)
    net.train()
    assert not net.trunk.layer3.training
    assert not net.trunk.layer4[0].bn1.training, "statistics of pretrained weights are kept"
    assert net.trunk.layer4[0].conv1.training
    net.begin(Phase("last:1", batch_norm="train"), is_pretrained=True)
    net.train()
    assert net.trunk.layer4[0].bn1.training
    assert not net.trunk.layer3[0].bn1.training
    before = {k: v.clone() for k, v in net.trunk.layer3.state_dict().items()}
    net(pictures(n=4))
    assert all(torch.equal(v, before[k]) for k, v in net.trunk.layer3.state_dict().items())
    vgg = transfer("vgg11")
    vgg.begin(Phase("head"), is_pretrained=True)
    assert not vgg.train().trunk.classifier[2].training, "dropout of a frozen part"
    vgg.begin(Phase("fc"), is_pretrained=True)
    assert vgg.train().trunk.classifier[2].training


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x) if self.training else x


@pytest.mark.parametrize("kind", [nn.Dropout, Noise])
def test_what_draws_at_random_rests_in_front_of_what_is_frozen(kind):
    net = nn.Sequential(
        kind(), nn.Conv2d(3, 4, 3), kind(), nn.Conv2d(4, 4, 3), kind(), nn.Conv2d(4, 4, 3)
    )
    backbone = Backbone(net, preprocessing=Preprocessing(size=64, resize=64))
    net = TransferNet(backbone, "bottleneck", "avg", make_head(4, 3))
    inner, _ = net._order.unwrapped(net.trunk)
    for train, drawing in (("head", []), ("all", [0, 2, 4]), (["1", "5"], [0, 4]), (["3"], [2])):
        net.begin(Phase(train), is_pretrained=True)
        net.train()
        assert [i for i in (0, 2, 4) if inner[i].training] == drawing
    x = pictures()
    cut = net.find_cut(x)
    assert cut is not None, "in front of what draws"
    torch.testing.assert_close(cut.before(x), inner[1](x))


@pytest.mark.parametrize(
    "name",
    ["alexnet", "vgg11", "resnet18", "densenet121", "inception_v3", "googlenet", "mobilenet_v2",
     "efficientnet_lite0", "squeezenet1_1", "convnext_tiny", "timm/resnet10t"],
)  # fmt: skip
@pytest.mark.parametrize("train", ["head", "last:1"])
@pytest.mark.parametrize("layer", ["penultimate", "bottleneck"])
def test_both_parts_of_a_cut_make_the_whole(name, train, layer):
    net = transfer(name, layer)
    net.begin(Phase(train), is_pretrained=True)
    x = pictures(name)
    cut = net.find_cut(x)
    assert cut is not None
    whole = net.eval()(x)
    value = cut(x)
    assert value.shape[1:] == cut.shape
    net.cut = cut
    net.eval()
    torch.testing.assert_close(net(value.clone()), whole, rtol=1e-4, atol=1e-5)
    # The rest learns on the parameters of the network itself.
    net(value.clone()).sum().backward()
    touched = {n for n, p in net.trunk.named_parameters() if p.grad is not None}
    assert touched == (learning(net, train) if train != "head" else set())


class Skips(nn.Module):
    """The first convolution's output is used again at the end."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.third, self.out = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        first = self.first(x)
        again = first if self.where == "first" else first + 0.1 * x.mean(1, keepdim=True)
        return self.out((self.third(self.second(first)) + again).mean((2, 3)))


def test_a_network_is_cut_only_where_it_stays_the_same():
    net = TransferNet(load_backbone(Skips("first")), "penultimate", "avg", make_head(4, 3))
    net.begin(Phase(["third"]), is_pretrained=True)
    cut = net.find_cut(pictures())
    assert isinstance(cut.rest.first, nn.Identity)
    assert isinstance(cut.rest.second, nn.Conv2d), "cut behind the skip connection's end"
    net = TransferNet(load_backbone(Skips("input")), "penultimate", "avg", make_head(4, 3))
    net.begin(Phase(["third"]), is_pretrained=True)
    assert net.find_cut(pictures()) is None


def test_the_backbone_itself_is_not_touched():
    backbone = load_backbone("resnet18", None)
    before = {k: v.clone() for k, v in backbone.module.state_dict().items()}
    net = TransferNet(backbone, "penultimate", "avg", make_head(512, 3))
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.zero_()
    assert all(torch.equal(v, before[k]) for k, v in backbone.module.state_dict().items())


def test_learning_rates_fall_from_stage_to_stage():
    net = transfer("resnet18")
    net.begin(Phase("last:2"), is_pretrained=True)
    groups = net.groups(0.5)
    assert sorted(group["scale"] for group in groups) == [0.25, 0.5, 1.0]
    by_scale = {group["scale"]: {id(p) for p in group["params"]} for group in groups}
    assert by_scale[0.5] == {id(p) for p in net.trunk.layer4.parameters()}
    assert by_scale[0.25] == {id(p) for p in net.trunk.layer3.parameters()}
    assert by_scale[1.0] == {id(p) for p in net.head.parameters()}


def test_learning_rates_fall_by_the_stages_that_have_weights():
    lenet = TransferNet(load_backbone("lenet", None), "penultimate", "avg", make_head(84, 3))
    lenet.begin(Phase("all"), is_pretrained=False)
    scales = {id(p): group["scale"] for group in lenet.groups(0.5) for p in group["params"]}
    convolutions = [m for m in lenet.trunk.modules() if isinstance(m, nn.Conv2d)]
    assert [scales[id(conv.weight)] for conv in convolutions] == [0.125, 0.25]


def test_normalisations_without_parameters_are_frozen_with_what_is_before_them():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4),
    )  # fmt: skip
    backbone = Backbone(net.eval(), preprocessing=Preprocessing(size=64, resize=64))
    transfer = TransferNet(backbone, "penultimate", "avg", make_head(4, 3))
    transfer.begin(Phase(["2"], batch_norm="train"), is_pretrained=True)
    transfer.train()
    assert [transfer.trunk[i].training for i in (1, 3)] == [False, True]
    transfer.begin(Phase("all", batch_norm="train"), is_pretrained=True)
    transfer.train()
    assert all(transfer.trunk[i].training for i in (1, 3))


class NormFirst(nn.Module):
    """Its parts are not registered in the order in which they run."""

    def __init__(self):
        super().__init__()
        self.norm, self.input = nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(3, affine=False)
        self.conv, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.pool, self.flat, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)

    def forward(self, x):
        x = self.second(self.norm(self.conv(self.input(x))))
        return self.fc(self.flat(self.pool(x)))


def test_what_runs_before_does_not_hang_on_the_order_of_registration():
    backbone = Backbone(NormFirst().eval(), preprocessing=Preprocessing(size=64, resize=64))
    transfer = TransferNet(backbone, "penultimate", "avg", make_head(4, 3))
    for train, expected in [("all", [True, True]), (["conv", "second"], [True, True]),
                            (["second"], [False, False])]:  # fmt: skip
        transfer.begin(Phase(train, batch_norm="train"), is_pretrained=True)
        transfer.train()
        assert [transfer.trunk.norm.training, transfer.trunk.input.training] == expected


@pytest.mark.parametrize("name", ["lenet", "resnet18", "efficientnet_lite0"])
def test_the_trained_network_runs_without_the_net_around_it(name):
    backbone = load_backbone(name, None)
    (shape,) = backbone.shapes(["bottleneck"])
    net = TransferNet(backbone, "bottleneck", "avg", make_head(shape[0], 3)).eval()
    x = torch.randn((2, 3, *[backbone.preprocessing.size] * 2))
    again = Backbone(net.network, preprocessing=backbone.preprocessing)
    with torch.no_grad():
        expected = backbone.module(x)
        torch.testing.assert_close(net.network(x), expected)
        next(net.trunk.parameters()).mul_(2)  # what is learnt is seen there
        assert not torch.allclose(again.module(x), expected)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "efficientformerv2_s0"])
def test_networks_with_a_second_head_learn_under_one(name):
    net = transfer(f"timm/{name}").eval()
    x = pictures(n=1)
    x = nn.functional.interpolate(x, (224, 224))
    backbone = load_backbone(f"timm/{name}", None, random_state=0)
    with torch.no_grad():
        (expected,) = backbone.feature_network(["penultimate"])(x)
        torch.testing.assert_close(net.trunk(x), expected)
        assert net(x).shape == (1, 3)
    net.begin(Phase("last:1"), is_pretrained=True)
    net(x).sum().backward()
    grown = {n for n, p in net.trunk.named_parameters() if p.grad is not None}
    assert grown
    assert not any("head_dist" in n or n.endswith("head.weight") for n in grown)


STEM = """
import numpy as np
from torch import nn
from sktl import CNNClassifier, Phase
from sktl.backbones import Backbone, Preprocessing

stem = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
module = nn.Sequential(stem, nn.Flatten(), nn.Linear(48, 5)).eval()
X = np.random.default_rng(0).integers(0, 256, (18, 112, 112, 3), dtype=np.uint8)
model = CNNClassifier(
    Backbone(module, preprocessing=Preprocessing(size=112, resize=112)),
    phases=[("all", Phase("all", 3))], batch_size=6, validation=None, random_state=0, store=None,
)
print(model.fit(X, np.arange(18) % 2).predict(X).shape)
"""


def test_a_stem_that_crashes_with_channels_last(tmp_path):
    """RepVGG's and FastViT's, in the backward pass of PyTorch 2.15 on a CPU."""
    run = subprocess.run([sys.executable, "-c", STEM], capture_output=True, text=True, check=False)
    assert run.stdout == "(18,)\n", (run.returncode, run.stderr[-2000:])
    orders = [transfer(name).order for name in ("timm/repvgg_a0", "resnet18")]
    assert orders == [torch.contiguous_format, torch.channels_last]
