"""Convolutions joined with the normalisation before and the activation behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from sktl.utils._devices import noise

if TYPE_CHECKING:
    from sktl.backbones import FeatureNetwork

__all__ = ["Fused", "fuse", "is_same"]

_TOLERANCE = 1e-4


class Fused(NamedTuple):
    """What was done to a network.

    Attributes
    ----------
    folded : int
        Batch normalisations that are gone.
    packed : int
        Convolutions that were handed to oneDNN.
    n_bytes : int
        Bytes of the largest map that a convolution makes of one picture; 0 without convolutions.
    """

    folded: int
    packed: int
    n_bytes: int


def fuse(network: FeatureNetwork, size: int) -> Fused:
    """Fold batch normalisations into convolutions and, on a CPU, let these do the activation too.

    Which belong together is seen by watching which tensors go from one to the other. A network
    that uses a convolution's output elsewhere too would change; it is compared before and after,
    and left as it was in that case.

    Parameters
    ----------
    network : FeatureNetwork
        Its private replica is changed; the weights that it shares with others are not. It must
        not be moved or copied afterwards.
    size : int
        Side of the pictures, in pixels: of all that it will see afterwards.

    Returns
    -------
    fused : Fused
    """
    weight = next(network.parameters())
    probe = noise(1, size).to(weight.device, weight.dtype)
    with torch.inference_mode():
        seen = _watch(network, probe, _is_foldable)
        undo = [_fold(network.replica, step.conv, step.then) for step in seen.steps]
        then = _watch(network, probe, _is_activation)
        if not is_same(seen.result, then.result):
            _restore(undo)
            then = _watch(network, probe, _is_activation)
        packed = _pack_all(network, then) if _can_pack(probe) else []
        if packed and not is_same(seen.result, network(probe)):
            _restore(packed)
    return Fused(len(undo), sum(change.is_conv for change in packed), seen.n_bytes)


class _Change(NamedTuple):
    """A module that was replaced."""

    undo: Callable[[], None]
    is_conv: bool = False


class _Step(NamedTuple):
    """A module that took the output of a convolution."""

    conv: str
    then: str


class _Seen(NamedTuple):
    """What happened in a forward pass, but for modules that ran more than once or are tapped."""

    result: list[torch.Tensor]
    steps: list[_Step]
    convs: dict[str, tuple[int, ...]]  # shapes of their inputs
    n_bytes: int  # of the largest output


def _watch(
    network: FeatureNetwork, probe: torch.Tensor, follows: Callable[[nn.Module], bool]
) -> _Seen:
    made_by: dict[int, tuple[str, torch.Tensor]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    runs: dict[str, int] = {}
    steps: list[_Step] = []

    def watch(path: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            runs[path] = runs.get(path, 0) + 1
            if isinstance(module, nn.Conv2d):
                made_by[id(output)] = path, output  # kept, so that its id is not given again
                shapes[path] = tuple(inputs[0].shape)
            elif id(inputs[0]) in made_by:
                steps.append(_Step(made_by[id(inputs[0])][0], path))

        handles.append(module.register_forward_hook(hook))

    handles: list[Any] = []
    for path, module in network.replica.named_modules():
        if isinstance(module, nn.Conv2d) or follows(module):
            watch(path, module)
    result = network(probe)
    for handle in handles:
        handle.remove()
    tapped = {tap.path for tap in network.taps}
    once = {path for path, n in runs.items() if n == 1 and path not in tapped}
    return _Seen(
        [maps.clone() for maps in result],
        [step for step in steps if step.conv in once and step.then in once],
        {path: shape for path, shape in shapes.items() if path in once},
        max((output.nbytes for _, output in made_by.values()), default=0),
    )


def is_same(
    one: list[torch.Tensor],
    other: list[torch.Tensor],
    tolerance: float = _TOLERANCE,
    least: float = 0.0,
) -> bool:
    """Whether maps are those of a network before it was changed, but for rounding.

    Parameters
    ----------
    one, other : list of Tensor
        Maps before and after.
    tolerance : float, default=1e-4
        How far they may be apart, relative to the norm of those before.
    least : float, default=0.0
        What they may be apart besides.

    Returns
    -------
    same : bool
    """
    return all(
        a.shape == b.shape and bool((a - b).norm() <= tolerance * a.norm() + least)
        for a, b in zip(one, other, strict=True)
    )


def _restore(changes: list[_Change]) -> None:
    for change in reversed(changes):
        change.undo()
    changes.clear()


def _pack_all(network: FeatureNetwork, seen: _Seen) -> list[_Change]:
    then = {step.conv: step.then for step in seen.steps}
    changes = []
    for path, shape in seen.convs.items():
        conv: Any = network.replica.get_submodule(path)
        geometry = _geometry(conv, shape)
        if geometry is None:
            continue
        act = network.replica.get_submodule(then[path]) if path in then else None
        packed = _PackedConv(conv, act, geometry, shape)
        changes.append(_replace(network.replica, path, packed)._replace(is_conv=True))
        if act is not None:
            changes.append(_replace(network.replica, then[path], nn.Identity()))
    return changes


def _replace(root: nn.Module, path: str, module: nn.Module) -> _Change:
    parent, _, name = path.rpartition(".")
    holder = root.get_submodule(parent)
    old = getattr(holder, name)
    setattr(holder, name, module)
    return _Change(lambda: setattr(holder, name, old))


def _is_foldable(module: nn.Module) -> bool:
    """PyTorch's batch normalisation, or timm's, which has an activation inside."""
    return (
        isinstance(module, nn.BatchNorm2d)
        and module.running_var is not None
        and (type(module) is nn.BatchNorm2d or (hasattr(module, "drop") and hasattr(module, "act")))
    )


def _double(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, as not every device has float64."""
    return tensor.cpu().double()


def _fold(root: nn.Module, conv_path: str, norm_path: str) -> _Change:
    """Scale the one's weights by the other, and take the other away."""
    conv: Any = root.get_submodule(conv_path)
    norm: Any = root.get_submodule(norm_path)
    old = conv.weight, conv.bias

    scale = (_double(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _double(norm.weight)
    shift = -_double(norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + _double(norm.bias)
    if conv.bias is not None:
        shift = shift + _double(conv.bias) * scale
    weight = (_double(conv.weight) * scale.view(-1, 1, 1, 1)).to(old[0])
    shift = shift.to(old[0])
    channels_last = conv.weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    conv.weight = nn.Parameter(weight.contiguous(memory_format=layout), requires_grad=False)
    conv.bias = nn.Parameter(shift, requires_grad=False)
    rest = nn.Identity() if type(norm) is nn.BatchNorm2d else nn.Sequential(norm.drop, norm.act)
    put_back = _replace(root, norm_path, rest)

    def restore() -> None:
        conv.weight, conv.bias = old
        put_back.undo()

    return _Change(restore)


def _activation(module: nn.Module) -> tuple[str, list[float], str] | None:
    """What oneDNN calls the activation: its name, numbers and algorithm; None if it has none."""
    if type(module) is nn.ReLU:
        return "relu", [], ""
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return "hardtanh", [module.min_val, module.max_val], ""
    if type(module) is nn.SiLU:
        return "swish", [], ""
    if type(module) is nn.Hardswish:
        return "hardswish", [], ""
    if type(module) is nn.GELU:
        return "gelu", [], module.approximate
    return None


def _is_activation(module: nn.Module) -> bool:
    return _activation(module) is not None


def _can_pack(x: torch.Tensor) -> bool:
    """Whether PyTorch has the operators that its own compiler uses for this."""
    mkldnn: Any = torch.backends.mkldnn
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )


class _Geometry(NamedTuple):
    """A convolution with the same padding at both ends."""

    weight: torch.Tensor
    padding: list[int]


def _geometry(conv: nn.Conv2d, shape: tuple[int, ...]) -> _Geometry | None:
    """What the convolution does to an input of this shape; None if that is not known."""
    weight = conv.weight.detach()
    if type(conv) is nn.Conv2d:
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            return None
        return _Geometry(weight, list(conv.padding))
    if type(conv).__name__ != "Conv2dSame":
        return None
    # timm's copy of TensorFlow's padding: as much as is needed, the odd one at the far end. There
    # is no such thing in oneDNN; a column of zeros at the near end of the kernel does the same.
    padding, extra = [], []
    sizes = zip(shape[2:], weight.shape[2:], conv.stride, conv.dilation, strict=True)
    for size, kernel, stride, dilation in sizes:
        reach = (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1
        total = max(reach - size, 0)
        padding.append(total - total // 2)
        extra.append(total % 2)
        if total % 2 and dilation > 1:
            return None
    return _Geometry(nn.functional.pad(weight, (extra[1], 0, extra[0], 0)), padding)


class _PackedConv(nn.Module):
    """A convolution whose weights lie as oneDNN wants them, with the activation behind it.

    PyTorch would reorder the weights in every forward pass, and go over the maps once more for the
    activation.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        activation: nn.Module | None,
        geometry: _Geometry,
        shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        act = None if activation is None else _activation(activation)
        steps = [geometry.padding, list(conv.stride), list(conv.dilation), conv.groups]
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            geometry.weight, *steps, list(shape)
        )
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.rest = *steps, *(act or ("none", [], ""))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.rest
        )
        return result
