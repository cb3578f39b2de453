"""The networks of timm, by name or by name and tag."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sktl.backbones._backbone import Backbone, BackboneSpec
from sktl.backbones._imagenet import imagenet_class_names
from sktl.backbones._preprocessing import Preprocessing
from sktl.backbones._weights import (
    differences,
    digest_file,
    digest_tensors,
    fetch_torch_hub,
    first_line,
    local_file,
    read_tensors,
    seeded,
)
from sktl.exceptions import BackboneNotFoundError, WeightsError
from sktl.utils._optional import import_optional
from sktl.utils._parameters import suggest

__all__ = ["build_timm", "list_timm", "load_timm", "preprocessing_of"]

# Name of a weights file on the hub -> of its copy in the safetensors format, where the rule
# (another suffix) does not give it. From timm/models/_hub.py.
_SAFE = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}


def list_timm() -> list[str]:
    """Names of timm's networks, each behind "timm/"; empty where timm is not installed."""
    try:
        import timm
    except ModuleNotFoundError:
        return []
    return [f"timm/{name}" for name in timm.list_models()]


def load_timm(name: str, weights: str | os.PathLike[str] | None, random_state: int) -> Backbone:
    """A timm network with pretrained weights, a tag of them, a local file, or random weights."""
    timm = import_optional("timm", extra="timm", caller=f"the backbone {name!r}")
    architecture, _, tag = name.removeprefix("timm/").partition(".")
    if not timm.is_model(architecture):
        raise BackboneNotFoundError(
            f"timm has no network {architecture!r}.{suggest(f'timm/{architecture}', list_timm())}"
        )
    path = None if weights is None else local_file(weights)
    if weights is not None and path is None and os.fspath(weights) != "default":
        tag = os.fspath(weights).removeprefix(f"{architecture}.")
    if tag or (weights is not None and path is None):
        _check_tag(timm, architecture, tag)
    full_name = f"{architecture}.{tag}" if tag else architecture
    if weights is None:
        module = build_timm(full_name, random_state=random_state)
        return Backbone(module, _spec(name, module, None, digest_tensors(module)))
    if path is None:
        config = timm.get_pretrained_cfg(full_name)
        path = _fetch(config, name)
        module = _build_with_file(timm, full_name, path, name)
        spec = _spec(name, module, config.tag or "default", digest_file(path))
        spec = replace(spec, licence=config.license, class_names=_class_names(module))
    else:
        module = _build_with_file(timm, full_name, path, name)
        spec = _spec(name, module, str(path), digest_file(path))
    return Backbone(module, spec)


def build_timm(architecture: str, *, random_state: int = 0, **options: Any) -> nn.Module:
    """A timm network with random weights that are the same every time."""
    timm = import_optional("timm", extra="timm", caller=f"the timm network {architecture!r}")
    with seeded(random_state):
        module: nn.Module = timm.create_model(architecture, **options)
    return module


def _build_with_file(timm: Any, full_name: str, path: Path, name: str) -> nn.Module:
    """The network with the weights in a file, which may be of any number of classes."""
    tensors = read_tensors(path)
    classifier = getattr(timm.get_pretrained_cfg(full_name), "classifier", None)
    head = classifier[0] if isinstance(classifier, tuple) else classifier
    weight = tensors.get(f"{head}.weight")
    options = {} if weight is None else {"num_classes": len(weight)}
    overlay = {"state_dict": tensors, "custom_load": False, **options}

    def build(random_state: int) -> nn.Module:
        # timm's own loader knows the older names of every architecture.
        module = build_timm(
            full_name,
            random_state=random_state,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            **options,
        )
        config: Any = module.pretrained_cfg
        config.pop("state_dict", None)  # a second copy of all tensors
        return module

    wrong = f"{name} from {path}: the weights belong to another network"
    try:
        module = build(0)
    # On foreign names timm's loaders stumble in many ways.
    except Exception as error:
        own = build_timm(full_name, **options).state_dict()
        reason = differences(own, tensors) or first_line(error)
        raise WeightsError(f"{wrong}. {reason}") from error
    # For some architectures timm tolerates missing tensors and leaves them random.
    complete = module.state_dict().keys() <= tensors.keys()
    if not complete and digest_tensors(module) != digest_tensors(build(1)):
        raise WeightsError(f"{wrong}: they do not cover all of it")
    return module


def preprocessing_of(module: nn.Module, name: str) -> Preprocessing:
    """The preprocessing that timm's own evaluation transform has for `module`."""
    data = import_optional("timm.data", extra="timm", caller=f"the preprocessing of {name!r}")
    config = data.resolve_model_data_config(module)
    channels, height, width = config["input_size"]
    mode = config["crop_mode"]
    is_cut_out = mode in ("center", "squash") and config["crop_pct"] <= 1
    if channels != 3 or height != width or not is_cut_out:
        raise BackboneNotFoundError(
            f"{name} wants input of size {config['input_size']}, crop_mode={mode!r} and "
            f"crop_pct={config['crop_pct']:g}; sktl feeds square RGB pictures cut from the centre. "
            "Pass Backbone(module, preprocessing=...) to say how else"
        )
    return Preprocessing(
        size=height,
        resize=math.floor(height / config["crop_pct"]),
        keep_aspect=mode != "squash",
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _spec(name: str, module: nn.Module, weights: str | None, digest: str) -> BackboneSpec:
    preprocessing = preprocessing_of(module, name)
    return BackboneSpec(name, "timm", weights, digest, preprocessing=preprocessing)


def _class_names(module: nn.Module) -> tuple[str, ...] | None:
    config: Any = module.pretrained_cfg
    if getattr(module, "num_classes", None) != 1000 or "in1k" not in str(config.get("tag")):
        return None
    return imagenet_class_names()


def _check_tag(timm: Any, architecture: str, tag: str) -> None:
    tags = [name.partition(".")[2] for name in timm.list_pretrained(architecture)]
    if not tags or (tag and tag not in tags):
        known = f"It has the tags {tags}; pass one of them" if tags else "Pass another backbone"
        raise WeightsError(
            f"timm has no pretrained weights {f'{architecture}.{tag}'.strip('.')!r}."
            f"{suggest(tag, tags)} {known}, the path of a file as weights=, or weights=None for "
            "random weights"
        )


def _fetch(config: Any, name: str) -> Path:
    """The weights file from the caches that timm uses, or from the network, failing at once."""
    if not config.hf_hub_id:
        return fetch_torch_hub(config.url, name)[0]
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = config.hf_hub_id.partition("@")
    where: dict[str, Any] = {"repo_id": repository, "revision": revision or None}
    filename = config.hf_hub_filename or "pytorch_model.bin"
    files = [_SAFE.get(filename, f"{filename.removesuffix('.bin')}.safetensors"), filename]
    for file in files:
        cached = try_to_load_from_cache(filename=file, **where)
        if isinstance(cached, str):
            return Path(cached)
    try:
        return _download(files, where)
    # The hub's client raises errors of its own and of the HTTP library that it is built on.
    except Exception as error:
        raise WeightsError(
            f"the weights of {name} are not in the Hugging Face cache and cannot be downloaded "
            f"from {repository}: {error}. Download them where there is a network and pass the "
            "path as weights=; weights=None asks for random weights"
        ) from error


def _download(files: list[str], where: dict[str, Any]) -> Path:
    """The first of `files` that the repository has."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    *others, last = files
    for file in others:
        with contextlib.suppress(EntryNotFoundError):
            # One quick question first: hf_hub_download would repeat it for most of a minute.
            get_hf_file_metadata(hf_hub_url(filename=file, **where), timeout=5)
            return Path(hf_hub_download(filename=file, **where))
    return Path(hf_hub_download(filename=last, **where))
