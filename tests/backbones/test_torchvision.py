import hashlib
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models.regnet import BlockParams

from sktl.backbones import (
    Backbone,
    BackboneSpec,
    Preprocessing,
    _torchvision,
    list_backbones,
    load_backbone,
)
from sktl.backbones import _weights as weights_module
from sktl.backbones._anatomy import torchvision_anatomy
from sktl.backbones._weights import digest_file, digest_tensors, hash_prefix, seeded
from sktl.exceptions import WeightsError

NAMES = list_backbones(source="torchvision")
WITH_AUXILIARY_HEADS = ("inception_v3", "googlenet")


def build(name, **options):
    """The library's own, with statistics that show whether they were loaded."""
    if name in WITH_AUXILIARY_HEADS:
        options = {"init_weights": False, "transform_input": True, "aux_logits": True, **options}
    with seeded(0):
        net = models.get_model(name, weights=None, **options)
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.3, 0.3)
                part.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture
def on_meta(monkeypatch):
    """Networks without numbers; RegNet computes its widths with tensors, which need some."""
    original = BlockParams.from_init_params.__func__

    def with_numbers(cls, *args, **kwargs):
        with torch.device("cpu"):
            return original(cls, *args, **kwargs)

    monkeypatch.setattr(BlockParams, "from_init_params", classmethod(with_numbers))
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_of_every_network_are_known(name, on_meta):
    options = {"init_weights": False, "aux_logits": False} if name in WITH_AUXILIARY_HEADS else {}
    net = models.get_model(name, weights=None, **options)
    anatomy = torchvision_anatomy(net)
    assert anatomy is not None
    net.get_submodule(anatomy.bottleneck)
    linear = [path for path, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert anatomy.head == linear[-1]
    head = net.get_submodule(anatomy.head)
    assert head.weight.shape[0] == 1000
    if isinstance(head, nn.Conv2d):
        assert head.kernel_size == (1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_has_a_digest_a_licence_and_a_preprocessing(name):
    for entry in models.get_model_weights(name):
        assert re.fullmatch("[0-9a-f]{8,}", hash_prefix(entry.url)), entry.url
        licence = "CC-BY-NC-4.0" if "swag" in entry.url.lower() else "BSD-3-Clause"
        assert _torchvision._licence(entry) == licence
        preprocessing, preset = _torchvision.preprocessing_of(entry), entry.transforms()
        assert [preprocessing.size] == preset.crop_size
        assert [preprocessing.resize] == preset.resize_size
        assert preprocessing.keep_aspect


@pytest.mark.parametrize(
    ("name", "n_bottleneck", "n_penultimate"),
    [
        ("alexnet", 256, 4096),
        ("vgg19", 512, 4096),
        ("densenet201", 1920, 1920),
        ("inception_v3", 2048, 2048),
        ("googlenet", 1024, 1024),
        ("resnet50", 2048, 2048),
        ("mobilenet_v3_large", 960, 1280),
        ("efficientnet_b7", 2560, 2560),
        ("vit_l_32", 1024, 1024),
        ("swin_v2_b", 1024, 1024),
        ("maxvit_t", 512, 512),
        ("regnet_y_16gf", 3024, 3024),
        ("shufflenet_v2_x2_0", 2048, 2048),
    ],
)
def test_numbers_of_features(name, n_bottleneck, n_penultimate, on_meta):
    options = {"init_weights": False, "aux_logits": False} if name in WITH_AUXILIARY_HEADS else {}
    net = models.get_model(name, weights=None, **options)
    preprocessing = _torchvision.preprocessing_of(models.get_model_weights(name).DEFAULT)
    spec = BackboneSpec(name, "torchvision", None, "", preprocessing=preprocessing)
    shapes = Backbone(net, spec).shapes(["bottleneck", "penultimate"])
    assert [shape[0] for shape in shapes] == [n_bottleneck, n_penultimate]


@pytest.mark.parametrize(
    "name", ["resnet18", "mnasnet0_5", "regnet_y_400mf", "shufflenet_v2_x0_5", "googlenet"]
)
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_file_with_seven_classes(name, save, tmp_path):
    net = build(name, num_classes=7)
    path = tmp_path / ("a.pth" if save is torch.save else "a.safetensors")
    save(net.state_dict(), path)
    backbone = load_backbone(name, path)
    x = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(x), net(x))
    assert backbone.head.weight.shape[0] == 7
    assert backbone.spec.digest == digest_file(path)
    assert backbone.spec.weights == str(path)
    assert (backbone.spec.licence, backbone.class_names) == (None, None)


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_b0", "swin_t"])
def test_a_file_with_seven_classes_of_other_families(name, tmp_path):
    with seeded(0):
        net = models.get_model(name, weights=None, num_classes=7)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    backbone = load_backbone(name, tmp_path / "a.pth")
    assert digest_tensors(backbone.module) == digest_tensors(net)


@pytest.mark.parametrize("name", WITH_AUXILIARY_HEADS)
@pytest.mark.parametrize("auxiliary", [None, 7, 1000])
def test_auxiliary_heads_are_left_out(name, auxiliary, tmp_path):
    """Whether the file has them or not, and whether their classes were replaced too or not."""
    net = build(name, num_classes=auxiliary or 7, aux_logits=auxiliary is not None)
    net.fc = nn.Linear(net.fc.in_features, 7)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    backbone = load_backbone(name, tmp_path / "a.pth")
    x = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(x), net(x))
    assert not any(key.lower().startswith("aux") for key in backbone.module.state_dict())


def test_older_names_of_densenet(tmp_path):
    net = build("densenet121")
    tensors = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))(\d)", r"\1.\2", key): value
        for key, value in net.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in tensors
    torch.save(tensors, tmp_path / "a.pth")
    backbone = load_backbone("densenet121", tmp_path / "a.pth")
    assert digest_tensors(backbone.module) == digest_tensors(net)


def test_a_wrapped_checkpoint(tmp_path):
    net = build("mnasnet0_5")
    checkpoint = {"state_dict": nn.DataParallel(net).state_dict(), "epoch": 3}
    torch.save(checkpoint, tmp_path / "checkpoint.pth.tar")
    backbone = load_backbone("mnasnet0_5", tmp_path / "checkpoint.pth.tar")
    assert digest_tensors(backbone.module) == digest_tensors(net)


def test_a_vision_transformer_trained_on_pictures_of_another_size(tmp_path):
    with seeded(0):
        net = models.vit_b_32(weights=None, image_size=96, num_classes=7).eval()
    torch.save(net.state_dict(), tmp_path / "a.pth")
    backbone = load_backbone("vit_b_32", tmp_path / "a.pth")
    assert backbone.preprocessing == Preprocessing().at_size(96)
    with torch.inference_mode():
        x = torch.rand(1, 3, 96, 96)
        torch.testing.assert_close(backbone.module(x), net(x))


def test_the_entry_that_suits_a_local_file(tmp_path):
    tensors = {
        "encoder.pos_embedding": torch.empty(1, 577, 768),
        "conv_proj.weight": torch.empty(768, 3, 16, 16),
    }
    find = _torchvision._entry_of_file
    entry, published = find("vit_b_16", tmp_path / "mine.pth", "0", tensors)
    assert (entry.name, published) == ("IMAGENET1K_SWAG_E2E_V1", False)
    entry, published = find("resnet50", tmp_path / "resnet50-11ad3fa6.pth", "0", {})
    assert (entry.name, published) == ("IMAGENET1K_V2", False)
    entry, published = find("resnet50", tmp_path / "mine.pth", "11ad3fa6" + "0" * 56, {})
    assert (entry.name, published) == ("IMAGENET1K_V2", True)
    entry, published = find("resnet50", tmp_path / "mine.pth", "0", {})
    assert (entry.name, published) == ("IMAGENET1K_V1", False)


def test_the_largest_vision_transformer_is_consistent(on_meta, monkeypatch):
    """Its only entries are for other sizes than what torchvision builds by default."""
    monkeypatch.setattr(_torchvision, "digest_tensors", lambda module: "")
    backbone = _torchvision.load_torchvision("vit_h_14", None, 0)
    assert backbone.preprocessing.size == backbone.module.image_size
    assert backbone.shapes(["bottleneck"]) == [(1280,)]


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mnasnet0_5"])
def test_the_weights_of_another_network_are_refused(name, tmp_path):
    torch.save(build("mobilenet_v3_small").state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=rf"{name} from .*other\.pth: .*another network"):
        load_backbone(name, tmp_path / "other.pth")


def test_an_unknown_entry_brings_the_one_probably_meant():
    with pytest.raises(WeightsError) as caught:
        load_backbone("resnet50", "IMAGENET1K_V3")
    for part in (
        "resnet50 has no weights",
        "Did you mean 'IMAGENET1K_V",
        "'IMAGENET1K_V2'",
        "None",
    ):
        assert part in str(caught.value)


@pytest.fixture
def cached(hub_folder, monkeypatch):
    """The file of squeezenet1_1's entry in torch.hub's folder, with a digest that is accepted."""
    net = build("squeezenet1_1")
    path = hub_folder / "squeezenet1_1-b8a52dc0.pth"
    torch.save(net.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for module in (weights_module, _torchvision):
        monkeypatch.setattr(module, "hash_prefix", lambda url: digest[:8])
    return net, path


@pytest.mark.parametrize(
    "entry", ["default", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", "local"]
)
def test_a_published_file_is_known_for_what_it_is(cached, entry, offline):
    net, path = cached
    backbone = load_backbone("squeezenet1_1", path if entry == "local" else entry)
    spec = backbone.spec
    assert digest_tensors(backbone.module) == digest_tensors(net)
    assert spec.digest == digest_file(path)
    assert spec.weights == (str(path) if entry == "local" else "IMAGENET1K_V1")
    assert spec.licence == "BSD-3-Clause"
    assert spec.class_names[:2] == ("tench", "goldfish")
    assert len(spec.class_names) == 1000


def test_a_cached_file_with_a_wrong_digest_is_refused(hub_folder, offline):
    path = hub_folder / "squeezenet1_1-b8a52dc0.pth"
    torch.save(build("squeezenet1_1").state_dict(), path)
    with pytest.raises(WeightsError, match=r"is not the weights squeezenet1_1 IMAGENET1K_V1"):
        load_backbone("squeezenet1_1")


def test_without_a_network_there_are_no_weights(hub_folder, offline):
    for entry in ("default", "IMAGENET1K_V1"):
        with pytest.raises(WeightsError, match=r"resnet18 IMAGENET1K_V1 are not at .*weights=None"):
            load_backbone("resnet18", entry)


def test_random_weights_have_the_preprocessing_of_the_default_entry():
    backbone = load_backbone("mobilenet_v2", None)
    assert backbone.preprocessing == Preprocessing(size=224, resize=232)
    assert (backbone.spec.source, backbone.spec.weights) == ("torchvision", None)
