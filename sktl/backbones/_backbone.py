"""A network, its weights and everything that belongs to them."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sktl.backbones._anatomy import (
    Anatomy,
    TwoPart,
    chain,
    generic_anatomy,
    timm_anatomy,
    torchvision_anatomy,
)
from sktl.backbones._feature_network import (
    FeatureNetwork,
    T,
    Tap,
    TapError,
    UncopyableError,
    dry_run,
    watch,
)
from sktl.backbones._preprocessing import IMAGENET, Preprocessing
from sktl.backbones._structure import digest_structure
from sktl.backbones._weights import digest_tensors
from sktl.exceptions import LayerNotFoundError, ParameterError
from sktl.utils._devices import is_out_of_memory, noise
from sktl.utils._float32 import full_float32
from sktl.utils._parameters import ParameterChecks, suggest

__all__ = ["Backbone", "BackboneSpec", "Stage"]

Layer = str | int


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a network beside its numbers.

    Attributes
    ----------
    name : str
        As passed to :func:`load_backbone`.
    source : {"torchvision", "timm", "packaged", "registered", "module"}
        Where the architecture comes from.
    weights : str or None
        Name of the weights entry, or path of a local file; None for random weights.
    digest : str
        SHA-256 (hexadecimal) of the weights file, or of the tensors where there is no file.
    licence : str or None
        Licence of the weights where their source states one.
    preprocessing : Preprocessing
        What the weights were trained to see.
    class_names : tuple of str or None
        Names of the outputs of the head, in order, where known.
    """

    name: str
    source: str
    weights: str | None
    digest: str
    licence: str | None = None
    preprocessing: Preprocessing = IMAGENET
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Stage:
    """One stage of a network.

    Attributes
    ----------
    name : str
        Path of the module whose output it is; usable as `layer`.
    shape : tuple of ints
        Of that output for one picture: (channels, height, width), or (features,).
    """

    name: str
    shape: tuple[int, ...]


class Backbone:
    """A network in eval mode with its weights, preprocessing, stages and head.

    Use :func:`load_backbone` to get one by name; make one directly to say what the preprocessing
    of a network of your own is. A Backbone is never changed by the estimators that share it:
    scikit-learn's clone and copy hand on the same object.

    Parameters
    ----------
    module : nn.Module
        The network. It is used as it is, in eval mode, not copied.
    spec : BackboneSpec, default=None
        What is known of it.
    preprocessing : Preprocessing, default=None
        That of `spec`, or ImageNet's.
    name : str, default=None
        For feature names. By default the class of the module, in lower case.

    Attributes
    ----------
    module : nn.Module
        The network, in eval mode.
    spec : BackboneSpec
        Name, weights, digest, licence, preprocessing and classes.

    Examples
    --------
    >>> from torch import nn
    >>> from sktl.backbones import Backbone, Preprocessing
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ...                     nn.Linear(8, 2))
    >>> backbone = Backbone(net, preprocessing=Preprocessing(size=32, resize=32))
    >>> backbone
    Backbone(name='sequential', source='module', n_features=8)
    >>> backbone.stages
    [Stage(name='1', shape=(8, 30, 30))]
    """

    def __init__(
        self,
        module: nn.Module,
        spec: BackboneSpec | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        name: str | None = None,
    ) -> None:
        _check_parts(module, spec, preprocessing)
        if spec is None:
            spec = BackboneSpec(
                name or type(module).__name__.lower(), "module", "module", digest_tensors(module)
            )
        elif preprocessing is not None and preprocessing != spec.preprocessing:
            # The name alone no longer gives this network, as it must in other processes.
            spec = replace(spec, source="module")
        self.spec = replace(spec, preprocessing=preprocessing) if preprocessing else spec
        self.module = module.eval()

    def __repr__(self) -> str:
        s = self.spec
        return f"Backbone(name={s.name!r}, source={s.source!r}, n_features={self.n_features})"

    def __sklearn_clone__(self) -> Backbone:
        return self

    def __copy__(self) -> Backbone:
        return self

    def __deepcopy__(self, memo: Any) -> Backbone:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "module": self.module}

    @property
    def name(self) -> str:
        """The name without its source: the prefix of feature names."""
        return self.spec.name.rpartition("/")[2]

    @property
    def preprocessing(self) -> Preprocessing:
        """What the weights were trained to see."""
        return self.spec.preprocessing

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the outputs of the head, where known."""
        return self.spec.class_names

    @property
    def head(self) -> nn.Module | None:
        """The last linear layer, which reads the penultimate features; None if there is none."""
        return None if self._anatomy.head is None else self._whole.get_submodule(self._anatomy.head)

    @property
    def n_features(self) -> int:
        """Number of bottleneck features: channels of the last feature maps."""
        return self.shapes(["bottleneck"])[0][0]

    @functools.cached_property
    def stages(self) -> list[Stage]:
        """The last output at each resolution, in order; every block, where all have one shape."""
        paths = [path for path, _ in chain(self._whole, self._anatomy.expand)]
        paths = list(dict.fromkeys([*paths, self._anatomy.bottleneck]))
        fired = self._dry_run(lambda picture: watch(self._whole, paths, picture))
        names = [path for path, _ in fired]
        if self._anatomy.bottleneck in names:
            fired = fired[: names.index(self._anatomy.bottleneck) + 1]
        fired = [(path, shape) for path, shape in fired if shape[:1] == (1,)]  # one row a picture
        maps = [path for path, shape in fired if len(shape) == 4]
        shapes = self.shapes([self._outer(path) for path in maps])
        by_size = {shape[1:]: path for shape, path in zip(shapes, maps, strict=True)}
        tokens = [path for path, s in fired if len(s) == 3 and re.search(r"\d$", path)]
        found = dict.fromkeys([*by_size.values(), *tokens, self._anatomy.bottleneck])
        found_names = [self._outer(path) for path in found]
        return [Stage(*stage) for stage in zip(found_names, self.shapes(found_names), strict=True)]

    def taps(self, layers: Sequence[Layer]) -> tuple[Tap, ...]:
        """Where in the network layers are read.

        Parameters
        ----------
        layers : sequence of str or int
            As `layer` of :class:`sktl.CNNFeatures`.

        Returns
        -------
        taps : tuple of Tap
            One a layer.

        Raises
        ------
        LayerNotFoundError
            If one of them is not there.
        """
        return tuple(tap for tap, _ in self._plan(layers))

    def shapes(self, layers: Sequence[Layer], size: int | None = None) -> list[tuple[int, ...]]:
        """Shape of each layer for one picture: (channels, height, width) or (features,).

        Parameters
        ----------
        layers : sequence of str or int
            As `layer` of :class:`sktl.CNNFeatures`.
        size : int, default=None
            Side of the picture, in pixels; by default that of the preprocessing.

        Returns
        -------
        shapes : list of tuple of ints

        Raises
        ------
        LayerNotFoundError
            If one of them is not there.
        ParameterError
            If the network cannot work at that size.
        """
        checks = ParameterChecks("shapes")
        checks.integer("size", size, minimum=1, optional=True)
        checks.done()
        return [shape for _, shape in self._plan(layers, size)]

    def feature_network(
        self,
        layers: Sequence[Layer],
        *,
        device: torch.device | None = None,
        channels_last: bool = False,
    ) -> FeatureNetwork:
        """Cut out the part of the network that some layers need.

        Parameters
        ----------
        layers : sequence of str or int
            As `layer` of :class:`sktl.CNNFeatures`.
        device : torch.device, default=None
            Where it shall compute; by default where the network is.
        channels_last : bool, default=False
            Whether its convolutions keep their weights in channels-last order.

        Returns
        -------
        network : FeatureNetwork
            A replica, which shares the weights wherever they can serve.
        """
        return FeatureNetwork(
            self._whole,
            self.taps(layers),
            self._anatomy,
            device=device,
            channels_last=channels_last,
        )

    def fingerprints(self, layers: Sequence[Layer]) -> list[str]:
        """Identify what the network computes at some layers, whatever they are called.

        Made of the tensors as they are now; of the kinds of its modules, with their options and,
        for classes and functions of one's own, their code; and of the layers' responses to two
        fixed pictures, of noise and of ramps.

        Parameters
        ----------
        layers : sequence of str or int
            As of :class:`sktl.CNNFeatures`.

        Returns
        -------
        fingerprints : list of str
            SHA-256, in hexadecimal.
        """
        size = self.preprocessing.size
        # As wide as normalised pictures. What convolutions make of noise is small numbers only.
        probes = noise(1, size) * 5 - 2.5, _ramps(size) * 5 - 2.5
        try:
            responses = [self._respond(layers, probe, torch.device("cpu")) for probe in probes]
        except RuntimeError:  # of what it holds beside its tensors, something is on its device
            responses = [self._respond(layers, probe, None) for probe in probes]
        parts_of_it = f"{digest_tensors(self.module)} {digest_structure(self.module)}"
        found = []
        for of_layer in zip(*responses, strict=True):
            # Few means of few digits: enough to tell networks apart, and alike whatever the order
            # of additions is, which changes with the number of threads.
            text = parts_of_it
            for response in of_layer:
                parts = response.flatten().abs().double().tensor_split(16)
                digits = " ".join(f"{part.mean():.2e}" for part in parts)
                text += f" {tuple(response.shape)} {digits}"
            found.append(hashlib.sha256(text.encode()).hexdigest())
        return found

    def _respond(
        self, layers: Sequence[Layer], probe: torch.Tensor, device: torch.device | None
    ) -> list[torch.Tensor]:
        network = self.feature_network(layers, device=device)
        x = probe.to(next(network.parameters(), probe))
        with torch.inference_mode(), full_float32(x.device.type):
            responses: list[torch.Tensor] = network(x)
        return [response.cpu() for response in responses]

    def layer_name(self, layer: Layer) -> str:
        """The name of a layer given by name or by stage index."""
        return self._stage(layer).name if isinstance(layer, int) else layer

    @functools.cached_property
    def _whole(self) -> nn.Module:
        """The network with a name for its bottleneck."""
        keeps_protocol = all(
            callable(getattr(self.module, name, None))
            for name in ("forward_features", "forward_head", "get_classifier")
        )
        return TwoPart(self.module).eval() if keeps_protocol else self.module

    @functools.cached_property
    def _anatomy(self) -> Anatomy:
        if isinstance(self._whole, TwoPart):
            return timm_anatomy(self._whole)
        known = torchvision_anatomy(self._whole)
        return known or self._dry_run(lambda picture: generic_anatomy(self._whole, picture))

    def _tap(self, layer: Layer) -> Tap:
        anatomy = self._anatomy
        if isinstance(layer, int):
            layer = self._stage(layer).name
        if layer == "bottleneck" or self._inner(layer) == anatomy.bottleneck:
            if anatomy.bottleneck:
                return Tap(anatomy.bottleneck, is_bottleneck=True)
            layer = "penultimate"
        inner = self._inner(layer)
        if layer == "logits" and inner not in dict(self._whole.named_modules()):
            return Tap("")
        if layer == "penultimate":
            return Tap("", "output") if anatomy.head is None else Tap(anatomy.head, "input")
        if inner not in dict(self._whole.named_modules()):
            known = [path for path, _ in self.module.named_modules() if path]
            raise LayerNotFoundError(
                f"{self.spec.name} has no layer {layer!r}.{suggest(layer, known)} "
                f'Beside "bottleneck" and "penultimate" its stages are '
                f"{[stage.name for stage in self.stages]}; any module path works too"
            )
        return Tap(inner)

    def _stage(self, index: int) -> Stage:
        stages = self.stages
        if not -len(stages) <= index < len(stages):
            raise LayerNotFoundError(
                f"{self.spec.name} has {len(stages)} stages; there is no stage {index}"
            )
        return stages[index]

    def _inner(self, layer: str) -> str:
        return f"net.{layer}" if isinstance(self._whole, TwoPart) else layer

    def _outer(self, path: str) -> str:
        if isinstance(self._whole, TwoPart):
            return path.removeprefix("net.")
        return "bottleneck" if path == "" else path

    @functools.cached_property
    def _plans(self) -> dict[tuple[Tap, int | None], tuple[Tap, tuple[int, ...]]]:
        return {}

    def _plan(
        self, layers: Sequence[Layer], size: int | None = None
    ) -> list[tuple[Tap, tuple[int, ...]]]:
        """The tap of each layer, with its number of calls, and the shape that it gives."""
        taps = [self._tap(layer) for layer in layers]
        new = tuple(tap for tap in dict.fromkeys(taps) if (tap, size) not in self._plans)
        if new:
            plans = self._dry_run(lambda picture: self._measure(new, picture), size)
            self._plans.update(zip(((tap, size) for tap in new), plans, strict=True))
        return [self._plans[tap, size] for tap in taps]

    def _measure(
        self, taps: tuple[Tap, ...], picture: torch.Tensor
    ) -> list[tuple[Tap, tuple[int, ...]]]:
        two = FeatureNetwork(self._whole, taps, self._anatomy, stop=False, device=picture.device)
        two.note_orders()
        _check_rows(taps, two(torch.cat([picture, picture])), 2)
        taps = tuple(
            replace(tap, n_calls=two.calls[tap], is_channels_last=two.orders[tap]) for tap in taps
        )
        one = FeatureNetwork(self._whole, taps, self._anatomy, device=picture.device)
        values = one(picture)
        _check_rows(taps, values, 1)
        return [(tap, tuple(value.shape[1:])) for tap, value in zip(taps, values, strict=True)]

    def _dry_run(self, run: Callable[[torch.Tensor], T], size: int | None = None) -> T:
        own_size = self.preprocessing.size
        size = own_size if size is None else size
        try:
            return dry_run(self._whole, size, run)
        except UncopyableError:
            raise
        except TapError as error:
            tap, reason = error.args
            layer = self._outer(tap.path) if tap.path else "penultimate"
            raise LayerNotFoundError(f"the layer {layer!r} of {self.spec.name} {reason}") from error
        # Networks complain about a size with whatever their layers stumble over.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            remedy = (
                "Backbone(module, preprocessing=Preprocessing(size=..., resize=...)) says what it "
                "is for"
                if size == own_size
                else f"Its own size is {own_size}"
            )
            raise ParameterError(
                f"{self.spec.name} cannot work on pictures of {size} x {size} pixels: {error}. "
                f"{remedy}"
            ) from error


def _ramps(size: int) -> torch.Tensor:
    """(1, 3, size, size): red from left to right, green downwards, blue from corner to corner."""
    ramp = torch.linspace(0, 1, size)
    red, green = torch.meshgrid(ramp, ramp, indexing="xy")
    return torch.stack([red, green, (red + green) / 2])[None]


def _check_parts(module: Any, spec: Any, preprocessing: Any) -> None:
    is_module = isinstance(module, nn.Module)
    parts = module.modules() if is_module else []
    is_scripted = any(isinstance(part, torch.jit.ScriptModule) for part in parts)
    rule = "an nn.Module, no part of it of TorchScript; load_backbone gives networks by name"
    checks = ParameterChecks("Backbone")
    checks.that("module", module, is_module and not is_scripted, rule)
    is_spec = spec is None or isinstance(spec, BackboneSpec)
    checks.that("spec", spec, is_spec, "a BackboneSpec or None")
    is_known = preprocessing is None or isinstance(preprocessing, Preprocessing)
    checks.that("preprocessing", preprocessing, is_known, "a Preprocessing or None")
    checks.done()


def _check_rows(taps: tuple[Tap, ...], values: list[torch.Tensor], n: int) -> None:
    """Each picture must have a row of its own, of features or of maps."""
    for tap, value in zip(taps, values, strict=True):
        if value.ndim not in (2, 4):
            raise TapError(
                tap, f"gives {value.ndim} dimensions; choose a layer that gives 2, 3 or 4"
            )
        if len(value) != n:
            raise TapError(
                tap,
                f"gives {len(value)} rows for {n} picture{'s' * (n > 1)}; choose a layer whose "
                "first dimension is that of the pictures (for transformers, batch_first=True)",
            )
