from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from sktl.backbones import Backbone, Preprocessing, load_backbone
from sktl.engine._fuse import _can_pack, _geometry, _PackedConv, fuse


def settled(module):
    """Batch normalisations with statistics and scales of their own."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, part.weight.data, part.bias.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
    return module.eval()


class Reused(nn.Module):
    """A convolution whose output goes around its normalisation, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x)


def small():
    return Backbone(
        settled(
            nn.Sequential(
                nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
                nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU(),
            )
        ),
        preprocessing=Preprocessing(size=24, resize=24),
    )  # fmt: skip


PROBE = torch.rand((3, 3, 24, 24), generator=torch.Generator().manual_seed(7))


def run(network, x=PROBE):
    with torch.inference_mode():
        return network(x)


def test_folding_changes_no_number_and_no_shared_weight():
    backbone = small()
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    network = backbone.feature_network(["bottleneck"])
    expected = run(network)
    assert fuse(network, 24).folded == 2
    torch.testing.assert_close(run(network), expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.replica.modules())
    for name, tensor in backbone.module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_tapped_convolution_is_left_alone():
    network = small().feature_network(["0", "bottleneck"])
    expected = run(network)
    assert fuse(network, 24).folded == 1
    torch.testing.assert_close(run(network), expected, rtol=1e-5, atol=1e-5)


def test_a_network_that_would_change_is_put_back():
    backbone = Backbone(settled(Reused()), preprocessing=Preprocessing(size=24, resize=24))
    network = backbone.feature_network(["bottleneck"])
    expected = run(network)
    assert fuse(network, 24).folded == 0
    torch.testing.assert_close(run(network), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "timm/resnetv2_50"])
def test_networks_of_all_sources_keep_their_features(name):
    weights = "default" if name == "efficientnet_lite0" else None
    backbone = load_backbone(name, weights)
    network = backbone.feature_network([-2, "bottleneck"], channels_last=True)
    x = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(7))
    expected = run(network, x)
    folded = fuse(network, 64).folded
    assert folded > 0 or name == "timm/resnetv2_50"
    for one, other in zip(run(network, x), expected, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()


packs = pytest.mark.skipif(
    not _can_pack(torch.zeros(1)), reason="this build of PyTorch is without oneDNN"
)


@packs
@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(-0.2, 0.4), nn.SiLU(),
        nn.Hardswish(), nn.GELU(), nn.GELU("tanh"), nn.Tanh(),
    ],
    ids=repr,
)  # fmt: skip
def test_a_convolution_does_its_activation(activation):
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), activation, nn.Conv2d(8, 8, 3, dilation=2))
    backbone = Backbone(module.eval(), preprocessing=Preprocessing(size=24, resize=24))
    network = backbone.feature_network(["bottleneck"], channels_last=True)
    expected = run(network)
    assert fuse(network, 24)[:2] == (0, 1), "the last one is tapped"
    is_done = isinstance(network.replica[1], nn.Identity)
    assert is_done != isinstance(activation, nn.Tanh), "which oneDNN is not asked to do"
    torch.testing.assert_close(run(network), expected, rtol=1e-5, atol=1e-5)


@packs
@pytest.mark.parametrize("size", [(24, 24), (25, 22)])
@pytest.mark.parametrize(
    "geometry", [(3, 1, 1), (3, 2, 1), (5, 2, 1), (4, 1, 1), ((5, 2), (1, 3), 1), (3, 2, 2)]
)
def test_padding_as_in_tensorflow_is_done_by_the_convolution(geometry, size):
    kernel, stride, dilation = geometry
    module = nn.Sequential(Conv2dSame(3, 8, kernel, stride, dilation=dilation), nn.ReLU6()).eval()
    x = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(7))
    conv = _geometry(module[0], x.shape)
    assert (conv is None) == (dilation == 2)
    if conv is not None:
        packed = _PackedConv(module[0], module[1], conv, x.shape)
        torch.testing.assert_close(run(packed, x), run(module, x), rtol=1e-5, atol=1e-5)


class Branched(nn.Module):
    """A convolution whose output is wanted without the activation, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x):
        x = self.conv(x)
        return x - self.act(x)


@packs
def test_a_convolution_that_is_wanted_without_its_activation_is_put_back():
    module = nn.Sequential(Branched(), nn.Conv2d(4, 4, 3)).eval()
    backbone = Backbone(module, preprocessing=Preprocessing(size=24, resize=24))
    network = backbone.feature_network(["bottleneck"])
    expected = run(network)
    assert fuse(network, 24)[:2] == (0, 0)
    for one, other in zip(run(network), expected, strict=True):
        assert torch.equal(one, other)


@packs
def test_every_convolution_of_the_default_network_is_packed():
    network = load_backbone("efficientnet_lite0").feature_network(["bottleneck"])
    assert fuse(network, 224)[:2] == (49, 49)


def test_threads_share_a_network():
    network = small().feature_network(["0", "bottleneck"])
    fuse(network, 24)
    inputs = [torch.rand((2, 3, 24, 24)) for _ in range(40)]
    expected = [run(network, x) for x in inputs]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda x: run(network, x), inputs))
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
