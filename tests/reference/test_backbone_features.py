"""Features against the forward passes and the transforms of the libraries the networks are from.

The weights are random, so that nothing is downloaded, and the statistics of batch
normalisation are made up, so that a network in training mode would show. Where a network would
take long at its own size, both sides work at a smaller one: the transform of the library is then
built with that crop and with the resize that keeps the share of the crop.
"""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from sktl import CNNFeatures
from sktl.backbones import Backbone, BackboneSpec, clear_loaded, list_backbones, load_backbone
from sktl.backbones._torchvision import preprocessing_of

CHINA, FLOWER = (Image.fromarray(image) for image in load_sample_images().images)
PICTURES = [
    CHINA.resize((320, 214)),
    FLOWER.crop((150, 0, 350, 427)),
    CHINA.crop((200, 100, 300, 200)).rotate(90),  # smaller than what any network sees
]

OTHERS = [
    CHINA.rotate(180).crop((300, 0, 640, 300)),
    CHINA.crop((0, 0, 300, 300)),
    FLOWER.rotate(90).crop((100, 100, 400, 400)),
]
# Largest distance of the features of a picture, relative to their norm.
EXACT, AUTO = 1e-4, 5e-3

# Name -> side of the pictures; None is the network's own.
TORCHVISION = {
    "alexnet": None,
    "convnext_tiny": 96,
    "densenet121": 96,
    "densenet201": 96,
    "efficientnet_b0": None,
    "efficientnet_v2_s": 160,
    "googlenet": None,
    "inception_v3": None,
    "maxvit_t": None,
    "mnasnet0_5": None,
    "mobilenet_v2": None,
    "mobilenet_v3_large": None,
    "mobilenet_v3_small": None,
    "regnet_y_400mf": None,
    "resnet18": None,
    "resnet50": 128,
    "resnext50_32x4d": 96,
    "shufflenet_v2_x1_0": None,
    "squeezenet1_1": None,
    "swin_t": 96,
    "swin_v2_t": 96,
    "vgg11_bn": 96,
    "vgg19": 96,
    "vit_b_32": None,
    "wide_resnet50_2": 96,
}
# Name -> what forward_features gives: maps, maps with channels last, tokens, or tokens of which
# the head reads the first.
TIMM = {
    "coat_lite_tiny": "class",
    "convnext_atto": "NCHW",
    "deit_tiny_distilled_patch16_224": "class",
    "densenet121": "NCHW",
    "efficientvit_b0": "NCHW",
    "mixer_s32_224": "NLC",
    "mobilenetv3_small_050": "NCHW",
    "resnet18": "NCHW",
    "swin_tiny_patch4_window7_224": "NHWC",
    "test_mambaout": "NHWC",
    "tf_efficientnet_b0": "NCHW",
    "vit_tiny_patch16_224": "class",
    "xcit_nano_12_p16_224": "class",
}
N_FEATURES = {
    "alexnet": (256, 4096),
    "densenet201": (1920, 1920),
    "inception_v3": (2048, 2048),
    "mobilenet_v3_large": (960, 1280),
    "resnet50": (2048, 2048),
    "vgg19": (512, 4096),
}


def calibrate(net, transform):
    """Give batch normalisation the statistics of some pictures.

    With those of a new network, nothing of a picture would be left behind fifty layers; they are
    of other pictures, so that a network in training mode would show.
    """
    normalisations = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for part in normalisations:
        part.train()
        part.momentum = None  # the mean over all batches
    with torch.inference_mode():
        net(torch.stack([transform(picture) for picture in OTHERS]))
    for part in normalisations:
        part.momentum = 0.1
    net.eval()


def torchvision_layers(net, x):
    """Bottleneck and penultimate features of a picture, by the parts of the library's forward."""
    kind = type(net).__name__
    if kind == "VisionTransformer":
        tokens = net._process_input(x)
        tokens = net.encoder(torch.cat([net.class_token.expand(len(x), -1, -1), tokens], dim=1))
        return tokens[:, 0], tokens[:, 0]
    if kind == "SwinTransformer":
        maps = net.permute(net.norm(net.features(x)))
    elif kind == "DenseNet":
        maps = net.features(x).relu()
    elif kind == "MNASNet":
        maps = net.layers(x)
    elif kind == "RegNet":
        maps = net.trunk_output(net.stem(x))
    elif kind == "ShuffleNetV2":
        maps = net.maxpool(net.conv1(x))
        maps = net.conv5(net.stage4(net.stage3(net.stage2(maps))))
    elif kind == "ResNet":
        maps = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        maps = net.layer4(net.layer3(net.layer2(net.layer1(maps))))
    elif kind == "MaxVit":
        maps = net.stem(x)
        for block in net.blocks:
            maps = block(maps)
        return maps.mean((2, 3)), net.classifier[:-1](maps)
    elif kind in ("Inception3", "GoogLeNet"):
        extractor = models.feature_extraction.create_feature_extractor(
            net, ["avgpool"], suppress_diff_warning=True
        )
        pooled = extractor(x)["avgpool"].flatten(1)
        return pooled, pooled
    else:
        maps = net.features(x)
    pooled = maps.mean((2, 3))
    if kind in ("AlexNet", "VGG", "MobileNetV3"):
        return pooled, net.classifier[:-1](net.avgpool(maps).flatten(1))
    if kind == "ConvNeXt":
        return pooled, net.classifier[:-1](net.avgpool(maps))
    return pooled, pooled


def timm_layers(net, x, layout):
    """The same for timm, by the two halves of its forward."""
    trunk = net.forward_features(x)
    if layout == "class":
        bottleneck = trunk[:, 0]
    else:
        axes = {"NCHW": (2, 3), "NHWC": (1, 2), "NLC": (1,)}[layout]
        bottleneck = trunk.mean(axes)
    if hasattr(net, "head_dist"):  # of the two heads, the one for classes reads the first token
        return bottleneck, trunk[:, 0]
    return bottleneck, net.forward_head(trunk, pre_logits=True).flatten(1)


def reference(net, transform, layers):
    """Bottleneck and penultimate features, one picture at a time."""
    with torch.inference_mode():
        rows = [layers(net, transform(picture)[None]) for picture in PICTURES]
    return [torch.cat(column).numpy() for column in zip(*rows, strict=True)]


def assert_features_are(expected, backbone, **options):
    for precision, tolerance in (("exact", EXACT), ("auto", AUTO)):
        transformer = CNNFeatures(
            backbone,
            layer=["bottleneck", "penultimate"],
            precision=precision,
            store=None,
            **options,
        )
        both = transformer.fit_transform(PICTURES)
        assert both.shape[1] == sum(rows.shape[1] for rows in expected)
        for features, rows in zip(np.split(both, [expected[0].shape[1]], 1), expected, strict=True):
            assert np.isfinite(rows).all()
            apart = np.linalg.norm(rows - rows[[1, 2, 0]], axis=1) / np.linalg.norm(rows, axis=1)
            assert apart.min() > 100 * EXACT, "the network must tell the pictures apart"
            distance = np.linalg.norm(features - rows, axis=1) / np.linalg.norm(rows, axis=1)
            assert distance.max() <= tolerance


@pytest.fixture(autouse=True)
def _one_thread_and_nothing_kept():
    """On so few pictures, a second thread costs more than it gains."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
    clear_loaded()


def torchvision_network(name, transform):
    # With their published weights both of these bring their inputs to [-1, 1] themselves.
    options = (
        {"transform_input": True, "aux_logits": True, "init_weights": False}
        if name in ("inception_v3", "googlenet")
        else {}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = models.get_model(name, weights=None, **options).eval()
    calibrate(net, transform)
    return net


def torchvision_transform(entry, size):
    preset = entry.transforms()
    if size is None:
        return preset
    return ImageClassification(
        crop_size=size,
        resize_size=size * preset.resize_size[0] // preset.crop_size[0],
        interpolation=preset.interpolation,
        mean=preset.mean,
        std=preset.std,
    )


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, tmp_path):
    size, entry = TORCHVISION[name], models.get_model_weights(name).DEFAULT
    transform = torchvision_transform(entry, size)
    net = torchvision_network(name, transform)
    expected = reference(net, transform, torchvision_layers)
    if name in N_FEATURES:
        assert tuple(rows.shape[1] for rows in expected) == N_FEATURES[name]
    if sum(p.numel() for p in net.parameters()) < 40e6:
        # By the name of the file sktl knows whose preprocessing it needs.
        path = tmp_path / entry.url.rpartition("/")[2]
        torch.save(net.state_dict(), path)
        assert_features_are(expected, name, weights=path, image_size=size)
    else:
        preprocessing = preprocessing_of(entry)
        spec = BackboneSpec(name, "module", None, "", preprocessing=preprocessing)
        assert_features_are(expected, Backbone(net, spec), image_size=size)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(name).eval()
    transform = create_transform(**resolve_model_data_config(net), is_training=False)
    calibrate(net, transform)
    expected = reference(net, transform, lambda net, x: timm_layers(net, x, TIMM[name]))
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    assert_features_are(expected, f"timm/{name}", weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", list_backbones(source="packaged"))
def test_packaged(name):
    net = timm.create_model(f"tf_{name}").eval()
    net.load_state_dict(load_backbone(name).module.state_dict())
    transform = create_transform(**resolve_model_data_config(net), is_training=False)
    expected = reference(net, transform, lambda net, x: timm_layers(net, x, "NCHW"))
    assert_features_are(expected, name)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t", "convnext_tiny"])
def test_the_reference_is_what_the_librarys_head_reads(name):
    transform = torchvision_transform(models.get_model_weights(name).DEFAULT, 96)
    net, x = torchvision_network(name, transform), transform(CHINA)[None]
    heads = [part for part in net.modules() if isinstance(part, nn.Linear)]
    with torch.inference_mode():
        torch.testing.assert_close(heads[-1](torchvision_layers(net, x)[1]), net(x))
