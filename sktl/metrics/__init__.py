"""Scores that rank classes."""

from sktl.metrics._top_k import make_top_k_scorer, top_k_accuracy

__all__ = ["make_top_k_scorer", "top_k_accuracy"]
