"""The classes of ImageNet-1k, in the order of the outputs of the networks trained on it."""

from __future__ import annotations

from sktl.datasets._imagenet_classes import imagenet_classes


def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 names as torchvision keeps them beside its weights."""
    return tuple(imagenet_classes().values())
