"""What is put on top of a network's features to tell classes apart."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

__all__ = ["make_head"]


def make_head(
    n_in: int,
    n_out: int,
    hidden: Sequence[int] = (),
    *,
    dropout: float = 0.0,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Build a classifier of features: hidden layers, then a linear output.

    Parameters
    ----------
    n_in : int
        Number of features.
    n_out : int
        Number of classes.
    hidden : sequence of int, default=()
        Widths of hidden layers, each with ReLU.
    dropout : float, default=0.0
        Share of the values before the output and behind each hidden layer that are dropped.
    batch_norm : bool, default=False
        Whether hidden layers are batch-normalised before ReLU; without hidden layers, the features.

    Returns
    -------
    head : nn.Sequential
        (N, n_in) to (N, n_out), logits.

    Examples
    --------
    >>> from sktl.nn import make_head
    >>> make_head(512, 5, (256,), dropout=0.5)
    Sequential(
      (dense1): Linear(in_features=512, out_features=256, bias=True)
      (relu1): ReLU()
      (dropout1): Dropout(p=0.5, inplace=False)
      (output): Linear(in_features=256, out_features=5, bias=True)
    )
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if not hidden:
        if batch_norm:
            layers["norm"] = nn.BatchNorm1d(n_in)
        if dropout:
            layers["dropout"] = nn.Dropout(dropout)
    for i, width in enumerate(hidden, start=1):
        layers[f"dense{i}"] = nn.Linear(n_in, width)
        if batch_norm:
            layers[f"norm{i}"] = nn.BatchNorm1d(width)
        layers[f"relu{i}"] = nn.ReLU()
        if dropout:
            layers[f"dropout{i}"] = nn.Dropout(dropout)
        n_in = width
    layers["output"] = nn.Linear(n_in, n_out)
    return nn.Sequential(layers)
