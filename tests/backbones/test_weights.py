import copy
import hashlib
import pickle
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sktl.backbones._weights import (
    digest_file,
    digest_tensors,
    fetch_torch_hub,
    hash_prefix,
    load_tensors,
    local_file,
    read_tensors,
    seeded,
)
from sktl.exceptions import ParameterError, WeightsError


class Versioned(nn.Linear):
    """Insists on knowing its version, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get("version") != 2:
            raise ValueError("no version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def small(seed=0):
    with seeded(seed):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def assert_same_tensors(tensors, module):
    expected = module.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors"])
def test_the_tensors_of_a_file_are_read(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(small().state_dict(), path)
    assert_same_tensors(read_tensors(path), small())


def test_a_file_of_the_old_torch_format_is_read(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(small().state_dict(), path, _use_new_zipfile_serialization=False)
    assert_same_tensors(read_tensors(path), small())


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_training_checkpoint_is_unwrapped(tmp_path, key):
    checkpoint = {key: small().state_dict(), "epoch": 3, "optimizer": {"lr": 0.1}, "note": "best"}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert_same_tensors(read_tensors(tmp_path / "checkpoint.pth"), small())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    tensors = {f"{prefix}{name}": tensor for name, tensor in small().state_dict().items()}
    torch.save(tensors, tmp_path / "wrapped.pth")
    assert_same_tensors(read_tensors(tmp_path / "wrapped.pth"), small())


def test_a_module_called_module_inside_the_network_keeps_its_name(tmp_path):
    torch.save({"body.module.weight": torch.ones(1)}, tmp_path / "a.pth")
    assert list(read_tensors(tmp_path / "a.pth")) == ["body.module.weight"]


class Wrapped(nn.Module):
    """Calls a part of its own as the wrappers do."""

    def __init__(self, seed=0):
        super().__init__()
        self.module = nn.Sequential(small(seed), Versioned(2, 2))
        self.weight = nn.Parameter(torch.full((1,), float(seed)))


@pytest.mark.parametrize(
    "wrap", [lambda net: net, nn.DataParallel, lambda net: nn.DataParallel(nn.DataParallel(net))]
)
def test_names_of_the_network_itself_are_no_wrappers(tmp_path, wrap):
    net, again = Wrapped(1), Wrapped()
    torch.save(wrap(net).state_dict(), tmp_path / "a.pth")
    load_tensors(again, read_tensors(tmp_path / "a.pth", again.state_dict()), "net")
    assert_same_tensors(again.state_dict(), net)


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel])
def test_versions_of_modules_survive_reading(tmp_path, wrap):
    net = nn.Sequential(Versioned(2, 2))
    torch.save(wrap(net).state_dict(), tmp_path / "a.pth")
    again = nn.Sequential(Versioned(2, 2))
    load_tensors(again, read_tensors(tmp_path / "a.pth"), "net")
    assert_same_tensors(again.state_dict(), net)


def test_the_own_version_stands_in_where_the_file_has_none(tmp_path):
    save_file(Versioned(2, 2).state_dict(), tmp_path / "a.safetensors")
    load_tensors(Versioned(2, 2), read_tensors(tmp_path / "a.safetensors"), "net")


def test_files_older_than_num_batches_tracked_still_load():
    net, tensors = small(1), small(0).state_dict()
    plain = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    load_tensors(net, plain, "net")
    assert_same_tensors(net.state_dict(), small(0))


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-10],
        lambda raw: raw[:100],
        lambda raw: b"<html>404: not found</html>",
        lambda raw: np.random.default_rng(0).bytes(2000),
        lambda raw: b"PK\x03\x04" + raw[50:],
    ],
    ids=["empty", "half", "end", "header", "html", "noise", "zip"],
)
@pytest.mark.parametrize("suffix", [".pth", ".old.pth", ".safetensors"])
def test_a_damaged_file_is_refused_by_name(tmp_path, suffix, damage):
    path = tmp_path / f"damaged{suffix}"
    if suffix == ".safetensors":
        save_file(small().state_dict(), path)
    else:
        zipped = suffix == ".pth"
        torch.save(small().state_dict(), path, _use_new_zipfile_serialization=zipped)
    raw = path.read_bytes()
    path.write_bytes(damage(raw))
    with pytest.raises(WeightsError, match=r"damaged.*(cannot be read|is damaged)"):
        read_tensors(path)


def test_no_kind_of_damage_escapes(tmp_path):
    rng = np.random.default_rng(0)
    path, original = tmp_path / "x.pth", tmp_path / "a.pth"
    torch.save(small().state_dict(), original, _use_new_zipfile_serialization=False)
    raw = np.frombuffer(original.read_bytes(), np.uint8)
    refused = 0
    for _ in range(200):
        bad = raw.copy()
        bad[rng.integers(0, len(raw), 6)] = rng.integers(0, 256, 6)
        path.write_bytes(bad.tobytes())
        try:
            read_tensors(path)
        except WeightsError:
            refused += 1
    assert refused > 100


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, 2))])
def test_code_in_a_file_is_not_run(tmp_path, save):
    save({"weight": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        read_tensors(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_network_is_refused_with_the_remedy(tmp_path):
    torch.save(small(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"torch\.save\(net\.state_dict\(\), path\)"):
        read_tensors(tmp_path / "net.pth")


@pytest.mark.parametrize("content", [{}, [1, 2], {"a": 1}, {"a": {"b": torch.ones(1)}}, None])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="does not hold a state dict"):
        read_tensors(tmp_path / "a.pth")


def test_foreign_weights_are_refused_with_what_differs():
    tensors = {**small().state_dict(), "extra": torch.ones(1), "3.bias": torch.ones(7)}
    del tensors["1.weight"]
    net = small(1)
    with pytest.raises(WeightsError) as caught:
        load_tensors(net, tensors, "net from a.pth")
    assert str(caught.value) == (
        "net from a.pth: the weights belong to another network. missing 1 (1.weight); "
        "unknown 1 (extra); wrong shape 1 (3.bias (7,) instead of (2,))"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop("1.running_var"), r"missing 1 \(1\.running_var\)$"),
        (lambda tensors: tensors.update(a=torch.ones(1)), r"unknown 1 \(a\)$"),
        (lambda tensors: tensors.update({"3.bias": torch.ones(1)}), r"wrong shape 1 \(3\.bias"),
    ],
)
def test_a_single_tensor_too_few_or_too_many_is_refused(change, told):
    tensors = small().state_dict()
    change(tensors)
    with pytest.raises(WeightsError, match=told):
        load_tensors(small(1), tensors, "net")


def test_digests():
    net = small()
    assert digest_tensors(net) == digest_tensors(small())
    assert digest_tensors(net) != digest_tensors(small(1))
    renamed = nn.Sequential(net)
    assert digest_tensors(renamed) != digest_tensors(net)
    net.to(memory_format=torch.channels_last)
    assert digest_tensors(net) == digest_tensors(small())
    with torch.no_grad():
        net[1].running_mean[2] += 1e-6
    assert digest_tensors(net) != digest_tensors(small())


def test_digests_of_unusual_tensors():
    net = nn.Module()
    net.register_buffer("empty", torch.empty(0, 3))
    net.register_buffer("flag", torch.tensor(True))
    net.register_buffer("sixteen", torch.ones(3, dtype=torch.bfloat16))
    before = digest_tensors(net)
    net.flag = torch.tensor(False)
    assert digest_tensors(net) != before


class Extra(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.state = state

    def get_extra_state(self):
        return self.state


def test_digests_of_extra_state():
    def state(word="mean", number=1.0):
        word = "".join(list(word))  # another object every time
        return {"kinds": [word, word], "scale": (torch.tensor([number]), 3)}

    digest = digest_tensors(Extra(state()))
    assert digest == digest_tensors(Extra({"kinds": ["mean", "".join("mean")], **state()}))
    assert digest == digest_tensors(copy.deepcopy(Extra(state())))
    assert digest != digest_tensors(Extra(state(word="sum")))
    assert digest != digest_tensors(Extra(state(number=2.0)))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_digests_of_quantised_tensors():
    def quantised(scale):
        net = nn.Module()
        net.register_buffer("a", torch.quantize_per_tensor(torch.ones(3), scale, 0, torch.qint8))
        return net

    assert digest_tensors(quantised(0.1)) == digest_tensors(quantised(0.1))
    assert digest_tensors(quantised(0.1)) != digest_tensors(quantised(0.3))


def test_digest_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    assert digest_file(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()


def test_what_is_meant_as_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").touch()
    assert local_file("default") is None
    assert local_file("IMAGENET1K_V1") is None
    assert local_file("ResNet18_Weights.IMAGENET1K_V1") is None
    assert local_file("a1_in1k") is None
    for name in ("a.pth", "a.safetensors", "model.PTH", "last.pth.tar"):
        (tmp_path / name).touch()
        assert local_file(name).name == name
    (tmp_path / "weights").touch()
    assert local_file(tmp_path / "weights") == tmp_path / "weights"
    assert local_file("./weights") == tmp_path / "weights"


@pytest.mark.parametrize("weights", ["gone.pth", "./gone", "~/gone.safetensors"])
def test_a_missing_file_is_named_in_full(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"no weights file {tmp_path}/gone"):
        local_file(weights)


def test_weights_are_words_or_paths():
    with pytest.raises(ParameterError, match=r"weights must be a string.*got 3"):
        local_file(3)


def test_seeding_leaves_the_generator_where_it_was():
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
    with pytest.raises(ZeroDivisionError), seeded(4):
        torch.rand(1) / (1 // 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("resnet18-f37072fd.pth", "f37072fd"),
        ("legacy_xception-43020ad28.pth", "43020ad28"),
        ("mnasnet0.5_top1_67.823-3ffadce67e.pth", "3ffadce67e"),
        ("IN1K-vit.h.14-300e.pth.tar", ""),
        ("convnext_tiny_1k_224_ema.pth", ""),
    ],
)
def test_digest_in_a_file_name(name, prefix):
    assert hash_prefix(f"https://example.org/a-b/{name}") == prefix


def published(folder, good=True):
    """A weights file whose name tells the start of its digest, and the digest."""
    folder.mkdir()
    path = folder / "net.pth"
    torch.save(small().state_dict(), path)
    digest = digest_file(path)
    return path.rename(folder / f"net-{digest[:8] if good else '0' * 8}.pth"), digest


def test_a_good_file_is_downloaded_once(tmp_path, hub_folder, offline):
    source, digest = published(tmp_path / "server")
    assert fetch_torch_hub(source.as_uri(), "net") == (hub_folder / source.name, digest)
    source.unlink()
    assert fetch_torch_hub(source.as_uri(), "net") == (hub_folder / source.name, digest)


def test_a_file_without_a_digest_in_its_name_is_taken_as_it_is(tmp_path, hub_folder):
    source, digest = published(tmp_path / "server")
    plain = source.rename(source.with_name("convnext-tiny.pth"))
    assert fetch_torch_hub(plain.as_uri(), "net") == (hub_folder / plain.name, digest)


def test_a_download_with_another_digest_is_refused_and_not_kept(tmp_path, hub_folder):
    source, _ = published(tmp_path / "server", good=False)
    with pytest.raises(WeightsError, match=r"weights net are not at.*invalid hash value"):
        fetch_torch_hub(source.as_uri(), "net")
    assert list(hub_folder.iterdir()) == []


def test_a_cached_file_with_another_digest_is_refused(hub_folder, tmp_path):
    source, digest = published(tmp_path / "server", good=False)
    source.rename(hub_folder / source.name)
    with pytest.raises(WeightsError, match=f"starts with {digest[:8]}, not 00000000. Delete it"):
        fetch_torch_hub(source.as_uri(), "net")


def test_without_a_network_the_error_comes_at_once(hub_folder, offline):
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        fetch_torch_hub("https://download.pytorch.org/models/net-01234567.pth", "net V1")
    assert time.perf_counter() - start < 5
    for part in ("net V1", str(hub_folder), "download.pytorch.org", "weights=None", "unreachable"):
        assert part in str(caught.value)
    assert list(hub_folder.iterdir()) == []
