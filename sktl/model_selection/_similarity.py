"""How far pictures are from those that a network was trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sktl.backbones import Backbone, load_backbone
from sktl.engine import prepare
from sktl.exceptions import ImageDecodeError, ParameterError
from sktl.images import as_images

__all__ = ["distance_to_training"]

_MOST_LOOKED_AT = 128
_BATCH = 16


def distance_to_training(X: Any, backbone: Any, random_state: int) -> float:
    """Compare the mean and deviation of channels with those in training.

    Of each channel that batch normalisation sees the squared 2-Wasserstein distance of two normal
    distributions, over the variance in training; of each layer the median; of all layers the mean.
    """
    images = as_images(X)
    if len(images) == 0:
        raise ParameterError("recommend_strategy: X has no pictures to measure.")
    chosen = np.random.default_rng(random_state).permutation(len(images))[:_MOST_LOOKED_AT]
    images = images[np.sort(chosen)]
    bad = images.check()
    if bad:
        raise ImageDecodeError(bad, len(images))
    network = load_backbone(backbone)
    norms = [module for module in network.module.modules() if _has_statistics(module)]
    if not norms:
        raise ParameterError(
            f"recommend_strategy: {network.name} has no batch normalisation, whose statistics the "
            "pictures are compared with: pass another backbone, or say what similarity is."
        )
    with _moments(norms) as moments:
        for start in range(0, len(images), _BATCH):
            some = range(start, min(start + _BATCH, len(images)))
            _forward(network, [images.decode(i) for i in some])
    layers = [_distance(norms[i], total / len(images)) for i, total in moments.items()]
    return float(np.mean(layers))


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


@contextlib.contextmanager
def _moments(norms: list[nn.Module]) -> Iterator[dict[int, torch.Tensor]]:
    """Sums over pictures of the mean, and of the mean square, of each channel: (2, C) by layer."""
    sums: dict[int, torch.Tensor] = {}

    def add(number: int, x: torch.Tensor) -> None:
        x = x.double().reshape(*x.shape[:2], -1)  # (N, C, positions)
        both = torch.stack([x.mean(2), x.square().mean(2)]).sum(1)
        sums[number] = sums.get(number, 0) + both.cpu()

    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs, i=i: add(i, inputs[0]))
        for i, norm in enumerate(norms)
    ]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _forward(network: Backbone, pictures: list[npt.NDArray[np.uint8]]) -> None:
    seen = network.preprocessing
    pixels = np.concatenate([prepare(Image.fromarray(picture), seen) for picture in pictures])
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (seen.mean, seen.std))
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (N, H, W, 3) -> (N, 3, H, W)
    with torch.inference_mode():
        network.module(((x - mean) / std).to(next(network.module.parameters())))


def _distance(norm: Any, moments: torch.Tensor) -> float:
    mean, square = moments
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    of_mean, of_variance = norm.running_mean.double().cpu(), norm.running_var.double().cpu()
    squared = (mean - of_mean).square() + (deviation - of_variance.sqrt()).square()
    return float((squared / of_variance.clamp_min(1e-12)).median())
