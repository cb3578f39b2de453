"""Image transfer learning inside scikit-learn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from sktl.backbones import list_backbones as list_backbones
    from sktl.backbones import load_backbone as load_backbone
    from sktl.backbones import register_backbone as register_backbone
    from sktl.datasets import load_image_folder as load_image_folder
    from sktl.datasets import load_image_table as load_image_table
    from sktl.engine import FeatureStore as FeatureStore
    from sktl.feature_extraction import CNNFeatures as CNNFeatures
    from sktl.images import as_images as as_images
    from sktl.inspection import error_table as error_table
    from sktl.metrics import make_top_k_scorer as make_top_k_scorer
    from sktl.neural_network import CNNClassifier as CNNClassifier
    from sktl.neural_network import ImageNetClassifier as ImageNetClassifier
    from sktl.self_supervised import CPCFeatures as CPCFeatures
    from sktl.self_supervised import LinearProbe as LinearProbe
    from sktl.training import Phase as Phase

# Public name -> the package that holds it, imported when the name is first used.
_HOME = {
    "CNNClassifier": "neural_network",
    "CNNFeatures": "feature_extraction",
    "CPCFeatures": "self_supervised",
    "FeatureStore": "engine",
    "ImageNetClassifier": "neural_network",
    "LinearProbe": "self_supervised",
    "Phase": "training",
    "as_images": "images",
    "error_table": "inspection",
    "list_backbones": "backbones",
    "load_backbone": "backbones",
    "load_image_folder": "datasets",
    "load_image_table": "datasets",
    "make_top_k_scorer": "metrics",
    "register_backbone": "backbones",
}
_PACKAGES = (
    "backbones",
    "datasets",
    "engine",
    "exceptions",
    "export",
    "feature_extraction",
    "images",
    "inspection",
    "linear_model",
    "metrics",
    "model_selection",
    "neural_network",
    "nn",
    "self_supervised",
    "training",
    "utils",
)

__all__ = [*_HOME, *_PACKAGES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"sktl.{_HOME[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"sktl.{name}")
    raise AttributeError(f"module 'sktl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
