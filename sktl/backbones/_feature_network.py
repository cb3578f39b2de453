"""The part of a network that some layers need, returning just those layers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from sktl.backbones._anatomy import Anatomy

__all__ = ["FeatureNetwork", "NeverRunError", "NotATensorError", "Tap", "replicate"]


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
    """

    path: str
    side: str = "output"
    n_calls: int = 1
    is_bottleneck: bool = False


class NotATensorError(Exception):
    """The tapped module gives something else."""


class NeverRunError(Exception):
    """The tapped module takes no part in a forward pass."""


class _AllSeen(Exception):
    """Stops a forward pass whose remainder nobody asked for."""


class FeatureNetwork(nn.Module):
    """Runs a network as far as its deepest tap and returns the tapped layers.

    It works on a private replica of the network's structure that shares the weights, so that
    the network itself never carries hooks and several replicas can run at once.

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
        self._seen: dict[Tap, torch.Tensor] = {}
        for tap in taps:
            module = self.replica.get_submodule(tap.path)
            if tap.side == "input":
                module.register_forward_pre_hook(_Hook(self, tap))
            else:
                module.register_forward_hook(_Hook(self, tap))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(N, 3, H, W) normalised pictures to one (N, C, h, w) or (N, D) tensor a tap."""
        self._seen, self.calls = {}, dict.fromkeys(self.taps, 0)
        try:
            self.replica(x)
        except _AllSeen:
            pass
        seen, self._seen = self._seen, {}
        for tap in self.taps:
            if tap not in seen:
                raise NeverRunError(f"the layer {tap.path!r} does not run in a forward pass")
        return [self._as_map(seen[tap], tap) for tap in self.taps]

    def _see(self, tap: Tap, value: Any) -> None:
        self.calls[tap] += 1
        if not isinstance(value, torch.Tensor):
            raise NotATensorError(
                f"the layer {tap.path!r} gives a {type(value).__name__}, not a tensor"
            )
        self._seen[tap] = value
        if self.stop and all(self.calls[t] >= t.n_calls for t in self.taps):
            raise _AllSeen

    def _as_map(self, value: torch.Tensor, tap: Tap) -> torch.Tensor:
        if tap.is_bottleneck and self.anatomy.relu_after:
            value = torch.relu(value)
        if value.ndim == 4 and self.anatomy.channels_last and value.shape[1] == value.shape[2]:
            value = value.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
        elif value.ndim == 3 and self.anatomy.tokens == "class":
            value = value[:, 0]  # (N, tokens, D) -> (N, D)
        elif value.ndim == 3:
            # (N, tokens, D) -> (N, D, tokens, 1), for pooling as any other map
            value = value[:, self.anatomy.n_prefix :].transpose(1, 2).unsqueeze(3)
        return value


class _Hook:
    """A forward hook or pre-hook; a class, so that replicas can be copied."""

    def __init__(self, network: FeatureNetwork, tap: Tap) -> None:
        self.network, self.tap = network, tap

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        self.network._see(self.tap, output if self.tap.side == "output" else inputs[0])


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
    replica: nn.Module = copy.deepcopy(module, memo)
    return replica
