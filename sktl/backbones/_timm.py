"""The networks of timm, by name or by name and tag."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sktl.backbones._backbone import Backbone, BackboneSpec
from sktl.backbones._preprocessing import Preprocessing
from sktl.backbones._weights import (
    digest_file,
    digest_tensors,
    fetch_torch_hub,
    local_file,
    read_tensors,
)
from sktl.exceptions import BackboneNotFoundError, WeightsError
from sktl.utils._optional import import_optional

__all__ = ["build_timm", "list_timm", "load_timm", "preprocessing_of"]


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
    architecture = name.removeprefix("timm/")
    if not timm.is_model(architecture.partition(".")[0]):
        raise BackboneNotFoundError(f"timm has no network {architecture!r}")
    if weights is None:
        module = build_timm(architecture, random_state=random_state)
        return Backbone(module, _spec(name, module, None, digest_tensors(module)))
    path = local_file(weights)
    label = str(path)
    if path is None:
        tag = os.fspath(weights)
        if tag != "default":
            architecture = f"{architecture.partition('.')[0]}.{tag}"
        config = _config(timm, architecture, name)
        path = _fetch(config, name)
        label = config.tag or "default"
    tensors = read_tensors(path)  # also refuses what is damaged, before timm sees it
    classifier = getattr(timm.get_pretrained_cfg(architecture), "classifier", None)
    head = classifier[0] if isinstance(classifier, tuple) else classifier
    weight = tensors.get(f"{head}.weight")
    options = {} if weight is None else {"num_classes": int(weight.shape[0])}
    try:
        module = timm.create_model(
            architecture,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(path), **options},
            **options,
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{name} from {path}: the weights belong to another network: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    return Backbone(module, _spec(name, module, label, digest_file(path)))


def build_timm(architecture: str, *, random_state: int = 0, **options: Any) -> nn.Module:
    """A timm network with random weights that are the same every time."""
    timm = import_optional("timm", extra="timm", caller=f"the timm network {architecture!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        module: nn.Module = timm.create_model(architecture, pretrained=False, **options)
    return module


def preprocessing_of(module: nn.Module, name: str) -> Preprocessing:
    """The preprocessing that timm's own evaluation transform has for `module`."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(module)
    channels, height, width = config["input_size"]
    mode = config["crop_mode"]
    if channels != 3 or height != width or mode not in ("center", "squash"):
        raise BackboneNotFoundError(
            f"{name} wants input of size {config['input_size']} and crop_mode={mode!r}; sktl feeds "
            "square RGB pictures cut from the centre. Pass Backbone(module, preprocessing=...) "
            "to say how else"
        )
    return Preprocessing(
        size=height,
        resize=math.floor(height / config["crop_pct"]),
        keep_aspect=mode != "squash",
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )


def _spec(name: str, module: nn.Module, weights: str | None, digest: str) -> BackboneSpec:
    config: Any = module.pretrained_cfg
    return BackboneSpec(
        name,
        "timm",
        weights,
        digest,
        config.get("license") if weights else None,
        preprocessing_of(module, name),
        _class_names(module) if weights else None,
    )


def _class_names(module: nn.Module) -> tuple[str, ...] | None:
    if getattr(module, "num_classes", None) != 1000:
        return None
    if "in1k" not in str(module.pretrained_cfg.get("tag", "")):  # type: ignore[operator,union-attr]
        return None
    from sktl.backbones._imagenet import imagenet_class_names

    return imagenet_class_names()


def _config(timm: Any, architecture: str, name: str) -> Any:
    try:
        config = timm.get_pretrained_cfg(architecture, allow_unregistered=False)
    except RuntimeError:
        config = None
    if config is None or not (config.hf_hub_id or config.url):
        known = [n.partition(".")[2] for n in timm.list_pretrained(f"{name[5:].partition('.')[0]}")]
        raise WeightsError(
            f"timm has no pretrained weights {architecture!r}; it has the tags {known}. Pass the "
            "path of a file as weights=, or weights=None for random weights"
        )
    return config


def _fetch(config: Any, name: str) -> Path:
    """The weights file from the caches that timm uses, or from the network, failing at once."""
    if not config.hf_hub_id:
        return fetch_torch_hub(config.url, name)[0]
    import httpx
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository, _, revision = config.hf_hub_id.partition("@")
    wanted = {"repo_id": repository, "revision": revision or None}
    names = ("model.safetensors", config.hf_hub_filename or "pytorch_model.bin")
    for filename in names:
        cached = try_to_load_from_cache(filename=filename, **wanted)
        if isinstance(cached, str):
            return Path(cached)
    try:
        # One quick question first: the hub's client would retry for most of a minute.
        httpx.head(hf_hub_url(filename=names[0], **wanted), timeout=5)
        try:
            return Path(hf_hub_download(filename=names[0], **wanted))
        except HfHubHTTPError:
            return Path(hf_hub_download(filename=names[1], **wanted))
    except (OSError, httpx.HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise WeightsError(
            f"the weights of {name} are not in the Hugging Face cache and cannot be downloaded "
            f"from {repository}: {error}. Download them where there is a network and pass the "
            "path as weights=; weights=None asks for random weights"
        ) from error
