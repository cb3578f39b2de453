import time

import httpx2
import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import RemoteEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from sktl.backbones import Preprocessing, _timm, load_backbone
from sktl.backbones import _weights as weights_module
from sktl.backbones._timm import build_timm, preprocessing_of
from sktl.backbones._weights import digest_file, digest_tensors
from sktl.exceptions import BackboneNotFoundError, WeightsError


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty Hugging Face cache."""
    folder = tmp_path / "huggingface"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return folder


def put_in_cache(folder, repository, filename, save, tensors):
    """A file where the hub's client would have left it."""
    repo = folder / f"models--{repository.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    save(tensors, snapshot / filename)
    return snapshot / filename


@pytest.mark.parametrize(
    ("filename", "save"), [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)]
)
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("timm/test_resnet", "default"),
        ("timm/test_resnet.r160_in1k", "default"),
        ("timm/test_resnet", "r160_in1k"),
        ("timm/test_resnet", "test_resnet.r160_in1k"),
    ],
)
def test_cached_weights_need_no_network(hub_cache, offline, name, weights, filename, save):
    net = build_timm("test_resnet", random_state=7)
    path = put_in_cache(hub_cache, "timm/test_resnet.r160_in1k", filename, save, net.state_dict())
    backbone = load_backbone(name, weights)
    spec = backbone.spec
    assert digest_tensors(backbone.module) == digest_tensors(net)
    assert (spec.name, spec.source, spec.weights) == (name, "timm", "r160_in1k")
    assert spec.digest == digest_file(path)
    assert spec.licence == "apache-2.0"
    assert spec.class_names[0] == "tench"
    assert len(spec.class_names) == 1000
    assert backbone.preprocessing.size == 160


def test_a_damaged_file_in_the_cache_is_refused(hub_cache, offline):
    tensors = build_timm("test_resnet").state_dict()
    path = put_in_cache(
        hub_cache, "timm/test_resnet.r160_in1k", "model.safetensors", save_file, tensors
    )
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read"):
        load_backbone("timm/test_resnet")


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/vit_tiny_patch16_224"])
def test_without_a_network_the_error_comes_at_once(hub_cache, offline, name):
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        load_backbone(name)
    assert time.perf_counter() - start < 5
    for part in (f"weights of {name} are not in the Hugging Face cache", "timm/", "weights=None"):
        assert part in str(caught.value)


def test_the_hubs_own_offline_switch(hub_cache, offline, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="offline mode is enabled"):
        load_backbone("timm/test_resnet")


def test_weights_outside_the_hub(hub_folder, offline, monkeypatch):
    net = build_timm("legacy_seresnet18", random_state=7)
    path = hub_folder / "seresnet18-4bb0ce65.pth"
    torch.save(net.state_dict(), path)
    with pytest.raises(WeightsError, match="is not the weights timm/legacy_seresnet18"):
        load_backbone("timm/legacy_seresnet18")
    monkeypatch.setattr(weights_module, "hash_prefix", lambda url: "")
    backbone = load_backbone("timm/legacy_seresnet18")
    assert digest_tensors(backbone.module) == digest_tensors(net)


def missing(url, **_):
    response = httpx2.Response(404, request=httpx2.Request("HEAD", url))
    raise RemoteEntryNotFoundError(f"404: {url}", response=response)


def test_the_older_file_is_fetched_where_the_newer_one_is_not(hub_cache, monkeypatch, tmp_path):
    net, asked = build_timm("test_resnet", random_state=7), []
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")

    def download(repo_id, filename, revision):
        asked.append((repo_id, filename, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", missing)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    backbone = load_backbone("timm/test_resnet")
    assert digest_tensors(backbone.module) == digest_tensors(net)
    assert asked == [("timm/test_resnet.r160_in1k", "pytorch_model.bin", None)]


@pytest.mark.parametrize(
    ("filename", "files"),
    [
        (None, ["model.safetensors", "pytorch_model.bin"]),
        ("open_clip_pytorch_model.bin",
         ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]),
        ("weights.bin", ["weights.safetensors", "weights.bin"]),
    ],
)  # fmt: skip
def test_files_looked_for(filename, files, hub_cache, monkeypatch):
    looked_for = []

    def look(repo_id, filename, revision):
        looked_for.append(filename)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)
    monkeypatch.setattr(_timm, "_download", lambda files, where: where["revision"])
    config = timm.get_pretrained_cfg("test_resnet")
    config.hf_hub_filename, config.hf_hub_id = filename, "timm/net@v2"
    assert _timm._fetch(config, "timm/net") == "v2"
    assert looked_for == files


@pytest.mark.parametrize(
    ("name", "weights", "reason"),
    [
        ("timm/resnet18", "a1_in2k", r"weights 'resnet18\.a1_in2k'\. Did you mean 'a1_in1k'"),
        (
            "timm/resnet18.a1_in2k",
            "default",
            r"Did you mean 'a1_in1k'.*It has the tags \['a1_in1k'",
        ),
        ("timm/resnet18.a1_in2k", None, "Did you mean 'a1_in1k'"),
        ("timm/mixer_s32_224", "default", "no pretrained weights 'mixer_s32_224'. Pass another"),
    ],
)
def test_unknown_tags_bring_those_that_exist(name, weights, reason):
    with pytest.raises(WeightsError, match=reason):
        load_backbone(name, weights)


def test_a_tag_decides_the_preprocessing_of_random_weights():
    plain, tagged = (
        load_backbone(f"timm/{name}", None).preprocessing
        for name in ("mobilenetv3_small_050", "test_resnet.r160_in1k")
    )
    assert (plain.size, plain.resize) == (224, 256)
    assert (tagged.size, tagged.resize) == (160, 168)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "dla46_c"]
)
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_file_with_seven_classes(name, save, tmp_path):
    net = build_timm(name, random_state=7, num_classes=7)
    path = tmp_path / ("a.pth" if save is torch.save else "a.safetensors")
    save(net.state_dict(), path)
    backbone = load_backbone(f"timm/{name}", path)
    assert digest_tensors(backbone.module) == digest_tensors(net)
    assert backbone.head.weight.shape[0] == 7
    spec = backbone.spec
    assert (spec.weights, spec.digest) == (str(path), digest_file(path))
    assert (spec.licence, spec.class_names) == (None, None)


def test_a_file_with_two_heads(tmp_path):
    net = build_timm("deit_tiny_distilled_patch16_224", random_state=7, num_classes=7)
    torch.save({"model": nn.DataParallel(net).state_dict()}, tmp_path / "a.pth")
    backbone = load_backbone("timm/deit_tiny_distilled_patch16_224", tmp_path / "a.pth")
    assert digest_tensors(backbone.module) == digest_tensors(net)
    assert backbone.head is backbone.module.head


def test_a_local_file_for_an_architecture_whose_published_files_are_of_numpy(tmp_path):
    """Its configuration asks for a loader that cannot read anything else."""
    assert timm.get_pretrained_cfg("vit_tiny_patch16_224").custom_load
    net = build_timm("vit_tiny_patch16_224", random_state=7)
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    backbone = load_backbone("timm/vit_tiny_patch16_224", tmp_path / "a.safetensors")
    assert digest_tensors(backbone.module) == digest_tensors(net)
    assert backbone.class_names is None, "a file of unknown origin has classes of its own"


def test_names_that_only_timm_knows_to_translate(tmp_path):
    """The ConvNeXt of its authors, with the names that they gave."""
    net = build_timm("convnext_atto", random_state=7)
    old = {}
    for name, tensor in net.state_dict().items():
        name = name.replace("stem.0", "downsample_layers.0.0").replace(
            "stem.1", "downsample_layers.0.1"
        )
        name = name.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        for i in range(4):
            name = name.replace(f"stages.{i}.downsample", f"downsample_layers.{i}")
            name = name.replace(f"stages.{i}.blocks", f"stages.{i}")
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        old[name] = tensor
    torch.save({"model": old}, tmp_path / "a.pth")
    backbone = load_backbone("timm/convnext_atto", tmp_path / "a.pth")
    assert digest_tensors(backbone.module) == digest_tensors(net)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "convnext_atto", "dla46_c"])
def test_the_weights_of_another_network_are_refused(name, tmp_path):
    torch.save(build_timm("test_efficientnet").state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=rf"timm/{name} from .*other\.pth: .*another network"):
        load_backbone(f"timm/{name}", tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_of_the_sets_in_a_checkpoint_the_one_that_is_read_everywhere_is_loaded(name, tmp_path):
    net = build_timm(name, random_state=7, num_classes=7)
    averaged = {key: tensor * 2 for key, tensor in build_timm(name).state_dict().items()}
    torch.save({"state_dict": net.state_dict(), "state_dict_ema": averaged}, tmp_path / "a.pth")
    backbone = load_backbone(f"timm/{name}", tmp_path / "a.pth")
    assert digest_tensors(backbone.module) == digest_tensors(net)
    torch.save({"model_state_dict": net.state_dict()}, tmp_path / "b.pth")
    backbone = load_backbone(f"timm/{name}", tmp_path / "b.pth")
    assert digest_tensors(backbone.module) == digest_tensors(net)
    assert "state_dict" not in backbone.module.pretrained_cfg


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop("bn1.bias"), r"missing 1 \(bn1\.bias\)$"),
        (lambda tensors: tensors.update(a=torch.ones(1)), r"unknown 1 \(a\)$"),
        (
            lambda tensors: tensors.update({"bn1.bias": torch.ones(2)}),
            r"wrong shape 1 \(bn1\.bias \(2,\) instead of",
        ),
    ],
)
def test_a_refusal_says_what_differs(change, told, tmp_path):
    tensors = build_timm("test_resnet").state_dict()
    change(tensors)
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"another network\. {told}"):
        load_backbone("timm/test_resnet", tmp_path / "a.pth")


def test_what_timm_would_leave_random_is_refused(tmp_path):
    tensors = build_timm("dla46_c").state_dict()
    incomplete = {k: v for k, v in tensors.items() if not k.startswith("level3.")}
    timm.create_model(
        "dla46_c", pretrained=True, pretrained_cfg_overlay={"state_dict": incomplete}
    )  # timm does not mind
    torch.save(incomplete, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="do not cover all of it"):
        load_backbone("timm/dla46_c", tmp_path / "a.pth")


def test_the_preprocessing_is_that_of_timms_transform():
    squash = build_timm("test_resnet")
    squash.pretrained_cfg.update(crop_mode="squash", crop_pct=0.9, interpolation="lanczos")
    assert preprocessing_of(squash, "net") == Preprocessing(
        160, 177, False, "lanczos", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": (1, 160, 160)},
        {"input_size": (3, 160, 96)},
        {"crop_mode": "border"},
        {"crop_pct": 1.15},
    ],
)
def test_inputs_that_are_not_supported_are_refused(change):
    net = build_timm("test_resnet")
    net.pretrained_cfg.update(change)
    with pytest.raises(BackboneNotFoundError, match=r"Backbone\(module, preprocessing="):
        load_backbone(net)


def test_licences_of_research_weights_are_told(hub_cache, offline):
    name = "timm/resnet18.fb_swsl_ig1b_ft_in1k"
    tensors = build_timm("resnet18").state_dict()
    put_in_cache(hub_cache, name, "model.safetensors", save_file, tensors)
    spec = load_backbone("timm/resnet18", "fb_swsl_ig1b_ft_in1k").spec
    assert spec.licence == "cc-by-nc-4.0"
    assert spec.class_names[0] == "tench"


def test_networks_of_other_classes_have_no_names_of_imagenet(hub_cache, offline):
    net = build_timm("convnext_nano.in12k")
    assert net.num_classes == 11821
    put_in_cache(
        hub_cache, "timm/convnext_nano.in12k", "model.safetensors", save_file, net.state_dict()
    )
    assert load_backbone("timm/convnext_nano.in12k").class_names is None
