import matplotlib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sktl import CNNFeatures
from sktl.backbones import Backbone, Preprocessing
from sktl.backbones._weights import seeded


@pytest.fixture(autouse=True)
def closed_figures():
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture
def pictures():
    """Twelve pictures of 40 x 40: four dark, four red, four bright."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 90, (12, 40, 40, 3), dtype=np.uint8)
    X[4:8, :, :, 0] += 120
    X[8:] += 160
    return X, np.repeat(["dark", "red", "white"], 4)


@pytest.fixture(scope="session")
def backbone():
    with seeded(0):
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        )
    return Backbone(net, preprocessing=Preprocessing(size=32, resize=36))


@pytest.fixture
def pipeline(backbone, pictures):
    features = CNNFeatures(backbone, store=None, precision="exact")
    return make_pipeline(features, StandardScaler(), LogisticRegression()).fit(*pictures)
