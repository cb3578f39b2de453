"""Classifiers of pictures that are networks as a whole."""

from sktl.neural_network._cnn_classifier import CNNClassifier

__all__ = ["CNNClassifier"]
