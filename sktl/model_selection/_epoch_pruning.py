"""Pruning by epoch: a network that does not promise much is not trained to its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import skorch

from sktl.exceptions import ParameterError
from sktl.neural_network import CNNClassifier

__all__ = ["EpochPruning", "check_epochs", "watch_epochs"]

_METRIC = "valid_top1"


def watch_epochs(estimator: Any, trial: optuna.Trial, fold: int) -> None:
    """Let the network in an estimator report its epochs to a trial."""
    network = _network(estimator)
    parameters = network.get_params(deep=True)
    n_epochs = sum(
        value
        for name, value in parameters.items()
        if name.startswith("phases__") and name.endswith("__epochs")
    )
    past = trial.user_attrs.get("best_epochs", [])
    callback = EpochPruning(trial, fold * n_epochs, past)
    network.set_params(callbacks=[*(network.callbacks or ()), callback])


def check_epochs(estimator: Any) -> None:
    """Raise a ParameterError where there is nothing to prune by."""
    if _network(estimator).validation is None:
        raise ParameterError(
            "prune_by='epoch' looks at the validation accuracy of the CNNClassifier, which has "
            "validation=None: give it a share, such as 0.2, or pass prune_by='fold'."
        )


def _network(estimator: Any) -> CNNClassifier:
    parts = [estimator, *estimator.get_params(deep=True).values()]
    found = {id(part): part for part in parts if isinstance(part, CNNClassifier)}
    if len(found) != 1:
        raise ParameterError(
            "prune_by='epoch' needs an estimator with one CNNClassifier in it; "
            f"{type(estimator).__name__} has {len(found)}. Pass prune_by='fold'."
        )
    (network,) = found.values()
    return network


class EpochPruning(skorch.callbacks.Callback):
    """Reports the validation accuracy of each epoch, and stops where Optuna says so.

    What is reported is the mean, over the folds so far, of the best accuracy up to the epoch: that
    of the weights that are kept. Steps are epochs, counted over phases and folds. Where a fold fits
    the network several times, such as to refit it, the first fit alone is reported.
    """

    def __init__(self, trial: optuna.Trial, first_step: int, past: list[float]) -> None:
        self.trial, self.first_step, self.past = trial, first_step, past
        self.n_reported, self.is_first_fit = 0, True

    def __sklearn_clone__(self) -> EpochPruning:
        """Itself: a trial cannot be copied."""
        return self

    def __deepcopy__(self, memo: Any) -> EpochPruning:
        return self

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Look at the epoch before, whose record is complete only now."""
        if self._report(net) and self.trial.should_prune():
            raise optuna.TrialPruned(f"after epoch {self.n_reported} of fold {len(self.past)}")

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Report the last epoch of a phase."""
        self._report(net)

    def _report(self, net: Any) -> bool:
        values = [row[_METRIC] for row in net.history if _METRIC in row]
        self.is_first_fit &= len(values) >= self.n_reported  # another begins without epochs
        if not self.is_first_fit or len(values) == self.n_reported:
            return False
        self.n_reported = len(values)
        bests = [*self.past, max(values)]
        self.trial.report(float(np.mean(bests)), self.first_step + len(values) - 1)
        self.trial.set_user_attr("best_epochs", bests)
        return True
