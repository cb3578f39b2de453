"""The way from a collection of pictures to the numbers of a network's layers."""

from sktl.engine._extract import Recipe, extract
from sktl.engine._prepare import prepare

__all__ = ["Recipe", "extract", "prepare"]
