"""Where the parts of a network are: its trunk, its stages, its head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from sktl.backbones._feature_network import watch

if TYPE_CHECKING:
    import torch

__all__ = ["Anatomy", "TwoPart", "generic_anatomy", "timm_anatomy", "torchvision_anatomy"]


@dataclass(frozen=True)
class Anatomy:
    """Paths of the parts of a network.

    Attributes
    ----------
    bottleneck : str
        Module whose output is the last feature maps, before pooling and fully connected layers.
    head : str or None
        The last linear layer (a 1 x 1 convolution in SqueezeNet): its input is "penultimate".
    expand : tuple of str
        Containers, beside plain Sequential ones, whose children are stages of their own.
    relu_after : bool
        Whether the network applies a ReLU to the bottleneck's output outside of any module.
    tokens : {"class", "mean"}
        What stands for a sequence of tokens, shape (N, tokens, features): the class token that
        the head reads, or all tokens behind the `n_prefix` first ones.
    n_prefix : int
        Tokens in front that belong to no patch.
    channels_last : bool
        Whether feature maps inside the network are (N, H, W, C), where their shape leaves it open.
    has_other_heads : bool
        Whether there are heads beside that one, whose outputs are averaged, as distillation has it.
    """

    bottleneck: str
    head: str | None
    expand: tuple[str, ...] = ()
    relu_after: bool = False
    tokens: Literal["class", "mean"] = "mean"
    n_prefix: int = 0
    channels_last: bool = False
    has_other_heads: bool = False

    def is_channels_last(self, shape: tuple[int, ...]) -> bool:
        """Whether maps of this shape are (N, H, W, C): pictures are square, H == W."""
        _, first, second, third = shape
        return first == second and (second != third or self.channels_last)


class TwoPart(nn.Module):
    """A timm network with a name for what lies between its trunk and its head."""

    net: Any

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.bottleneck = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trunk = self.bottleneck(self.net.forward_features(x))
        logits: torch.Tensor = self.net.forward_head(trunk)
        return logits


# Class of the torchvision network -> its parts, the head by the part that ends in it. Read off
# torchvision/models/*.py.
_TORCHVISION = {
    "AlexNet": Anatomy("features", "classifier"),
    "VGG": Anatomy("features", "classifier"),
    "ResNet": Anatomy("layer4", "fc"),
    "DenseNet": Anatomy("features", "classifier", relu_after=True),
    "Inception3": Anatomy("Mixed_7c", "fc"),
    "GoogLeNet": Anatomy("inception5b", "fc"),
    "MobileNetV2": Anatomy("features", "classifier"),
    "MobileNetV3": Anatomy("features", "classifier"),
    "EfficientNet": Anatomy("features", "classifier"),
    "ConvNeXt": Anatomy("features", "classifier"),
    "MNASNet": Anatomy("layers", "classifier"),
    "RegNet": Anatomy("trunk_output", "fc"),
    "ShuffleNetV2": Anatomy("conv5", "fc"),
    "SqueezeNet": Anatomy("features", "classifier"),
    "SwinTransformer": Anatomy("permute", "head", channels_last=True),
    "VisionTransformer": Anatomy(
        "encoder", "heads", expand=("encoder", "encoder.layers"), tokens="class", n_prefix=1
    ),
    "MaxVit": Anatomy("blocks.3", "classifier", expand=("blocks",)),
}


def torchvision_anatomy(module: nn.Module) -> Anatomy | None:
    """The parts of a network of torchvision.models, or None if it is not one."""
    anatomy = _TORCHVISION.get(type(module).__name__)
    if anatomy is None or not type(module).__module__.startswith("torchvision.models"):
        return None
    return replace(anatomy, head=_last_linear(module, anatomy.head))


def _last_linear(module: nn.Module, part: str | None) -> str | None:
    """Path of the last linear layer in `part`, which users replace by heads of their own.

    A part without one (nn.Identity) stands for itself.
    """
    linear = [
        path
        for path, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and f"{path}.".startswith(f"{part}.")
    ]
    return linear[-1] if linear else part


def timm_anatomy(whole: TwoPart) -> Anatomy:
    """The parts of a network that keeps timm's protocol."""
    net = whole.net
    heads = _timm_heads(net)
    paths = (path for path, module in whole.named_modules() if heads and module is heads[0])
    head = next(paths, None)
    by_class_token = getattr(net, "global_pool", "avg") == "token"
    return Anatomy(
        "bottleneck",
        head,
        expand=("net", "net.blocks", "net.stages", "net.layers"),
        tokens="class" if by_class_token else "mean",
        n_prefix=int(getattr(net, "num_prefix_tokens", by_class_token)),
        channels_last=getattr(net, "output_fmt", "NCHW") == "NHWC",
        has_other_heads=len(heads) > 1,
    )


def _timm_heads(net: Any) -> Sequence[nn.Module]:
    """That of the classes, and beside it, in distilled networks, another."""
    heads = net.get_classifier() if hasattr(net, "get_classifier") else None
    if isinstance(heads, (tuple, list)):
        return heads
    return [] if heads is None else [heads]


def chain(
    module: nn.Module, expand: tuple[str, ...], prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """The modules that follow each other in a network: its children, containers opened."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        yield path, child
        if type(child) in (nn.Sequential, nn.ModuleList) or path in expand:
            yield from chain(child, expand, f"{path}.")


def generic_anatomy(module: nn.Module, example: torch.Tensor) -> Anatomy:
    """The parts of an unknown network, found by watching one forward pass.

    The bottleneck is the last feature map of more than one pixel among the modules that follow
    each other, and the head the last linear layer behind it; a network without feature maps has as
    bottleneck the input of its last linear layer.
    """
    modules = dict(module.named_modules())
    in_sequence = dict(chain(module, ()))
    fired = watch(module, [path for path in modules if path], example)
    maps = [(path, shape) for path, shape in fired if path in in_sequence and len(shape) == 4]
    maps = [(path, shape) for path, shape in maps if shape[2] * shape[3] > 1] or maps
    bottleneck = maps[-1][0] if maps else ""
    ends = [path for path, _ in fired]
    behind = ends[ends.index(bottleneck) + 1 :] if bottleneck else ends
    linear = [path for path in behind if isinstance(modules[path], nn.Linear)]
    return Anatomy(bottleneck, linear[-1] if linear else None)
