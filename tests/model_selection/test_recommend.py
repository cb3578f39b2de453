"""recommend_strategy: the table, and the distance by batch statistics against plain loops."""

import numpy as np
import pytest
import torch
from sklearn.base import is_classifier
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from torch import nn

from sktl import CNNClassifier, CNNFeatures, Phase
from sktl.backbones import Backbone, Preprocessing
from sktl.exceptions import ImageDecodeError, ParameterError
from sktl.model_selection import recommend_strategy


@pytest.mark.parametrize(
    ("n", "similarity", "name"),
    [
        (500, "similar", "linear_probe"),
        (20_000, "similar", "fine_tune"),
        (500, "different", "early_features"),
        (20_000, "different", "fine_tune_all"),
        (4999, "similar", "linear_probe"),
        (5000, "similar", "fine_tune"),
    ],
)
def test_the_table(n, similarity, name):
    found = recommend_strategy(n, similarity)
    assert found.name == name
    assert found.similarity == similarity
    assert found.distance is None
    names = {"Pipeline": Pipeline, "CNNFeatures": CNNFeatures, "CNNClassifier": CNNClassifier,
             "Phase": Phase, "LogisticRegression": LogisticRegression}  # fmt: skip
    assert is_classifier(eval(found.example, names))


def test_what_is_not_known():
    found = recommend_strategy(500)
    assert found.name == "linear_probe"
    assert found.similarity is None
    assert "pass X to measure it" in found.reason
    assert recommend_strategy(500, "similar", large_from=100).size == "large"


def small_network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 2),
        nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip
    preprocessing = Preprocessing(size=32, resize=32)
    pictures = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    pictures[:, :, :16] //= 2
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    x = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - mean) / std
    net.train()
    net[1].momentum = net[4].momentum = 1.0
    net(x)  # its statistics are those of these pictures
    return Backbone(net.eval(), preprocessing=preprocessing, name="small"), pictures, x


def test_the_distance_is_none_on_the_pictures_of_training():
    backbone, pictures, _ = small_network()
    found = recommend_strategy(40, X=pictures, backbone=backbone)
    assert found.distance < 1e-3
    assert found.similarity == "similar"


def test_the_distance_by_plain_loops():
    backbone, pictures, x = small_network()
    others = 255 - pictures // 3
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in (backbone.preprocessing.mean, backbone.preprocessing.std)
    )
    x = (torch.from_numpy(others).permute(0, 3, 1, 2) / 255 - mean) / std
    net, by_layer = backbone.module, []
    for number in (1, 4):
        with torch.no_grad():
            seen = net[:number](x).double()  # (N, C, H, W)
        norm, distances = net[number], []
        for channel in range(seen.shape[1]):
            values = seen[:, channel].flatten().numpy()
            m0, s0 = norm.running_mean[channel].item(), norm.running_var[channel].item() ** 0.5
            distances.append(((values.mean() - m0) ** 2 + (values.std() - s0) ** 2) / s0**2)
        by_layer.append(sorted(distances)[(len(distances) - 1) // 2])  # torch's lower median
    found = recommend_strategy(40, X=others, backbone=backbone)
    assert found.distance == pytest.approx(np.mean(by_layer), rel=1e-4)
    assert found.distance > 0.12
    assert found.similarity == "different"
    assert not net[1]._forward_pre_hooks, "a hook was left behind"


def test_photographs_are_similar_and_digits_are_not():
    photographs = recommend_strategy(500, X=load_sample_images().images)
    digits = (load_digits().images[:12] * 15.9).astype(np.uint8)
    drawn = recommend_strategy(500, X=digits)
    assert photographs.distance < 0.12 < drawn.distance
    assert drawn.name == "early_features"


def test_real_pictures(shared_data):
    roses = sorted((shared_data / "flowers" / "roses").glob("*.jpg"))[:16]
    assert recommend_strategy(16, X=roses).similarity == "similar"


def test_wrong_arguments(tmp_path):
    with pytest.raises(ParameterError, match=r"n_samples.*\n.*similarity must be 'similar'"):
        recommend_strategy(0, "alike")
    with pytest.raises(ParameterError, match="similarity must be 'similar'"):
        recommend_strategy(5, np.array(["similar"]))
    with pytest.raises(ParameterError, match="None where X is given"):
        recommend_strategy(10, "similar", X=np.zeros((2, 32, 32, 3), np.uint8))
    plain = Backbone(nn.Sequential(nn.Conv2d(3, 4, 3)), name="plain")
    with pytest.raises(ParameterError, match="no batch normalisation"):
        recommend_strategy(10, X=np.zeros((2, 32, 32, 3), np.uint8), backbone=plain)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageDecodeError, match=r"broken\.jpg"):
        recommend_strategy(10, X=[tmp_path / "broken.jpg"])
