"""Networks by name, loaded once a process."""

from __future__ import annotations

import fnmatch
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn.base import BaseEstimator
from torch import nn

from sktl.backbones._backbone import Backbone, BackboneSpec
from sktl.backbones._feature_network import copied
from sktl.backbones._packaged import PACKAGED, list_packaged, load_packaged
from sktl.backbones._preprocessing import IMAGENET, Preprocessing
from sktl.backbones._scratch import list_scratch, load_scratch
from sktl.backbones._timm import list_timm, load_timm
from sktl.backbones._torchvision import list_torchvision, load_torchvision
from sktl.backbones._weights import (
    digest_file,
    digest_tensors,
    load_tensors,
    local_file,
    read_tensors,
    seeded,
)
from sktl.exceptions import BackboneNotFoundError, ParameterError, WeightsError
from sktl.utils._parameters import ParameterChecks, suggest
from sktl.utils._sameness import file_state

__all__ = ["clear_loaded", "list_backbones", "load_backbone", "register_backbone"]

_KEPT = 4
# What else is to be let go of with the networks.
ON_CLEAR: list[Callable[[], None]] = []
_LOADED: OrderedDict[tuple[Any, ...], Backbone] = OrderedDict()
_LOCK = threading.RLock()


@dataclass(frozen=True)
class _Registered:
    build: Callable[[], nn.Module]
    weights: str | os.PathLike[str] | None
    preprocessing: Preprocessing
    licence: str | None
    class_names: tuple[str, ...] | None


_REGISTERED: dict[str, _Registered] = {}


def list_backbones(filter: str = "*", *, source: str | None = None) -> list[str]:
    """Names that :func:`load_backbone` and the estimators take.

    Parameters
    ----------
    filter : str, default="*"
        A shell pattern such as ``"*resnet*"`` or ``"timm/convnext*"``, compared without case.
    source : {"torchvision", "timm", "packaged", "registered", "scratch"}, default=None
        Only these. timm's are listed where timm is installed.

    Returns
    -------
    names : list of str
        Packaged first, then registered, those for training from scratch, torchvision's and timm's,
        each in alphabetical order.

    Examples
    --------
    >>> from sktl import list_backbones
    >>> list_backbones("efficientnet_lite*")
    ['efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2']
    >>> list_backbones("vgg1?", source="torchvision")
    ['vgg11', 'vgg13', 'vgg16', 'vgg19']
    """
    listings: dict[str, Callable[[], list[str]]] = {
        "packaged": list_packaged,
        "registered": lambda: list(_REGISTERED),
        "scratch": list_scratch,
        "torchvision": list_torchvision,
        "timm": list_timm,
    }
    if source is not None and source not in listings:
        raise ParameterError(
            f"source must be one of {list(listings)} or None; got {source!r}."
            f"{suggest(str(source), listings)}"
        )
    checks = ParameterChecks("list_backbones")
    checks.that("filter", filter, isinstance(filter, str), 'a pattern, as in "*resnet*"')
    checks.done()
    pattern = filter.lower()
    return [
        name
        for key, listing in listings.items()
        if source in (None, key)
        for name in sorted(listing())
        if fnmatch.fnmatchcase(name.lower(), pattern)
    ]


def register_backbone(
    name: str,
    build: Callable[[], nn.Module],
    *,
    weights: str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing = IMAGENET,
    licence: str | None = None,
    class_names: tuple[str, ...] | None = None,
) -> None:
    """Give a network of your own a name that every estimator understands.

    Parameters
    ----------
    name : str
        The name. An earlier registration under it is replaced; names of other sources are not.
    build : callable
        Called without arguments, returns the network, as an nn.Module.
    weights : str or Path, default=None
        Its weights file, used for ``weights="default"``. Without one, what `build` returns is
        taken to have its weights already.
    preprocessing : Preprocessing, default=ImageNet's
        What the weights were trained to see.
    licence : str, default=None
        Of the weights.
    class_names : tuple of str, default=None
        Of the outputs of its head.

    Examples
    --------
    >>> from torch import nn
    >>> from sktl import list_backbones, register_backbone
    >>> register_backbone("my_net", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    >>> list_backbones("my_*")
    ['my_net']
    """
    is_function = callable(build) and not isinstance(build, nn.Module)
    is_known = isinstance(preprocessing, Preprocessing)
    checks = ParameterChecks("register_backbone")
    checks.that("name", name, isinstance(name, str) and name != "", "a word")
    checks.that("build", build, is_function, "a function that returns the network")
    checks.that("preprocessing", preprocessing, is_known, "a sktl.backbones.Preprocessing")
    checks.done()
    taken = (*PACKAGED, *list_scratch(), *list_torchvision())
    if name in taken or name.startswith("timm/"):
        raise ParameterError(f"the name {name!r} belongs to another source; choose another one")
    with _LOCK:
        _REGISTERED[name] = _Registered(build, weights, preprocessing, licence, class_names)
        for key in [key for key in _LOADED if key[0] == name]:
            del _LOADED[key]


def load_backbone(
    name: str | nn.Module | Backbone | BaseEstimator,
    weights: str | os.PathLike[str] | None = "default",
    *,
    random_state: int = 0,
    image_size: int | None = None,
) -> Backbone:
    """Load a network with its weights, or hand on the one that this process already has.

    Parameters
    ----------
    name : str, nn.Module, Backbone or fitted estimator
        A packaged name (``"efficientnet_lite0"``), a torchvision name (``"vgg19"``), a timm name
        (``"timm/convnext_tiny"``), a registered name; a network of your own, of which a copy in
        eval mode is taken and ImageNet's preprocessing assumed; a Backbone, returned as it is; or
        an estimator whose network is to be reused, its `encoder_` or `backbone_`.
    weights : str, Path or None, default="default"
        ``"default"``, a named entry (``"IMAGENET1K_V1"``, a tag of timm), a local
        ``.safetensors`` or ``.pth`` file, or None for random weights. Only for names.
    random_state : int, default=0
        Seed of random weights.
    image_size : int, default=None
        Side of the pictures, in pixels, for networks whose dense layers depend on it: "basic5",
        "lenet" and "small3". The others take pictures of any size.

    Returns
    -------
    backbone : Backbone
        In eval mode on the CPU, shared by all who load the same; do not change it.

    Raises
    ------
    BackboneNotFoundError
        If there is no such network.
    ParameterError
        If weights are given for a network that is not given by name, or a seed or size cannot be.
    WeightsError
        If the weights cannot be had or do not fit. Random weights never stand in for them.

    Examples
    --------
    >>> from sktl.backbones import load_backbone
    >>> backbone = load_backbone("resnet18", weights=None)
    >>> backbone.n_features, [stage.name for stage in backbone.stages]
    (512, ['relu', 'layer1', 'layer2', 'layer3', 'layer4'])
    """
    if isinstance(name, BaseEstimator):
        name = _network_of(name)
    if isinstance(name, (Backbone, nn.Module)):
        if weights not in ("default", None):
            raise ParameterError(
                f"weights are for backbones given by name; got {weights!r} for a "
                f"{type(name).__name__}. Load them into it first"
            )
        return name if isinstance(name, Backbone) else _from_module(name)
    if not isinstance(name, str):
        raise BackboneNotFoundError(
            "a backbone is a name, an nn.Module, a Backbone or a fitted estimator; got "
            f"{type(name).__name__}"
        )
    checks = ParameterChecks("load_backbone")
    checks.integer("random_state", random_state, minimum=0)
    checks.integer("image_size", image_size, minimum=1, optional=True)
    checks.done()
    loader = _loader(name)
    with _LOCK:
        key: tuple[Any, ...] = (
            name,
            weights_key(weights),
            random_state if weights is None else None,
        )
        if loader is load_scratch:
            key, loader = (*key, image_size), functools.partial(loader, image_size=image_size)
        if key not in _LOADED:
            loaded = loader(name, weights, random_state)
            # "default" and the name of the default entry are the same network.
            same = (other for other in _LOADED.values() if other.spec == loaded.spec)
            loaded = next(same, loaded)
            if weights is None:  # with other random weights it served a fit that is over
                for other in [old for old in _LOADED if old[0] == name and old[2] is not None]:
                    del _LOADED[other]
            _LOADED[key] = loaded
            while len(_LOADED) > _KEPT:
                _LOADED.popitem(last=False)
        _LOADED.move_to_end(key)
        return _LOADED[key]


def is_registered(name: str) -> bool:
    """Whether the name is one that `register_backbone` gave."""
    return name in _REGISTERED


def clear_loaded() -> None:
    """Let go of all networks that this process keeps loaded.

    Examples
    --------
    >>> from sktl.backbones import clear_loaded, load_backbone
    >>> loaded = load_backbone("resnet18", weights=None)
    >>> clear_loaded()
    >>> load_backbone("resnet18", weights=None) is loaded
    False
    """
    with _LOCK:
        _LOADED.clear()
    for let_go in ON_CLEAR:
        let_go()


def _network_of(estimator: BaseEstimator) -> Backbone:
    """The network that an estimator has learnt."""
    for attribute in ("encoder_", "backbone_"):
        network = getattr(estimator, attribute, None)
        if isinstance(network, Backbone):
            return network
    raise BackboneNotFoundError(
        f"{type(estimator).__name__} has no network to be reused: it is not fitted, or has none. "
        "scikit-learn's clone, which cross-validation calls, forgets what was learnt; pass the "
        "fitted estimator's encoder_ or backbone_ there"
    )


def _from_module(module: nn.Module) -> Backbone:
    preprocessing = None
    if hasattr(module, "pretrained_cfg") and hasattr(module, "forward_features"):
        from sktl.backbones._timm import preprocessing_of

        preprocessing = preprocessing_of(module, type(module).__name__)
    backbone = Backbone(copied(module), preprocessing=preprocessing)
    backbone.module.requires_grad_(False)
    return backbone


def _loader(name: str) -> Callable[[str, Any, int], Backbone]:
    if name in PACKAGED:
        return load_packaged
    if name in _REGISTERED:
        return _load_registered
    if name in list_scratch():
        return load_scratch
    if name.startswith("timm/"):
        return load_timm
    if name in list_torchvision():
        return load_torchvision
    raise BackboneNotFoundError(
        f"there is no backbone {name!r}.{suggest(name, list_backbones())} list_backbones() names "
        'all; timm\'s are written "timm/<name>" and need: pip install "sktl[timm]"'
    )


def weights_key(weights: str | os.PathLike[str] | None) -> Any:
    """What tells weights apart: their name, or path and state of a local file."""
    path = None if weights is None else local_file(weights)
    if path is None:
        return weights
    return str(path.absolute()), *file_state(path)


def _load_registered(
    name: str, weights: str | os.PathLike[str] | None, random_state: int
) -> Backbone:
    entry = _REGISTERED[name]
    with seeded(random_state):
        module = entry.build()
    if not isinstance(module, nn.Module):
        raise ParameterError(
            f"what was registered as {name!r} builds no nn.Module but {module!r}; "
            "register_backbone takes a function that returns the network"
        )
    digest, label = None, None
    if weights is not None:
        label = "default" if os.fspath(weights) == "default" else os.fspath(weights)
        wanted = entry.weights if label == "default" else weights
        path = None if wanted is None else local_file(wanted)
        if path is not None:
            load_tensors(module, read_tensors(path, module.state_dict()), f"{name} from {path}")
            digest = digest_file(path)
        elif label != "default":
            raise WeightsError(
                f'{name} has no weights {label!r}; pass "default" or the path of a file'
            )
    spec = BackboneSpec(
        name,
        "registered",
        label,
        digest or digest_tensors(module),
        entry.licence,
        entry.preprocessing,
        entry.class_names,
    )
    return Backbone(module, spec)
