"""Small networks that are trained from scratch, in PyTorch's plain blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from sktl.exceptions import ParameterError

__all__ = ["SCRATCH", "basic5", "lenet", "small3"]


def basic5(size: int, n_out: int = 10) -> nn.Sequential:
    """Five convolutions, each with max pooling, and a batch-normalised dense output.

    3 x 3 convolutions of stride 1 with 16, 32, 64, 128 and 256 filters and ReLU, each followed by
    2 x 2 max pooling.

    Parameters
    ----------
    size : int
        Side of the pictures, in pixels; at least 32.
    n_out : int, default=10
        Number of outputs.

    Returns
    -------
    network : nn.Sequential
        (N, 3, size, size) to (N, n_out).

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import basic5
    >>> basic5(64)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """
    layers = _convolutions((16, 32, 64, 128, 256), kernel=3, padding=1)
    n_flat = _n_flat(layers, size)
    layers["flatten"] = nn.Flatten()
    layers["norm"] = nn.BatchNorm1d(n_flat)
    layers["output"] = nn.Linear(n_flat, n_out)
    return nn.Sequential(layers)


def small3(size: int, n_out: int = 10) -> nn.Sequential:
    """Three convolutions, a dense layer with dropout, and an output.

    3 x 3 convolutions without padding with 32, 32 and 64 filters and ReLU, each followed by 2 x 2
    max pooling; a dense layer of 64 with ReLU and dropout of 0.5.

    Parameters
    ----------
    size : int
        Side of the pictures, in pixels; at least 22.
    n_out : int, default=10
        Number of outputs.

    Returns
    -------
    network : nn.Sequential
        (N, 3, size, size) to (N, n_out).

    References
    ----------
    F. Chollet, "Building powerful image classification models using very little data", The Keras
    Blog, 2016.

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import small3
    >>> small3(64)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """
    layers = _convolutions((32, 32, 64), kernel=3, padding=0)
    n_flat = _n_flat(layers, size)
    layers["flatten"] = nn.Flatten()
    layers["dense"] = nn.Linear(n_flat, 64)
    layers["dense_relu"] = nn.ReLU()
    layers["dropout"] = nn.Dropout(0.5)
    layers["output"] = nn.Linear(64, n_out)
    return nn.Sequential(layers)


def lenet(size: int, n_out: int = 10) -> nn.Sequential:
    """LeNet-5 with ReLU and max pooling: 5 x 5 convolutions, then dense layers of 120 and 84.

    Parameters
    ----------
    size : int
        Side of the pictures, in pixels; at least 16.
    n_out : int, default=10
        Number of outputs.

    Returns
    -------
    network : nn.Sequential
        (N, 3, size, size) to (N, n_out).

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document
    Recognition", Proceedings of the IEEE 86(11), 1998.

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import lenet
    >>> lenet(32)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    layers = _convolutions((6, 16), kernel=5, padding=0)
    n_flat = _n_flat(layers, size)
    layers["flatten"] = nn.Flatten()
    layers["dense1"] = nn.Linear(n_flat, 120)
    layers["dense1_relu"] = nn.ReLU()
    layers["dense2"] = nn.Linear(120, 84)
    layers["dense2_relu"] = nn.ReLU()
    layers["output"] = nn.Linear(84, n_out)
    return nn.Sequential(layers)


SCRATCH: dict[str, tuple[Callable[[int], nn.Sequential], int]] = {
    "basic5": (basic5, 128),
    "lenet": (lenet, 32),
    "small3": (small3, 150),
}
"""Name -> what builds the network for a picture size, and the size that it is known with."""


def _convolutions(
    filters: tuple[int, ...], *, kernel: int, padding: int
) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    n_in = 3
    for i, n_filters in enumerate(filters, start=1):
        layers[f"conv{i}"] = nn.Conv2d(n_in, n_filters, kernel, padding=padding)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        n_in = n_filters
    return layers


def _n_flat(layers: OrderedDict[str, nn.Module], size: int) -> int:
    """How many numbers the convolutions leave of a picture."""
    x = torch.empty((1, 3, size, size), device="meta")
    try:
        for layer in layers.values():
            # Shapes only: the layer itself stays where it is.
            x = torch.func.functional_call(
                layer, {name: p.to("meta") for name, p in layer.named_parameters()}, (x,)
            )
    except RuntimeError as error:
        raise ParameterError(
            f"pictures of {size} x {size} pixels are too small for {len(layers) // 3} "
            "convolutions with pooling; pass a larger image_size"
        ) from error
    return x[0].numel()
