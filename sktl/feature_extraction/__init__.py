"""Pretrained networks as transformers."""

from sktl.feature_extraction._cnn_features import CNNFeatures

__all__ = ["CNNFeatures"]
