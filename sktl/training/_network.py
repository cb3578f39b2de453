"""A backbone with a head of its own: which part of it learns, and where it can be cut in two."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sktl.backbones import Backbone, FeatureNetwork
from sktl.backbones._anatomy import Anatomy, chain
from sktl.backbones._feature_network import Tap, copy_sharing, dry_run, watch
from sktl.backbones._structure import is_of_library
from sktl.exceptions import ParameterError
from sktl.nn.pooling import Pooling, pool
from sktl.training._phase import Phase
from sktl.utils._devices import generator_states, is_out_of_memory, private_randomness
from sktl.utils._parameters import suggest

__all__ = ["Cut", "TransferNet", "put_tensors"]

# How many places before the first part that learns are tried as the place to cut.
_TRIED = 4


class TransferNet(nn.Module):
    """The trunk of a backbone, in a copy that learns, under a head.

    Parameters
    ----------
    backbone : Backbone
        Copied, not changed.
    layer : {"penultimate", "bottleneck"}
        Where the head is attached: in place of the network's last linear layer, or behind its
        last feature maps.
    pooling : str
        As of :func:`sktl.nn.pool`, for features that are maps.
    head : nn.Module
        Pooled features to logits.

    Attributes
    ----------
    trunk, head : nn.Module
    order : torch.memory_format
        Of the trunk's weights, and best of its inputs.
    cut : Cut or None
        If not None, the input of `forward` is not pictures but what the frozen part made of them.
    """

    def __init__(self, backbone: Backbone, layer: str, pooling: Pooling, head: nn.Module) -> None:
        super().__init__()
        trunk = _trunk(backbone, layer)
        self.order = _order_in_memory(trunk)
        self.trunk = trunk.to(memory_format=self.order)
        self.head = head
        self.layer = layer
        self.pooling = pooling
        self.cut: Cut | None = None
        self._holds_statistics: bool = True
        self._first: float = -1  # place of what learns, unless everything does
        self._resting: set[str] = set()  # modules without parameters
        self._order = _order(backbone)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) normalised pictures, or what the cut gives, to (N, n_classes) logits."""
        logits: torch.Tensor = self.head(pool(self.learner(x), self.pooling))
        return logits

    @property
    def learner(self) -> nn.Module:
        """What runs below the head: the trunk, or the rest of it behind the cut."""
        return self.trunk if self.cut is None else self.cut.rest

    def train(self, mode: bool = True) -> TransferNet:
        """Switch to train mode what learns; what is frozen stays in eval mode."""
        super().train(mode)
        if mode:
            self._hold(self.trunk)
        if self.cut is not None:
            self.cut.rest.train(mode)
            if mode:
                self._hold(self.cut.rest)
        return self

    @property
    def network(self) -> nn.Module:
        """The network that the user knows, as it is by now, with the head where it takes one."""
        if isinstance(self.trunk, _Single):
            inner = self.trunk.network.untapped()
        elif self._order.head_path is None:
            inner = self.trunk
        else:
            inner = copy_sharing(self.trunk)
            inner.set_submodule(self._order.head_path, self.head)
        return inner.get_submodule("net") if self._order.is_wrapped else inner

    def begin(self, phase: Phase, *, is_pretrained: bool) -> None:
        """Freeze what does not learn in a phase.

        Parameters
        ----------
        phase : Phase
        is_pretrained : bool
            What "auto" makes of the phase's `batch_norm`.

        Raises
        ------
        ParameterError
            If the phase names parts that are not there.
        """
        learning = self.learning(phase.train)
        is_whole = all(name in learning for name, _ in self.trunk.named_parameters())
        self._first = -1 if is_whole else min(map(self._order.place, learning), default=math.inf)
        for name, parameter in self.trunk.named_parameters():
            parameter.requires_grad_(name in learning)
        self._holds_statistics = (
            is_pretrained if phase.batch_norm == "auto" else phase.batch_norm == "frozen"
        )
        self._resting = self._in_front_of_frozen()

    def learning(self, train: str | Sequence[str]) -> set[str]:
        """Names of the parameters of the trunk that learn.

        Parameters
        ----------
        train : str or list of str
            As of :class:`Phase`.

        Returns
        -------
        names : set of str
            As in ``trunk.named_parameters()``.

        Raises
        ------
        ParameterError
            If a path or pattern matches no parameter.
        """
        stage = self.stages()
        if isinstance(train, str):
            behind = len(self._order.stages)
            if train == "head":
                return set()
            if train == "all":
                return set(stage)
            if train == "conv":
                return {name for name, i in stage.items() if i < behind}
            if train == "fc":
                return {name for name, i in stage.items() if i >= behind}
            with_weights = sorted({i for i in stage.values() if i < behind})
            k = min(int(train.removeprefix("last:")), len(with_weights))
            return {name for name, i in stage.items() if i >= with_weights[-k]}
        names = {self._order.outer(name): name for name in stage}
        found: set[str] = set()
        for path in train:
            matched = [
                inner
                for outer, inner in names.items()
                if outer == path or outer.startswith(f"{path}.") or fnmatch.fnmatch(outer, path)
            ]
            if not matched and path != "head":
                known = {outer[:i] for outer in names for i in _dots(outer)}
                raise ParameterError(
                    f"train={path!r} matches no parameter of the network.{suggest(path, known)} "
                    f"Its stages are {self._order.stage_names}; the head, in place of the "
                    "network's last layer, learns in every phase"
                )
            found.update(matched)
        return found

    def stages(self) -> dict[str, int]:
        """Number of the stage of each parameter of the trunk that the head depends on.

        Parameters behind the last stage have the next number. A last stage of vectors alone, such
        as a normalisation behind the last block, has the number of the one before.

        Returns
        -------
        stages : dict of str and int
        """
        behind = len(self._order.stages)
        numbers = {}
        for name, _ in self.trunk.named_parameters():
            place = self._order.place(name)
            number = sum(end < place for end in self._order.stages)
            is_behind = self.layer == "bottleneck" and number == behind
            if not is_behind and place != self._order.head:
                numbers[name] = number
        with_weights = sorted({i for i in numbers.values() if i < behind})
        if len(with_weights) > 1:
            *_, before, last = with_weights
            tail = [name for name, i in numbers.items() if i == last]
            if all(self.trunk.get_parameter(name).ndim < 2 for name in tail):
                numbers.update(dict.fromkeys(tail, before))
        return numbers

    def groups(self, lr_decay: float) -> list[dict[str, Any]]:
        """What learns, in groups that learn equally fast.

        Parameters
        ----------
        lr_decay : float
            Factor from one stage to the one before that has weights.

        Returns
        -------
        groups : list of dicts
            "params", and "scale": the factor of the learning rate, 1 for the head.
        """
        stage = self.stages() if lr_decay != 1 else dict.fromkeys(self.stages(), 0)
        steps = {number: i for i, number in enumerate(sorted(set(stage.values()), reverse=True))}
        by_scale: dict[float, list[nn.Parameter]] = {1.0: list(self.head.parameters())}
        for name, parameter in self.trunk.named_parameters():
            if parameter.requires_grad:
                scale = lr_decay ** (1 + steps[stage[name]]) if lr_decay != 1 else 1.0
                by_scale.setdefault(scale, []).append(parameter)
        return [{"params": params, "scale": scale} for scale, params in by_scale.items()]

    def find_cut(self, example: torch.Tensor) -> Cut | None:
        """Where to cut, so that all before is frozen and need not be computed again.

        Parameters
        ----------
        example : Tensor of shape (N, 3, H, W)
            Normalised pictures, on the device of the network, on which the two parts are tried.

        Returns
        -------
        cut : Cut or None
            None if nothing before the first part that learns can be cut off with the same result.
        """
        learns = [name for name, p in self.trunk.named_parameters() if p.requires_grad]
        if not learns:
            self.eval()
            with torch.inference_mode():
                shape = pool(self.trunk(example[:1]), self.pooling).shape[1:]
            return Cut(self.trunk, nn.Identity(), tuple(shape), pooling=self.pooling)
        first = min([*(self._order.place(name) for name in learns), *self._random_modules()])
        self.eval()
        for end in range(first - 1, max(-1, first - 1 - _TRIED), -1):
            cut = self._cut_at(end, example)
            if cut is not None:
                return cut
        return None

    def _random_modules(self) -> list[int]:
        """Numbers of the modules that may draw at random in training, dropouts for instance."""
        self.train()
        net, _ = self._order.unwrapped(self.trunk)
        return [
            i
            for i, path in enumerate(self._order.paths)
            if any(
                module.training and _may_draw(module)
                for module in net.get_submodule(path).modules()
            )
        ]

    def _cut_at(self, end: int, example: torch.Tensor) -> Cut | None:
        """A cut behind the module that is the `end`-th to finish; None if that is another network.

        What is cut off is replaced by nothing: the modules behind are handed what it gave. A
        network that does more than hand on from one module to the next is noticed by its output.
        """
        paths = self._order.paths
        net, prefix = self._order.unwrapped(self.trunk)
        nothing = Anatomy(bottleneck="", head=None)
        before = FeatureNetwork(net, (Tap(paths[end]),), nothing, device=example.device)
        rest = copy_sharing(self.trunk)
        gone: list[str] = []
        for path in sorted((f"{prefix}{path}" for path in paths[: end + 1]), key=len):
            if not any(path.startswith(f"{other}.") for other in gone):
                rest.set_submodule(path, nn.Identity())
                gone.append(path)
        for module in rest.modules():
            if getattr(module, "transform_input", None) is True:
                # Inception and GoogLeNet; done in the first part
                setattr(module, "transform_input", False)  # noqa: B010 (nn.Module's attributes)
        try:
            with torch.no_grad():
                (value,) = before(example)
                whole = self.trunk(example)
                scale = float(whole.abs().max())
                same = torch.allclose(rest(value.clone()), whole, rtol=1e-4, atol=1e-5 * scale)
                same = same and scale > 0 and not _draws_around(rest, gone, value)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return None  # whatever it is, this network cannot be cut here
        if not same:
            return None
        return Cut(_Single(before), rest, tuple(value.shape[1:]))

    def _hold(self, part: nn.Module) -> None:
        """Put frozen modules into eval mode: those whose nearest parameters are all frozen.

        Batch normalisations without parameters are frozen with what runs before anything learns.
        """
        for name, module in part.named_modules():
            own = list(module.parameters())
            is_norm = _is_norm(module)
            is_frozen = bool(own) and not any(p.requires_grad for p in own)
            if is_norm and not own:
                is_frozen = self._order.place(f"{name}.") < self._first
            if is_frozen or name in self._resting or (is_norm and self._holds_statistics):
                module.eval()

    def _in_front_of_frozen(self) -> set[str]:
        """Modules without parameters behind which a frozen one comes first, dropouts for instance.

        That in front of what learns, the head too, is part of its training.
        """
        net, prefix = self._order.unwrapped(self.trunk)
        resting, is_frozen = set(), False
        for path in reversed(self._order.paths):
            module = net.get_submodule(path)
            own = list(module.parameters(recurse=False))
            if own:
                is_frozen = not any(p.requires_grad for p in own)
            elif is_frozen and _has_no_parameters(module) and not _is_norm(module):
                resting.add(f"{prefix}{path}")
        return resting


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _has_no_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is None


def _may_draw(module: nn.Module) -> bool:
    """Whether a module is a dropout of some kind, or might be as it comes with no library.

    Of those that do, only dropouts draw.
    """
    kind = type(module)
    if "drop" in kind.__name__.lower():
        return True
    return not is_of_library(kind) and _has_no_parameters(module)


def _draws_around(rest: nn.Module, gone: Sequence[str], value: torch.Tensor) -> bool:
    """Whether modules that hold some of what was cut off draw at random in training.

    Such as by ``F.dropout(x, training=self.training)`` in `forward`, which may be done in front of
    the cut, and would be done again.
    """
    holding = {path[:i] for path in gone for i in (0, *_dots(path))}
    was_training = {module: module.training for module in rest.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in rest.buffers()]  # those of the network
    device = value.device
    try:
        rest.eval()
        for path in holding:
            rest.get_submodule(path).training = True
        with private_randomness(device):
            before = generator_states(device)
            rest(value.clone())
            return not all(map(torch.equal, before, generator_states(device)))
    finally:
        for buffer, content in buffers:
            buffer.copy_(content)
        for module, mode in was_training.items():
            module.training = mode


class Cut:
    """A network in two parts, the first of which is frozen.

    Attributes
    ----------
    before : nn.Module
        Normalised pictures to what the second part takes.
    rest : nn.Module
        The second part, which shares its tensors with the trunk.
    shape : tuple of ints
        Of what is handed on, for one picture.
    pooling : str or None
        How the first part's maps are pooled before they are kept.
    """

    def __init__(
        self,
        before: nn.Module,
        rest: nn.Module,
        shape: tuple[int, ...],
        *,
        pooling: Pooling | None = None,
    ) -> None:
        self.before, self.rest, self.pooling = before, rest, pooling
        self.shape = shape

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) normalised pictures to what is kept of them."""
        with torch.inference_mode():
            value: torch.Tensor = self.before(x)
            return value if self.pooling is None else pool(value, self.pooling)


class _Single(nn.Module):
    """A FeatureNetwork with one tap, as a network that gives one tensor."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: list[torch.Tensor] = self.network(x)
        return values[0]


class _Order:
    """The order in which the parts of a backbone run."""

    def __init__(self, backbone: Backbone, paths: list[str]) -> None:
        self.paths = paths
        self.is_wrapped = backbone._whole is not backbone.module
        anatomy = backbone._anatomy
        self.stage_names = [stage.name for stage in backbone.stages]
        ends = [
            anatomy.bottleneck if name == "bottleneck" else backbone._inner(name)
            for name in self.stage_names
        ]
        self.stages = sorted(paths.index(end) for end in ends if end in paths)
        self.head_path = anatomy.head
        self.head = paths.index(anatomy.head) if anatomy.head in paths else -1

    def place(self, name: str) -> int:
        """Number of the module, in order, that a parameter of the trunk belongs to.

        One that a container of modules holds itself, such as a position embedding, belongs to the
        first of them.
        """
        owner = name.removeprefix(_PREFIX).rpartition(".")[0]
        for i, path in enumerate(self.paths):
            if f"{owner}.".startswith(f"{path}.") or path.startswith(f"{owner}."):
                return i
        return 0  # a tensor of the network itself, such as a class token

    def outer(self, name: str) -> str:
        """A parameter's name in the network that the user knows."""
        name = name.removeprefix(_PREFIX)
        return name.removeprefix("net.") if self.is_wrapped else name

    def unwrapped(self, trunk: nn.Module) -> tuple[nn.Module, str]:
        """The network inside of a trunk, and the prefix of its paths there."""
        if isinstance(trunk, _Single):
            return trunk.network.replica, _PREFIX
        return trunk, ""


_PREFIX = "network.replica."


def _order(backbone: Backbone) -> _Order:
    whole, anatomy = backbone._whole, backbone._anatomy
    paths = [path for path, _ in chain(whole, anatomy.expand)]
    paths = list(dict.fromkeys([*paths, anatomy.bottleneck]))
    fired = dry_run(whole, backbone.preprocessing.size, lambda x: watch(whole, paths, x))
    return _Order(backbone, [path for path, _ in fired if path])


def _order_in_memory(trunk: nn.Module) -> torch.memory_format:
    """Channels last: a quarter faster on a CPU, and what tensor cores want on a GPU.

    But on a CPU, the backward pass of a convolution with 1 x 1 weights, a stride and 2 to 15
    channels of input (RepVGG, FastViT) writes beyond its memory then (PyTorch 2.15), which ends the
    process.
    """
    points = (m for m in trunk.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    is_hit = any(max(m.stride) > 1 and m.groups == 1 and 1 < m.in_channels < 16 for m in points)
    return torch.contiguous_format if is_hit else torch.channels_last


def _trunk(backbone: Backbone, layer: str) -> nn.Module:
    """The network up to a layer, in a copy of its own that can learn."""
    head = backbone._anatomy.head
    is_last = isinstance(backbone.head, nn.Linear) and not backbone._anatomy.has_other_heads
    if layer == "penultimate" and head and is_last and len(backbone.shapes([layer])[0]) == 1:
        trunk = copy.deepcopy(backbone._whole)
        trunk.set_submodule(head, nn.Identity())
    else:
        shared = FeatureNetwork(
            backbone._whole, backbone.taps([layer]), backbone._anatomy, stop=True
        )
        trunk = _Single(copy.deepcopy(shared))
        with torch.no_grad():
            for tensor in (*trunk.parameters(), *trunk.buffers()):
                tensor.set_(tensor.clone())  # type: ignore[call-overload]
    return trunk.requires_grad_(True)


def _dots(path: str) -> Iterator[int]:
    return (i for i, letter in enumerate(path) if letter == ".")


def put_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put some tensors into a network, by their names; the others stay."""
    state = module.state_dict()  # which also knows the versions of the network's parts
    unknown = sorted(set(tensors) - set(state))
    if unknown:
        raise ValueError(f"the network has no tensors {unknown[:5]}")
    state.update(tensors)
    module.load_state_dict(state)
