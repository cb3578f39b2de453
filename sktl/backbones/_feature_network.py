"""The part of a network that some layers need, returning just those layers."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import nn

from sktl.backbones._structure import is_of_library
from sktl.exceptions import ParameterError
from sktl.utils._devices import is_out_of_memory

if TYPE_CHECKING:
    from sktl.backbones._anatomy import Anatomy

__all__ = [
    "FeatureNetwork",
    "Tap",
    "TapError",
    "dry_run",
    "replicate",
    "watch",
]

T = TypeVar("T")

# Modules whose channels come behind the pictures, whatever their size; of those in `_ELEMENTWISE`,
# what they are given tells.
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout")
_IS_CHANNELS_LAST = "_sktl_is_channels_last"  # of a tensor


@dataclass(frozen=True)
class Tap:
    """Where to read in a network.

    Attributes
    ----------
    path : str
        A module; "" is the whole network.
    side : {"output", "input"}
        What of it.
    n_calls : int
        How often the module runs in one forward pass; the last time counts.
    is_bottleneck : bool
        Whether the network's own treatment of its bottleneck applies.
    is_channels_last : bool or None
        Whether channels are the last dimension; None is by the shape.
    """

    path: str
    side: str = "output"
    n_calls: int = 1
    is_bottleneck: bool = False
    is_channels_last: bool | None = None


class TapError(Exception):
    """Nothing can be read at a tap: (tap, what is wrong with it)."""


class _AllSeen(Exception):  # noqa: N818 (nothing went wrong)
    """Stops a forward pass whose remainder nobody asked for."""


class _Pass(NamedTuple):
    """What one thread has met in its forward pass."""

    seen: dict[Tap, torch.Tensor]
    calls: dict[Tap, int]


class FeatureNetwork(nn.Module):
    """Runs a network as far as its deepest tap and returns the tapped layers.

    It works on a private replica of the network's structure that shares the weights, so that
    the network itself never carries hooks. Several threads can run it at once.

    Parameters
    ----------
    whole : nn.Module
        The network, in eval mode.
    taps : sequence of Tap
        What to return.
    anatomy : Anatomy
        Tells how tokens and channel orders are to be read.
    stop : bool, default=True
        Whether to stop behind the deepest tap.
    device : torch.device, default=None
        Where the replica lives. Weights that are elsewhere are copied there.
    channels_last : bool, default=False
        Whether the replica keeps its convolutions' weights in channels-last order, in a copy.
    """

    def __init__(
        self,
        whole: nn.Module,
        taps: tuple[Tap, ...],
        anatomy: Anatomy,
        *,
        stop: bool = True,
        device: torch.device | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.replica = replicate(whole, device=device, channels_last=channels_last).eval()
        self.taps = taps
        self.anatomy = anatomy
        self.stop = stop
        self.calls: dict[Tap, int] = {}
        self.orders: dict[Tap, bool | None] = {}
        self._passes: dict[int, _Pass] = {}
        for tap in dict.fromkeys(taps):
            module = self.replica.get_submodule(tap.path)
            if tap.side == "input":
                module.register_forward_pre_hook(_Hook(self, tap))
            else:
                module.register_forward_hook(_Hook(self, tap))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(N, 3, H, W) normalised pictures to one (N, C, h, w) or (N, D) tensor a tap."""
        thread = threading.get_ident()
        self._passes[thread] = _Pass({}, dict.fromkeys(self.taps, 0))
        try:
            with contextlib.suppress(_AllSeen):
                self.replica(x)
        finally:
            seen, self.calls = self._passes.pop(thread)
        for tap in self.taps:
            if tap not in seen:
                raise TapError(tap, "does not run in a forward pass; choose the one that holds it")
        return [self._as_map(seen[tap], tap) for tap in self.taps]

    def note_orders(self) -> None:
        """From now on note in `orders` whether taps have channels last, where modules tell."""
        for module in self.replica.modules():
            module.register_forward_hook(_mark_order, prepend=True)

    def untapped(self) -> nn.Module:
        """The network, in a copy of the replica that shares its tensors and has no taps."""
        network: nn.Module = copy_sharing(self.replica)
        for module in network.modules():
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                for key in [key for key, hook in hooks.items() if isinstance(hook, _Hook)]:
                    del hooks[key]
        return network

    def _see(self, tap: Tap, value: Any) -> None:
        seen, calls = self._passes[threading.get_ident()]
        calls[tap] += 1
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise TapError(tap, f"gives a {kind}, not a tensor; choose a layer inside it")
        self.orders[tap] = getattr(value, _IS_CHANNELS_LAST, None)
        all_seen = self.stop and all(calls[t] >= t.n_calls for t in self.taps)
        # What runs on may change the value in place, as a ReLU does with a convolution's output.
        seen[tap] = value if all_seen else value.clone()
        if all_seen:
            raise _AllSeen

    def _as_map(self, value: torch.Tensor, tap: Tap) -> torch.Tensor:
        anatomy = self.anatomy
        if tap.is_bottleneck and anatomy.relu_after:
            value = torch.relu(value)
        if value.ndim == 4:
            is_last = tap.is_channels_last
            is_last = anatomy.is_channels_last(value.shape) if is_last is None else is_last
            return value.permute(0, 3, 1, 2) if is_last else value  # (N, H, W, C) -> (N, C, H, W)
        if value.ndim != 3:
            return value
        if tap.is_channels_last is False:
            return value.unsqueeze(3)  # (N, C, L) -> (N, C, L, 1)
        # A square number of tokens inside a network are all patches, as behind a patch embedding
        # or before CaiT's class attention.
        square = math.isqrt(value.shape[1]) ** 2 == value.shape[1]
        n_prefix = 0 if square and not tap.is_bottleneck else anatomy.n_prefix
        if n_prefix and anatomy.tokens == "class":
            return value[:, 0]  # (N, tokens, D) -> (N, D)
        # (N, tokens, D) -> (N, D, tokens, 1), for pooling as any other map
        return value[:, n_prefix:].transpose(1, 2).unsqueeze(3)


def _mark_order(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    """Note on a tensor whether its channels are last, by the kind of the module that gives it."""
    is_last: bool | None = None
    if isinstance(module, _CHANNELS_FIRST):
        is_last = False
    # Not those derived from them, which may reorder inside.
    elif type(module) is nn.Linear:
        is_last = True
    elif type(module) is nn.LayerNorm:
        is_last = True if len(module.normalized_shape) == 1 else None
    elif type(module).__module__ in _ELEMENTWISE and inputs:
        is_last = getattr(inputs[0], _IS_CHANNELS_LAST, None)
    if is_last is not None and isinstance(output, torch.Tensor):
        setattr(output, _IS_CHANNELS_LAST, is_last)


class _Hook:
    """A forward hook or pre-hook; a class, so that replicas can be copied."""

    def __init__(self, network: FeatureNetwork, tap: Tap) -> None:
        self.network, self.tap = network, tap

    # Which thread it is in cannot be compiled.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        self.network._see(self.tap, output if self.tap.side == "output" else inputs[0])


class UncopyableError(ParameterError):
    """A network holds what cannot be copied."""


def copied(module: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """A copy of a network; raise UncopyableError."""
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise
        raise UncopyableError(
            f"{type(module).__name__} must be copied to be used, and cannot be: {error}. Keep "
            "locks, files and generators out of its attributes; for torch.nn.utils.weight_norm "
            "there is torch.nn.utils.parametrizations.weight_norm"
        ) from error


def copy_sharing(module: nn.Module) -> Any:
    """A copy of the structure of `module` with the very tensors of it, gradients and all."""
    return copied(module, {id(t): t for t in (*module.parameters(), *module.buffers())})


def replicate(
    module: nn.Module, *, device: torch.device | None = None, channels_last: bool = False
) -> nn.Module:
    """A copy of the structure of `module` that shares its tensors wherever they can serve.

    Moving or reordering a module in place would do it to the tensors of all who share them.
    """
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        served = tensor.detach().to(device) if device is not None else tensor.detach()
        if channels_last and served.ndim == 4:
            served = served.contiguous(memory_format=torch.channels_last)
        if isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = nn.Parameter(served, requires_grad=False)
        else:
            memo[id(tensor)] = served
    replica: nn.Module = copied(module, memo)
    return replica


def watch(
    module: nn.Module, paths: Sequence[str], example: torch.Tensor
) -> list[tuple[str, tuple[int, ...]]]:
    """(path, shape of the output) of modules in `module`, in the order in which they finish."""
    replica = replicate(module, device=example.device).eval()
    fired: list[tuple[str, tuple[int, ...]]] = []

    def hook(path: str) -> Callable[..., None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                fired.append((path, tuple(output.shape)))

        return note

    for path in paths:
        replica.get_submodule(path).register_forward_hook(hook(path))
    replica(example)
    return fired


def dry_run(module: nn.Module, size: int, run: Callable[[torch.Tensor], T]) -> T:
    """What `run` gives for an empty picture.

    For a library's networks first on the meta device, where only shapes are computed; for those
    that cannot work there, and for others, which may keep what they compute, really.
    """
    parameter = next(module.parameters(), torch.empty(0))
    picture = torch.zeros((1, 3, size, size), dtype=parameter.dtype, device=parameter.device)
    if all(is_of_library(type(part)) for part in module.modules()):
        # What is really wrong shows up again below.
        with contextlib.suppress(Exception), torch.inference_mode():
            return run(picture.to("meta"))
    with torch.no_grad():  # what is kept in inference mode could not be learnt through
        return run(picture)
