"""Small networks without published weights, for training from scratch."""

from __future__ import annotations

import os

from sktl.backbones._backbone import Backbone, BackboneSpec
from sktl.backbones._preprocessing import Preprocessing
from sktl.backbones._weights import (
    digest_file,
    digest_tensors,
    load_tensors,
    local_file,
    read_tensors,
    seeded,
)
from sktl.exceptions import WeightsError
from sktl.nn.scratch import SCRATCH

__all__ = ["list_scratch", "load_scratch"]


def list_scratch() -> list[str]:
    """Names of the networks."""
    return list(SCRATCH)


def load_scratch(
    name: str,
    weights: str | os.PathLike[str] | None,
    random_state: int,
    image_size: int | None = None,
) -> Backbone:
    """A network with random weights, or those of a local file."""
    build, usual_size = SCRATCH[name]
    size = usual_size if image_size is None else int(image_size)
    with seeded(random_state):
        module = build(size)
    digest = None
    if weights is not None:
        path = local_file(weights)
        if path is None:
            raise WeightsError(
                f"{name} has no weights {os.fspath(weights)!r}: it is trained from scratch. Pass "
                "weights=None for random ones, or the path of a file"
            )
        load_tensors(module, read_tensors(path), f"{name} from {path}")
        digest = digest_file(path)
    # The whole picture is squeezed into a square; there is no border to be cut off.
    preprocessing = Preprocessing(size=size, resize=size, keep_aspect=False)
    label = None if weights is None else os.fspath(weights)
    return Backbone(
        module,
        BackboneSpec(
            name, "scratch", label, digest or digest_tensors(module), preprocessing=preprocessing
        ),
    )
