"""The way from a collection of pictures to the numbers of a network's layers."""

from sktl.engine._extract import extract
from sktl.engine._features import compute_features
from sktl.engine._forward import Batch
from sktl.engine._network import Network
from sktl.engine._prepare import prepare
from sktl.engine._recipe import Recipe
from sktl.engine._resolve_store import resolve_store
from sktl.engine._store import FeatureStore, default_store_path

__all__ = [
    "Batch",
    "FeatureStore",
    "Network",
    "Recipe",
    "compute_features",
    "default_store_path",
    "extract",
    "prepare",
    "resolve_store",
]
