"""Weights files: found, checked, read, and put into a network; never replaced by random ones."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import re
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sktl.exceptions import ParameterError, WeightsError
from sktl.utils._optional import import_optional

__all__ = [
    "StateDict",
    "add_tensor",
    "differences",
    "digest_file",
    "digest_tensors",
    "fetch_torch_hub",
    "first_line",
    "hash_prefix",
    "load_tensors",
    "local_file",
    "read_tensors",
    "renamed",
    "seeded",
]

StateDict = OrderedDict[str, torch.Tensor]
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_REMEDY = (
    'Put the file there, or pass weights="path/to/file.pth" (or .safetensors); '
    "weights=None asks for random weights"
)


@contextlib.contextmanager
def seeded(random_state: int) -> Iterator[None]:
    """Seed torch's CPU generator, and put it back; the generators of GPUs are left alone."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(int(random_state))
    try:
        yield
    finally:
        generator.set_state(before)


def digest_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tensors(module: nn.Module) -> str:
    """SHA-256 of the names, shapes, dtypes and values of all parameters and buffers.

    Also of what modules save beside them as their extra state.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            add_tensor(digest, name, value)
        else:
            digest.update(f"{name} ".encode() + _pickled(value))
    return digest.hexdigest()


def digest_learnt(module: nn.Module) -> str:
    """SHA-256 of all that training changes: parameters, and statistics of normalisations.

    Other buffers may be written to by every forward pass, such as those that count them.
    """
    norms = {
        f"{path}.{name}": buffer
        for path, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
        for name, buffer in part.named_buffers(recurse=False)
    }
    digest = hashlib.sha256()
    for name, value in sorted({**dict(module.named_parameters()), **norms}.items()):
        add_tensor(digest, name, value)
    return digest.hexdigest()


class _Pickler(pickle.Pickler):
    """Pickles that are alike for equal things: tensors by their digests."""

    def persistent_id(self, value: Any) -> str | None:
        if not isinstance(value, torch.Tensor):
            return None
        digest = hashlib.sha256()
        add_tensor(digest, "", value)
        return digest.hexdigest()


def _pickled(value: Any) -> bytes:
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.fast = True  # without references to what came before, by which equal things differ
    pickler.dump(value)
    return file.getvalue()


def add_tensor(digest: Any, name: str, tensor: torch.Tensor) -> None:
    """Put name, dtype, shape and values of a tensor into a digest."""
    values = tensor.detach().cpu().contiguous()
    digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
    if values.is_quantized:
        values = values.dequantize()
    digest.update(values.view(-1).view(torch.uint8).numpy() if values.numel() else b"")


def hash_prefix(url: str) -> str:
    """The first digits of a file's SHA-256, where its name ends in them; else ""."""
    found = re.search(r"-([0-9a-f]{8,})\.\w+$", url)
    return found[1] if found else ""


def fetch_torch_hub(url: str, what: str) -> tuple[Path, str]:
    """The file behind `url`, in torch.hub's folder, with its SHA-256.

    Where the file's name tells how its digest starts, a file that does not match is refused,
    whether it was just downloaded or lay there already.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    prefix = hash_prefix(url)
    if not path.exists():
        try:
            # One quick question first: torch.hub would wait for a silent network without end.
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:  # no network; a file with another digest
            raise WeightsError(
                f"the weights {what} are not at {path} and cannot be downloaded from {url}: "
                f"{error}. {_REMEDY}"
            ) from error
    digest = digest_file(path)
    if not digest.startswith(prefix):
        raise WeightsError(
            f"the file {path} is not the weights {what}: its SHA-256 starts with {digest[:8]}, "
            f"not {prefix}. Delete it, so that it is downloaded again, or pass the path of a good "
            "copy as weights="
        )
    return path, digest


def local_file(weights: str | os.PathLike[str]) -> Path | None:
    """The whole path if `weights` is meant as a file; an error if that file is not there."""
    if not isinstance(weights, (str, os.PathLike)):
        raise ParameterError(
            "weights must be a string, a path or None, as in weights='IMAGENET1K_V1'; "
            f"got {weights!r}"
        )
    text = os.fspath(weights)
    path = Path(text).expanduser()
    looks_like_path = (
        isinstance(weights, os.PathLike)
        or path.suffix.lower() in _SUFFIXES
        or "/" in text
        or os.sep in text
    )
    if not looks_like_path:
        return None
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path.absolute()}")
    return path.absolute()


def read_tensors(path: str | os.PathLike[str], own: Collection[str] = ()) -> StateDict:
    """The state dict in a .safetensors or torch file; no code in the file is run.

    Wrappers that training scripts add (``{"state_dict": ...}``, ``module.``, ``_orig_mod.``) are
    taken off, but for those in the network's `own` names.

    Raises
    ------
    WeightsError
        If the file is damaged or holds anything but tensors.
    """
    path = Path(path)
    read: Callable[[Path], Any]
    if path.suffix.lower() == ".safetensors":
        library = import_optional("safetensors.torch", extra="timm", caller="a .safetensors file")
        read = library.load_file
    else:
        read = _load_tensors_only
    try:
        content = read(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds more than tensors. Save the weights with "
            "torch.save(net.state_dict(), path)"
        ) from error
    # Damaged files fail in every layer of the formats, with whatever that layer stumbles over.
    except Exception as error:
        raise WeightsError(f"{path} cannot be read: {first_line(error)}") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not (
        isinstance(content, Mapping)
        and content
        and all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        raise WeightsError(f"{path} does not hold a state dict (names and tensors)")
    wrapper = re.compile(r"^(module|_orig_mod)\.")
    tensors = renamed(content, str)
    while not set(tensors) <= set(own) and any(map(wrapper.match, tensors)):
        tensors = renamed(tensors, lambda name: wrapper.sub("", name))
    return tensors


def renamed(tensors: Mapping[str, torch.Tensor], rename: Callable[[str], str]) -> StateDict:
    """A state dict under other names, with the versions that torch keeps beside the tensors.

    Modules read their version there to know the meaning of what they load.
    """
    result = OrderedDict((rename(name), tensor) for name, tensor in tensors.items())
    versions = getattr(tensors, "_metadata", {})
    # The names in there are of modules, without the dot that ends them in names of tensors.
    result._metadata = {  # type: ignore[attr-defined]
        rename(f"{name}.").removesuffix("."): version for name, version in versions.items()
    }
    return result


def load_tensors(module: nn.Module, tensors: StateDict, what: str) -> None:
    """Copy `tensors` into `module`; every one must find its place, and every place its tensor."""
    if not getattr(tensors, "_metadata", None):
        # A .safetensors file has no versions. The network's own is taken, for those that insist
        # on one (MNASNet); their parts do without.
        version = module.state_dict()._metadata[""]  # type: ignore[attr-defined]
        tensors = OrderedDict(tensors)
        tensors._metadata = {"": version}  # type: ignore[attr-defined]
    own = module.state_dict()
    # Files from before 2018 have no counters; torch fills them in.
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    refusal = WeightsError(
        f"{what}: the weights belong to another network. {differences(own, tensors)}"
    )
    # Before the network sees them: MNASNet rebuilds itself for what looks like an old file.
    if own.keys() - counters != tensors.keys() - counters:
        raise refusal
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise refusal from error


def differences(own: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    """What keeps tensors from their places, by the first names of each kind."""
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    kinds = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - own.keys()),
        "wrong shape": shapes,
    }
    return "; ".join(
        f"{kind} {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    )


def _load_tensors_only(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def first_line(error: Exception) -> str:
    """What an error says, without the details that torch and timm add below."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
