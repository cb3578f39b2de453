"""Batch normalisations folded into the convolutions before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from sktl.backbones import FeatureNetwork

__all__ = ["fuse"]

_TOLERANCE = 1e-4


def fuse(network: FeatureNetwork, size: int) -> int:
    """Fold batch normalisations into convolutions, where that changes no tapped layer.

    Which belong together is seen by watching which tensors go from one to the other. A network
    that uses a convolution's output elsewhere too would change; it is compared before and after,
    and left as it was in that case.

    Parameters
    ----------
    network : FeatureNetwork
        Its private replica is changed; the weights that it shares with others are not.
    size : int
        Side of the pictures, in pixels.

    Returns
    -------
    n_folded : int
        How many normalisations are gone.
    """
    weight = next(network.parameters())
    probe = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(0))
    probe = probe.to(weight.device, weight.dtype)
    with torch.inference_mode():
        pairs = _pairs(network, probe)
        before = network(probe)
        undo = [_fold(network.replica, *pair) for pair in pairs]
        after = network(probe)
        for one, other in zip(before, after, strict=True):
            if not (one - other).norm() <= _TOLERANCE * one.norm():
                for restore in reversed(undo):
                    restore()
                return 0
    return len(pairs)


def _pairs(network: FeatureNetwork, probe: torch.Tensor) -> list[tuple[str, str]]:
    """Paths of (convolution, normalisation) where the one's output is the other's input."""
    made_by: dict[int, tuple[str, torch.Tensor]] = {}
    runs: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def watch(path: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            runs[path] = runs.get(path, 0) + 1
            if isinstance(module, nn.Conv2d):
                made_by[id(output)] = path, output  # kept, so that its id is not given again
            elif id(inputs[0]) in made_by:
                pairs.append((made_by[id(inputs[0])][0], path))

        handles.append(module.register_forward_hook(hook))

    handles: list[Any] = []
    for path, module in network.replica.named_modules():
        if isinstance(module, nn.Conv2d) or _is_foldable(module):
            watch(path, module)
    network(probe)
    for handle in handles:
        handle.remove()
    tapped = {tap.path for tap in network.taps}
    return [pair for pair in pairs if all(runs[path] == 1 and path not in tapped for path in pair)]


def _is_foldable(module: nn.Module) -> bool:
    """PyTorch's batch normalisation, or timm's, which has an activation inside."""
    return (
        isinstance(module, nn.BatchNorm2d)
        and module.running_var is not None
        and (type(module) is nn.BatchNorm2d or (hasattr(module, "drop") and hasattr(module, "act")))
    )


def _fold(root: nn.Module, conv_path: str, norm_path: str) -> Any:
    """Replace both; return what puts them back."""
    conv: Any = root.get_submodule(conv_path)
    norm: Any = root.get_submodule(norm_path)
    parent, _, name = norm_path.rpartition(".")
    holder = root.get_submodule(parent)
    old = conv.weight, conv.bias

    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    channels_last = conv.weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    conv.weight = nn.Parameter(weight.to(old[0].dtype, memory_format=layout), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(old[0].dtype), requires_grad=False)
    rest = nn.Identity() if type(norm) is nn.BatchNorm2d else nn.Sequential(norm.drop, norm.act)
    setattr(holder, name, rest)

    def restore() -> None:
        conv.weight, conv.bias = old
        setattr(holder, name, norm)

    return restore
