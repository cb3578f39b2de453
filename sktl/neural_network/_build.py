"""The network of a classifier: built from its parameters, and put to use."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sktl.backbones import Backbone, BackboneSpec, Preprocessing, load_backbone
from sktl.backbones._weights import seeded
from sktl.engine import Network, Recipe, compute_features, resolve_store
from sktl.engine._network import may_learn, spec_now
from sktl.exceptions import ImageDecodeError
from sktl.images import ImageCollection
from sktl.nn.heads import make_head
from sktl.nn.pooling import pooled_shape
from sktl.training._net import TransferSkorchNet
from sktl.training._network import TransferNet, put_tensors
from sktl.utils._float32 import full_float32
from sktl.utils._torch import resolve_device

if TYPE_CHECKING:
    from sktl.neural_network._cnn_classifier import CNNClassifier

__all__ = [
    "Built",
    "bare_network",
    "build",
    "described_spec",
    "has_trunk",
    "logits_of",
    "preprocessing_of",
]

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


def has_trunk(state: dict[str, torch.Tensor]) -> bool:
    """Whether trained tensors are also those of the trunk, which had learnt."""
    return any(name.startswith("trunk.") for name in state)


@dataclass
class Built:
    """A network with its head, and what belongs to it.

    Attributes
    ----------
    net : TransferSkorchNet
        Initialised.
    module : TransferNet
        The network itself.
    preprocessing : Preprocessing
        What it sees.
    spec : BackboneSpec
        Of the backbone it was made from.
    found : BackboneSpec
        Of the backbone as it was when this was built, which may have learnt since the fit.
    has_learnt : bool
        Whether the trunk differs from that backbone.
    """

    net: TransferSkorchNet
    module: TransferNet
    preprocessing: Preprocessing
    spec: BackboneSpec
    found: BackboneSpec
    _stored: Network | None
    has_learnt: bool = False
    _whole: Backbone | None = field(default=None, repr=False)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put trained tensors into the network."""
        self.module.cut = None
        put_tensors(self.module, state)
        self.module.eval()
        self.has_learnt = has_trunk(state)
        self._whole = None

    @property
    def stored(self) -> Network | None:
        """That backbone in the feature store.

        None if it has random weights, or is an object of the caller's that has learnt meanwhile.
        """
        if self._stored is None or self._stored.alias:
            return self._stored
        return self._stored if self._stored.spec_now().digest == self.spec.digest else None

    @property
    def whole(self) -> Backbone:
        """Network and head as one backbone."""
        if self._whole is None:
            self.module.eval()
            self._whole = Backbone(self.module, preprocessing=self.preprocessing)
        return self._whole

    @property
    def backbone(self) -> Backbone:
        """The network as it is by now."""
        name = self.spec.name.rpartition("/")[2]
        return Backbone(self.module.network, preprocessing=self.preprocessing, name=name)


def build(
    estimator: CNNClassifier, seed: int, statistics: Statistics | None, n_classes: int
) -> Built:
    """The network that the parameters describe, untrained.

    Parameters
    ----------
    estimator : CNNClassifier
    seed : int
        Of the head, and of random weights.
    statistics : tuple of mean and std, or None
        Of the normalisation; None for those of the weights.
    n_classes : int

    Returns
    -------
    built : Built
    """
    backbone = _backbone(estimator, seed)
    spec = _spec_of(estimator, backbone)
    preprocessing = preprocessing_of(estimator, backbone)
    if statistics is not None:
        preprocessing = replace(preprocessing, mean=statistics[0], std=statistics[1])
    (shape,) = backbone.shapes([estimator.layer], preprocessing.size)
    with seeded(seed):
        head = make_head(
            int(np.prod(pooled_shape(shape, estimator.pooling))),  # type: ignore[arg-type]
            n_classes,
            estimator.head,
            dropout=estimator.dropout,
            batch_norm=estimator.batch_norm,
        )
    module = TransferNet(backbone, estimator.layer, estimator.pooling, head)  # type: ignore[arg-type]
    net = TransferSkorchNet(
        module,
        criterion=nn.CrossEntropyLoss,
        train_split=None,
        callbacks=estimator.callbacks,
        callbacks__print_log=None,
        device=str(resolve_device(estimator.device)),
        compile=estimator.compile,
        verbose=int(estimator.verbose),
    ).initialize()
    stored = None
    if estimator.weights is not None and statistics is None:
        known = isinstance(estimator.backbone, str)
        stored = Network(
            estimator.backbone if known else backbone,
            estimator.weights if known else "default",
            resolve_store(estimator.store),
        )
    return Built(net, module, preprocessing, spec, spec, stored)


def described_spec(estimator: CNNClassifier, seed: int) -> BackboneSpec:
    """Facts about the backbone that the parameters describe, as it is by now."""
    return _spec_of(estimator, _backbone(estimator, seed))


def bare_network(estimator: CNNClassifier) -> TransferNet:
    """The network without a head, to find out about its parts."""
    backbone = _backbone(estimator, 0)
    return TransferNet(backbone, estimator.layer, estimator.pooling, nn.Identity())  # type: ignore[arg-type]


def preprocessing_of(estimator: CNNClassifier, backbone: Backbone | None = None) -> Preprocessing:
    """What the network of an estimator sees, by its parameters and weights alone."""
    backbone = backbone or _backbone(estimator, 0)
    return backbone.preprocessing.at_size(estimator.image_size)


def logits_of(
    estimator: CNNClassifier, built: Built, images: ImageCollection
) -> npt.NDArray[np.float32]:
    """Logits of pictures.

    Features of a trunk that has not learnt come from the feature store, where they are.

    Parameters
    ----------
    estimator : CNNClassifier
    built : Built
    images : ImageCollection of length n

    Returns
    -------
    logits : ndarray of shape (n, n_classes), dtype float32

    Raises
    ------
    ImageDecodeError
        If some pictures cannot be read.
    """
    stored = None if built.has_learnt or estimator.crops != "center" else built.stored
    if stored is not None:
        network, layer, pooling = stored, str(estimator.layer), estimator.pooling
    else:
        network, layer, pooling = Network(built.whole, "default", None), "head", "avg"
    device = resolve_device(estimator.device)
    (values,), bad = compute_features(
        images,
        network,
        Recipe((layer,), pooling, estimator.image_size, estimator.crops, estimator.precision),  # type: ignore[arg-type]
        network.store,
        batch_size=estimator.batch_size,
        device=device,
        n_jobs=estimator.n_jobs,
        progress=bool(estimator.verbose),
    )
    if bad:
        raise ImageDecodeError(bad, len(images))
    if stored is None:
        return values
    built.module.eval()
    with torch.inference_mode(), full_float32(device.type):
        logits: npt.NDArray[np.float32] = (
            built.module.head(torch.from_numpy(values).to(device)).cpu().numpy()
        )
    return logits


def _spec_of(estimator: CNNClassifier, backbone: Backbone) -> BackboneSpec:
    return spec_now(backbone) if may_learn(estimator.backbone) else backbone.spec


def _backbone(estimator: CNNClassifier, seed: int) -> Backbone:
    return load_backbone(
        estimator.backbone,
        estimator.weights,
        random_state=seed,
        image_size=estimator.image_size,
    )
