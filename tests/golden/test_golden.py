"""Features of a photograph through packaged weights, as they were when first verified.

They were stored after the network had been seen to reach 88.3 % top-1 accuracy on 248 pictures
of ImageNet. Rewrite them, with a reason in the changelog, by running this file as a script.
"""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from sktl import CNNFeatures

FILE = Path(__file__).with_name("efficientnet_lite.npz")
BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def compute(backbone):
    return CNNFeatures(backbone, precision="exact", store=None).transform(
        load_sample_images().images
    )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_features_are_what_they_were(backbone):
    expected = np.load(FILE)[backbone].astype(np.float32)
    features = compute(backbone)
    distance = np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert distance.max() < 1e-3, "float16 keeps three digits; decoders differ by less"


if __name__ == "__main__":
    np.savez_compressed(FILE, **{name: compute(name).astype(np.float16) for name in BACKBONES})
