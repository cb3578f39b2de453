"""Pictures drawn for each part: exact numbers of every class, groups kept whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sktl.exceptions import ParameterError

__all__ = ["TEST", "TRAIN", "UNUSED", "VALID", "Indices", "draw_parts"]

Indices = npt.NDArray[np.intp]

UNUSED, TRAIN, VALID, TEST = range(4)
_ATTEMPTS = 100
_SHOWN = 5


def draw_parts(
    labels: Indices,
    group: Indices,
    quota: Indices,
    classes: Sequence[Any],
    rng: np.random.RandomState,
) -> Indices:
    """Draw the part of each picture.

    Parameters
    ----------
    labels : ndarray of shape (n_images,), dtype int
        Position of each picture's class in `classes`.
    group : ndarray of shape (n_images,), dtype int
        Pictures of one group come into one part.
    quota : ndarray of shape (4, n_classes), dtype int
        Number of pictures of each class in each part; the column sums are what the classes have.
    classes : sequence
        Names of the classes, for messages.
    rng : RandomState
        Draws.

    Returns
    -------
    part : ndarray of shape (n_images,), dtype int
        UNUSED, TRAIN, VALID or TEST.

    Raises
    ------
    ParameterError
        If no way is found to keep both the numbers and the groups.
    """
    # Classes that share no group are drawn apart, so that one which is hard to make exact does
    # not have all the others drawn again.
    n_classes = len(classes)
    n_nodes = n_classes + int(group.max()) + 1
    ties = coo_array(
        (np.ones(len(labels), dtype=bool), (labels, n_classes + group)), shape=(n_nodes, n_nodes)
    )
    _, component = connected_components(ties, directed=False)
    members_of = pd.Series(np.arange(len(labels))).groupby(component[labels]).indices
    part = np.empty(len(labels), dtype=np.intp)
    for members in members_of.values():
        part[members] = _draw_together(labels[members], group[members], quota, classes, rng)
    return part


def _draw_together(
    labels: Indices,
    group: Indices,
    quota: Indices,
    classes: Sequence[Any],
    rng: np.random.RandomState,
) -> Indices:
    """Go through the groups in random order: each comes to the first part that has room for it."""
    own, labels = np.unique(labels, return_inverse=True)
    _, group = np.unique(group, return_inverse=True)
    table = np.zeros((group.max() + 1, len(own)), dtype=np.intp)  # pictures by group and class
    np.add.at(table, (group, labels), 1)
    part_of_group = np.empty(len(table), dtype=np.intp)
    for _ in range(_ATTEMPTS):
        room = quota[:, own].copy()
        for g in rng.permutation(len(table)):
            for part in (TEST, VALID, TRAIN, UNUSED):
                if (table[g] <= room[part]).all():
                    room[part] -= table[g]
                    part_of_group[g] = part
                    break
            else:
                break
        else:
            return part_of_group[group]
    named = ", ".join(repr(classes[c]) for c in own[:_SHOWN])
    more = f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
    raise ParameterError(
        f"PerClassSplit: no way was found to give each part its number of pictures of {named}{more}"
        f" with groups kept whole; the largest of {len(table)} groups has "
        f"{int(table.sum(axis=1).max())} pictures. Ask for other numbers, or pass no groups"
    )
