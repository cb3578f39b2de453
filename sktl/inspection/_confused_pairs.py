"""Which class is taken for which."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sktl.exceptions import ParameterError
from sktl.inspection._pictures import known_labels
from sktl.utils._parameters import require_one_kind

__all__ = ["confused_pairs"]


def confused_pairs(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> pd.DataFrame:
    """Count how often each class is taken for each other, most often first.

    Parameters
    ----------
    y_true : array-like of shape (n_images,)
        True labels.
    y_pred : array-like of shape (n_images,)
        Predicted labels.

    Returns
    -------
    pairs : DataFrame
        One row for each pair that occurs: `truth`, `prediction`, `count`, and `share`, the part
        of the pictures of the true class. The off-diagonal entries of
        :func:`sklearn.metrics.confusion_matrix` that are not 0.

    Raises
    ------
    ParameterError
        If the lengths or the types of labels differ, or labels are missing.

    Examples
    --------
    >>> from sktl.inspection import confused_pairs
    >>> confused_pairs(["cat", "cat", "dog", "dog"], ["dog", "dog", "dog", "cat"])
      truth prediction  count  share
    0   cat        dog      2    1.0
    1   dog        cat      1    0.5
    """
    truth = np.asarray(y_true)
    if truth.ndim != 1:
        raise ParameterError(f"y_true must have one label a picture; got shape {truth.shape}")
    truth = known_labels(y_true, len(truth), "y_true")
    prediction = known_labels(y_pred, len(truth), "y_pred")
    require_one_kind(y_true=truth, y_pred=prediction)
    frame = pd.DataFrame({"truth": truth, "prediction": prediction})
    wrong: pd.DataFrame = frame[truth != prediction]
    pairs = wrong.groupby(["truth", "prediction"]).size().reset_index(name="count")
    n_of_class: Any = frame["truth"].value_counts()
    # Of no pairs at all, pandas makes an empty column of strings.
    pairs["share"] = pairs["count"] / pairs["truth"].map(n_of_class).astype(float)
    return pairs.sort_values("count", ascending=False, kind="stable", ignore_index=True)
