"""Named networks with their weights, preprocessing, stages and heads."""

from sktl.backbones._backbone import Backbone, BackboneSpec, Stage
from sktl.backbones._feature_network import FeatureNetwork
from sktl.backbones._preprocessing import Preprocessing
from sktl.backbones._registry import (
    clear_loaded,
    list_backbones,
    load_backbone,
    register_backbone,
)

__all__ = [
    "Backbone",
    "BackboneSpec",
    "FeatureNetwork",
    "Preprocessing",
    "Stage",
    "clear_loaded",
    "list_backbones",
    "load_backbone",
    "register_backbone",
]
