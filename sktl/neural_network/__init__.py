"""Classifiers of pictures that are networks as a whole."""

from sktl.neural_network._cnn_classifier import CNNClassifier
from sktl.neural_network._find_lr import LearningRateDisplay, find_lr
from sktl.neural_network._imagenet_classifier import ImageNetClassifier
from sktl.neural_network._overfit_check import OverfitReport, overfit_check

__all__ = [
    "CNNClassifier",
    "ImageNetClassifier",
    "LearningRateDisplay",
    "OverfitReport",
    "find_lr",
    "overfit_check",
]
