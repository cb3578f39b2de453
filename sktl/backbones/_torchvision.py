"""The classification networks of torchvision.models."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sktl.backbones._anatomy import torchvision_anatomy
from sktl.backbones._backbone import Backbone, BackboneSpec
from sktl.backbones._preprocessing import IMAGENET, Preprocessing
from sktl.backbones._weights import (
    StateDict,
    digest_file,
    digest_tensors,
    fetch_torch_hub,
    load_tensors,
    local_file,
    read_tensors,
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
        entry = _entry(name, "default")
        module = _build(name, random_state=random_state)
        spec = BackboneSpec(
            name, "torchvision", None, digest_tensors(module), None, preprocessing_of(entry)
        )
        return Backbone(module, spec)
    path = local_file(weights)
    if path is None:
        entry = _entry(name, os.fspath(weights))
        path, digest = fetch_torch_hub(entry.url, f"{name} {entry.name}")
        label = entry.name
    else:
        digest = digest_file(path)
        entry = _entry_of_file(name, path, digest)
        label = str(path)
    tensors = _modern_names(read_tensors(path))
    module = _build(name, tensors=tensors, meta=entry.meta if entry else {})
    load_tensors(module, tensors, f"{name} from {path}")
    _drop_auxiliary_heads(module)
    is_entry = entry is not None and digest.startswith(_hash_prefix(entry))
    spec = BackboneSpec(
        name,
        "torchvision",
        label,
        digest,
        _licence(entry) if is_entry else None,
        preprocessing_of(entry),
        tuple(entry.meta["categories"]) if is_entry else None,
    )
    return Backbone(module, spec)


def preprocessing_of(entry: Any) -> Preprocessing:
    """The preprocessing of a weights entry."""
    if entry is None:
        return IMAGENET
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


def _entry_of_file(name: str, path: Path, digest: str) -> Any:
    """The entry that a local file is, by its digest or else by its name; else the first one."""
    from torchvision import models

    entries = list(models.get_model_weights(name))
    by_digest = [entry for entry in entries if digest.startswith(_hash_prefix(entry))]
    by_name = [entry for entry in entries if entry.url.rpartition("/")[2] == path.name]
    return (by_digest or by_name or entries)[0]


def _hash_prefix(entry: Any) -> str:
    return str(entry.url).rpartition(".")[0].rpartition("-")[2]


def _licence(entry: Any) -> str:
    return _SWAG_LICENCE if "SWAG" in entry.name else "BSD-3-Clause"


def _build(
    name: str,
    *,
    tensors: StateDict | None = None,
    meta: dict[str, Any] | None = None,
    random_state: int = 0,
) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {}
    if tensors is not None:
        options["num_classes"] = _number_of_classes(name, tensors)
    if name in ("inception_v3", "googlenet"):
        # The entries of both were trained on inputs in [-1, 1], which the network makes itself.
        options["transform_input"] = tensors is not None
        options["aux_logits"] = tensors is not None and any(
            key.lower().startswith("aux") for key in tensors
        )
        options["init_weights"] = tensors is None
    if name.startswith("vit_") and meta:
        options["image_size"] = meta["min_size"][0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        module: nn.Module = models.get_model(name, weights=None, **options)
    if tensors is None:
        _drop_auxiliary_heads(module)
    return module


def _number_of_classes(name: str, tensors: StateDict) -> int:
    from torchvision import models

    options = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    with torch.device("meta"):
        anatomy = torchvision_anatomy(models.get_model(name, weights=None, **options))
    weight = tensors.get(f"{anatomy.head}.weight") if anatomy else None
    return 1000 if weight is None else int(weight.shape[0])


def _drop_auxiliary_heads(module: nn.Module) -> None:
    """They serve training from scratch only, and cost memory and a warning otherwise."""
    if type(module).__name__ in ("Inception3", "GoogLeNet"):
        module.aux_logits = False  # type: ignore[assignment]
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(module, name):
                setattr(module, name, None)


def _modern_names(tensors: StateDict) -> StateDict:
    """DenseNet's published files still call ``norm1`` ``norm.1``."""
    legacy = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\..*)$")
    return {legacy.sub(r"\1\2", key): tensor for key, tensor in tensors.items()}
