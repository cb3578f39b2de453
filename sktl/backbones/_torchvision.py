"""The classification networks of torchvision.models."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sktl.backbones._anatomy import torchvision_anatomy
from sktl.backbones._backbone import Backbone, BackboneSpec
from sktl.backbones._preprocessing import Preprocessing
from sktl.backbones._weights import (
    StateDict,
    digest_file,
    digest_tensors,
    fetch_torch_hub,
    hash_prefix,
    load_tensors,
    local_file,
    read_tensors,
    renamed,
    seeded,
)
from sktl.exceptions import WeightsError
from sktl.utils._parameters import suggest

__all__ = ["list_torchvision", "load_torchvision"]

_SWAG_LICENCE = "CC-BY-NC-4.0"  # https://github.com/facebookresearch/SWAG/blob/main/LICENSE


def list_torchvision() -> list[str]:
    """Names of all of torchvision's classification networks."""
    from torchvision import models

    return cast("list[str]", models.list_models(module=models))


def load_torchvision(
    name: str, weights: str | os.PathLike[str] | None, random_state: int
) -> Backbone:
    """A torchvision network with a weights entry, a local file, or random weights."""
    if weights is None:
        entry, label, published = _entry(name, "default"), None, False
        module = _build(name, random_state=random_state)
        digest = digest_tensors(module)
    else:
        path = local_file(weights)
        if path is None:
            entry = _entry(name, os.fspath(weights))
            label, published = entry.name, True
            path, digest = fetch_torch_hub(entry.url, f"{name} {entry.name}")
            tensors = _modern(read_tensors(path))
        else:
            label, digest, tensors = str(path), digest_file(path), _modern(read_tensors(path))
            entry, published = _entry_of_file(name, path, digest, tensors)
        module = _build(name, tensors=tensors)
        load_tensors(module, tensors, f"{name} from {path}")
    # A vision transformer works at one size only, which a local file may choose for itself.
    preprocessing = preprocessing_of(entry).at_size(getattr(module, "image_size", None))
    spec = BackboneSpec(name, "torchvision", label, digest, preprocessing=preprocessing)
    if published:
        classes = entry.meta["categories"]  # None for VGG-16 without a usable classifier
        classes = None if classes is None else tuple(classes)
        spec = replace(spec, licence=_licence(entry), class_names=classes)
    return Backbone(module, spec)


def preprocessing_of(entry: Any) -> Preprocessing:
    """The preprocessing of a weights entry."""
    preset = entry.transforms()
    return Preprocessing(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _entry(name: str, weights: str) -> Any:
    from torchvision import models

    entries = models.get_model_weights(name)
    label = weights.rpartition(".")[2]
    if label.lower() == "default":
        return entries.DEFAULT
    if label not in entries.__members__:
        raise WeightsError(
            f"{name} has no weights {weights!r}.{suggest(label, entries.__members__)} "
            f'torchvision knows {list(entries.__members__)}; pass one of them, "default", the '
            "path of a file, or None for random weights"
        )
    return entries[label]


def _entry_of_file(name: str, path: Path, digest: str, tensors: StateDict) -> tuple[Any, bool]:
    """The entry whose preprocessing suits a local file, and whether the file is that entry.

    Known by its digest, else by its name, else by the size of the pictures it was trained on
    (vision transformers only); else the first one.
    """
    from torchvision import models

    entries = list(models.get_model_weights(name))
    for entry in entries:
        if digest.startswith(hash_prefix(entry.url)):
            return entry, True
    by_name = [entry for entry in entries if entry.url.rpartition("/")[2] == path.name]
    size = _image_size(tensors)
    by_size = [entry for entry in entries if entry.meta["min_size"] == (size, size)]
    return (by_name or by_size or entries)[0], False


def _licence(entry: Any) -> str:
    return _SWAG_LICENCE if "SWAG" in entry.name else "BSD-3-Clause"


def _build(name: str, *, tensors: StateDict | None = None, random_state: int = 0) -> nn.Module:
    """The network with random weights, of the size and with the number of classes of `tensors`."""
    from torchvision import models

    options: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        # The entries of both were trained on inputs in [-1, 1], which the network makes itself.
        # Their auxiliary heads serve training from scratch only.
        options["transform_input"] = tensors is not None
        options["aux_logits"] = False
        options["init_weights"] = tensors is None
    if tensors is not None and (size := _image_size(tensors)):
        options["image_size"] = size
    with seeded(random_state):
        module: nn.Module = models.get_model(name, weights=None, **options)
        n_classes = _number_of_classes(module, tensors or {})
        if n_classes not in (None, 1000):
            module = models.get_model(name, weights=None, num_classes=n_classes, **options)
    return module


def _number_of_classes(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> int | None:
    anatomy = torchvision_anatomy(module)
    weight = tensors.get(f"{anatomy.head}.weight") if anatomy else None
    return None if weight is None else len(weight)


def _image_size(tensors: StateDict) -> int | None:
    """The size of picture that the position embedding of a vision transformer is for."""
    positions = tensors.get("encoder.pos_embedding")  # (1, 1 + patches, D)
    patches = tensors.get("conv_proj.weight")  # (D, 3, patch size, patch size)
    if positions is None or patches is None or positions.ndim != 3:
        return None
    return math.isqrt(positions.shape[1] - 1) * patches.shape[-1]


def _modern(tensors: StateDict) -> StateDict:
    """The names of today, without auxiliary heads.

    DenseNet's published files still call ``norm1`` ``norm.1``.
    """
    legacy = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\..*)$")
    tensors = renamed(tensors, lambda name: legacy.sub(r"\1\2", name))
    for name in [name for name in tensors if name.startswith(("AuxLogits.", "aux1.", "aux2."))]:
        del tensors[name]
    return tensors
