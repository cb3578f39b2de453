"""Linear classifiers that are fast on the features of a network."""

from sktl.linear_model._logistic_probe import LogisticProbe

__all__ = ["LogisticProbe"]
