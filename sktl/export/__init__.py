"""Fitted models on disk: to be loaded without pickle, or to be run without Python."""

from sktl.export._onnx import export_onnx
from sktl.export._save import load, save

__all__ = ["export_onnx", "load", "save"]
