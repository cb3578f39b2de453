import pytest
import torch
from torch import nn

from sktl.backbones import Backbone, Preprocessing, load_backbone
from sktl.engine._fuse import fuse


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
    assert fuse(network, 24) == 2
    torch.testing.assert_close(run(network), expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.replica.modules())
    for name, tensor in backbone.module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_tapped_convolution_is_left_alone():
    network = small().feature_network(["0", "bottleneck"])
    expected = run(network)
    assert fuse(network, 24) == 1
    torch.testing.assert_close(run(network), expected, rtol=1e-5, atol=1e-5)


def test_a_network_that_would_change_is_put_back():
    backbone = Backbone(settled(Reused()), preprocessing=Preprocessing(size=24, resize=24))
    network = backbone.feature_network(["bottleneck"])
    expected = run(network)
    assert fuse(network, 24) == 0
    for one, other in zip(run(network), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "timm/resnetv2_50"])
def test_networks_of_all_sources_keep_their_features(name):
    weights = "default" if name == "efficientnet_lite0" else None
    backbone = load_backbone(name, weights)
    network = backbone.feature_network([-2, "bottleneck"], channels_last=True)
    x = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(7))
    expected = run(network, x)
    folded = fuse(network, 64)
    assert folded > 0 or name == "timm/resnetv2_50"
    for one, other in zip(run(network, x), expected, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()
