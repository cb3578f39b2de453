"""The classes of ImageNet-1k, in the order of the outputs of the networks trained on it."""

from __future__ import annotations


def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 names as torchvision keeps them beside its weights."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
