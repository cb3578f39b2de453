"""Scores that rank classes, and of those that should not have been predicted."""

from sktl.metrics._out_of_subset import make_out_of_subset_scorer, out_of_subset_rate
from sktl.metrics._top_k import make_top_k_scorer, top_k_accuracy

__all__ = [
    "make_out_of_subset_scorer",
    "make_top_k_scorer",
    "out_of_subset_rate",
    "top_k_accuracy",
]
