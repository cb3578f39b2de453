"""Pictures in, features of a pretrained network out."""

from __future__ import annotations

import copy
import math
import numbers
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sktl.engine import FeatureStore, Network, Recipe, compute_features, resolve_store
from sktl.engine._network import require_same
from sktl.engine._recipe import PRECISIONS
from sktl.engine._runtime import RUNTIMES, check_runtime
from sktl.exceptions import (
    BadImageWarning,
    ImageDecodeError,
    describe_bad_images,
)
from sktl.images import ImageCollection, ImageEstimatorMixin
from sktl.nn.pooling import POOLINGS, Pooling, pooled_shape
from sktl.utils._parameters import ParameterChecks
from sktl.utils._portable import PortableMixin
from sktl.utils._torch import resolve_device

if TYPE_CHECKING:
    import torch

    from sktl.backbones import Backbone
    from sktl.engine._recipe import Precision
    from sktl.engine._runtime import Runtime

__all__ = ["CNNFeatures"]

Layer = str | int


class CNNFeatures(PortableMixin, ImageEstimatorMixin, TransformerMixin, BaseEstimator):
    """Features of pictures from a layer of a pretrained network.

    A transformer without anything to learn: it works unfitted, and `fit` only checks what can be
    checked early and records the number of features. The network always runs in eval mode, so
    that the features of a picture depend neither on the batch size nor on its neighbours.

    Parameters
    ----------
    backbone : str, nn.Module, Backbone or fitted estimator, default="efficientnet_lite0"
        The network: a name from :func:`sktl.list_backbones`, a network of your own (ImageNet's
        preprocessing is assumed), a :class:`sktl.backbones.Backbone` that says what its
        preprocessing is, or an estimator whose network is to be reused. Where estimators are
        cloned, as in cross-validation, pass the latter's `encoder_` or `backbone_`.
    weights : str, Path or None, default="default"
        ``"default"``, a named weights entry (``"IMAGENET1K_V1"``), a local ``.safetensors`` or
        ``.pth`` file, or None for random weights. Only for a backbone given by name.
    layer : str, int or list of these, default="bottleneck"
        ``"bottleneck"``: the last feature maps, before any fully connected layer (what Keras
        calls ``include_top=False``; 512 numbers for vgg19). ``"penultimate"``: the input of the
        last linear layer (4096 for vgg19; for most networks the same as the bottleneck). A stage,
        by index (``-2``) or name; the path of any module; or a list of them, whose features are
        concatenated.
    pooling : {"avg", "max", "avgmax", "gem", "flatten", "none"}, default="avg"
        How feature maps become features; see :func:`sktl.nn.pool`. "none" gives an array of shape
        (n_images, channels, height, width), for a single layer. Layers that are vectors already
        are not pooled; of a sequence of tokens the network's own class token is taken where it
        has one, else all tokens are pooled.
    image_size : int, default=None
        Side of the square that the network sees, in pixels. By default that of the weights.
    crops : {"center", "ten"}, default="center"
        "ten" averages the features over the four corners and the centre, each also mirrored:
        ten times the work.
    batch_size : int, default=64
        Pictures held and forwarded at once. It does not change the features.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    precision : {"auto", "exact", "bf16"}, default="auto"
        "exact" repeats the reference transform and the plain float32 forward pass of the
        library that the network comes from. "auto" is faster and stays within 5e-3 of it
        (relative L2 norm of a picture's features). "bf16" computes with 8 bits of mantissa, lets
        PyTorch resize and decodes large JPEG pictures at a part of their size: for devices that
        are faster at it, and for classifiers that do not mind some per cent.
    n_jobs : int, default=None
        Number of shards computed in parallel by joblib; each worker loads the network. One
        process uses all cores already: this is for spreading over processes, machines and GPUs,
        on which the shards take turns unless `device` names one of them.
    runtime : {"auto", "torch", "compile", "onnxruntime", "openvino"}, default="auto"
        What runs the network. "auto" is PyTorch; on a CPU, for as many pictures as are worth it,
        it goes on with OpenVINO, or else ONNX Runtime, if that is installed (extras `openvino` and
        `onnx`) and turns out to be faster. Matrix units (AMX) are used by OpenVINO alone. For bf16
        on a CPU, it is OpenVINO where that is installed and the network is given by its name.
        "compile" is what torch.compile makes of the network, which takes a minute or more at
        first. The features are the same to the rounding of `precision`, and shared through the
        store; those of bf16 among runs of one runtime.
    store : {"default", "memory"}, str, Path, FeatureStore or None, default="default"
        Where features are kept, so that no picture is forwarded twice: the user's cache folder,
        the memory of this process, the path of a file, a :class:`sktl.FeatureStore`, or nowhere.
    image_shape : tuple of 2 or 3 ints, default=None
        Shape of one picture, for flattened rows only; see :func:`sktl.as_images`.
    value_range : tuple of 2 floats, default=None
        Values of black and white in arrays; see :func:`sktl.as_images`.
    background : str or tuple of 3 ints, default="white"
        Colour behind transparent pixels.
    on_error : {"raise", "nan"}, default="raise"
        What becomes of pictures that cannot be read: one error that names them all, or rows of
        NaN and one warning that names them all.
    verbose : int, default=0
        If not 0, a progress bar is shown for work of more than three seconds.

    Attributes
    ----------
    n_features_out_ : int
        Number of features.
    backbone_spec_ : BackboneSpec
        Name, weights, digest, licence and preprocessing of the network.
    value_range_ : tuple of 2 floats
        Values of black and white. Only defined for flattened rows.
    n_features_in_ : int
        Number of columns. Only defined when X is a table.
    feature_names_in_ : ndarray of str
        Names of the columns. Only defined when X is a DataFrame with column names.

    Raises
    ------
    ImageDecodeError
        If some pictures cannot be read. The features of the others are in its `features`, unless
        their headers are bad already, which is found out before any work.
    WeightsError
        If the weights cannot be had or do not fit.

    Notes
    -----
    A pickle holds the parameters, not the pretrained weights of a network given by name.
    Estimators in one process share one copy of such a network.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import CNNFeatures
    >>> features = CNNFeatures("resnet18", weights=None)  # random weights, for the example
    >>> features.fit_transform(load_sample_images().images).shape
    (2, 512)
    >>> features.get_feature_names_out()[:2]
    array(['resnet18_0', 'resnet18_1'], dtype=object)
    """

    def __init__(
        self,
        backbone: str | torch.nn.Module | Backbone = "efficientnet_lite0",
        *,
        weights: str | os.PathLike[str] | None = "default",
        layer: Layer | Sequence[Layer] = "bottleneck",
        pooling: Pooling = "avg",
        image_size: int | None = None,
        crops: Literal["center", "ten"] = "center",
        batch_size: int = 64,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        n_jobs: int | None = None,
        runtime: Runtime = "auto",
        store: str | os.PathLike[str] | FeatureStore | None = "default",
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        background: str | tuple[int, int, int] = "white",
        on_error: Literal["raise", "nan"] = "raise",
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.image_size = image_size
        self.crops = crops
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.n_jobs = n_jobs
        self.runtime = runtime
        self.store = store
        self.image_shape = image_shape
        self.value_range = value_range
        self.background = background
        self.on_error = on_error
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters, the pictures' headers and the weights; nothing is learned.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : CNNFeatures
        """
        self._fit(X)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Features of pictures.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), dtype float32
            With ``pooling="none"``, of shape (n_images, channels, height, width).
        """
        self._check_parameters()
        images = self._read_images(X, reset=False)
        network = self._network()
        if hasattr(self, "backbone_spec_"):
            require_same(self.backbone_spec_, network.spec_now())
        return self._features(images, network)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> npt.NDArray[np.float32]:
        """Fit, then give the features of the same pictures.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : object, default=None
            Ignored.
        **fit_params : dict
            Ignored.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), dtype float32
            As from :meth:`transform`.
        """
        # Of pictures that are stored no header has to be read.
        return self._features(*self._fit(X, check=False))

    def warm(self, X: Any, layers: Sequence[Layer] | None = None) -> Self:
        """Put layers of the pictures into the feature store, in one pass through the network.

        A search over ``layer`` then finds all of them there, where it would make a pass for each.
        Nothing is fitted, and no features are held in memory.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.
        layers : list of str or int, default=None
            Layers, as of the parameter `layer`, which is the default.

        Returns
        -------
        self : CNNFeatures

        Raises
        ------
        ParameterError
            If ``store=None``: there is nothing to be filled.

        Examples
        --------
        >>> from sklearn.datasets import load_sample_images
        >>> from sktl import CNNFeatures
        >>> features = CNNFeatures("resnet18", weights=None, store="memory")
        >>> _ = features.warm(load_sample_images().images, layers=["layer3", "bottleneck"])
        >>> features.set_params(layer="layer3").fit_transform(load_sample_images().images).shape
        (2, 256)
        """
        chosen = copy.copy(self)
        if layers is not None:
            chosen.layer = layers
        checks = chosen._checks(concatenates=False)
        checks.that("store", self.store, self.store is not None, "a feature store, to be filled")
        checks.done()
        chosen._features(self._read_images(X, reset=False), self._network(), keep=False)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Names of the features.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        names : ndarray of shape (n_features,), dtype object
            ``<backbone>_<i>``, or ``<backbone>_<layer>_<i>`` for a list of layers.
        """
        check_is_fitted(self, "n_features_out_")
        if self.pooling == "none":
            raise ValueError('maps have no feature names; use pooling="flatten" for named columns')
        network, name = self._network(), self.backbone_spec_.name.rpartition("/")[2]
        names = []
        for layer in self._layers():
            shape = pooled_shape(network.shape(layer, self.image_size), self.pooling)
            prefix = f"{name}_{network.layer_name(layer)}" if self._many() else name
            names += [f"{prefix}_{i}" for i in range(math.prod(shape))]
        return np.array(names, dtype=object)

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def _fit(self, X: Any, *, check: bool = True) -> tuple[ImageCollection, Network]:
        """Learn about the pictures and the network; headers are checked before that is loaded."""
        self._check_parameters()
        images = self._read_images(X, reset=True)
        network = self._network()
        if self.on_error == "raise" and (check or not network.is_known):
            bad = images.check()
            if bad:
                raise ImageDecodeError(bad, len(images))
        shapes = [network.shape(layer, self.image_size) for layer in self._layers()]
        self.backbone_spec_ = network.spec_now()
        self.n_features_out_ = sum(math.prod(pooled_shape(s, self.pooling)) for s in shapes)
        return images, network

    def _features(
        self, images: ImageCollection, network: Network, *, keep: bool = True
    ) -> npt.NDArray[np.float32]:
        """Features of all pictures, if they are kept; an error or a warning for the bad ones."""
        layers, bad = compute_features(
            images,
            network,
            self._recipe(),
            network.store,
            raise_early=self.on_error == "raise",
            batch_size=self.batch_size,
            device=resolve_device(self.device),
            n_jobs=self.n_jobs,
            runtime=self.runtime,
            progress=bool(self.verbose),
            keep=keep,
        )
        if not keep:
            layers = [np.empty((len(images), 0), np.float32)]
        features = layers[0] if len(layers) == 1 else np.concatenate(layers, axis=1)
        if bad and self.on_error == "raise":
            raise ImageDecodeError(bad, len(images), features)
        if bad:
            named = "\n".join(describe_bad_images(bad))
            warnings.warn(
                f"{len(bad)} of {len(images)} pictures cannot be read; their features are NaN:\n"
                f"{named}",
                BadImageWarning,
                stacklevel=3,
            )
        return features

    def _network(self) -> Network:
        return Network(self.backbone, self.weights, resolve_store(self.store), self.image_size)

    def _recipe(self) -> Recipe:
        return Recipe(self._layers(), self.pooling, self.image_size, self.crops, self.precision)

    def _many(self) -> bool:
        return not isinstance(self.layer, (str, numbers.Integral))

    def _layers(self) -> tuple[Layer, ...]:
        layers: Any = self.layer if self._many() else (self.layer,)
        return tuple(layer if isinstance(layer, str) else int(layer) for layer in layers)

    def _check_parameters(self) -> None:
        self._checks().done()

    def _checks(self, *, concatenates: bool = True) -> ParameterChecks:
        checks = ParameterChecks(type(self).__name__)
        checks.choice("pooling", self.pooling, POOLINGS)
        checks.choice("crops", self.crops, ("center", "ten"))
        checks.choice("precision", self.precision, PRECISIONS)
        checks.choice("runtime", self.runtime, RUNTIMES)
        checks.choice("on_error", self.on_error, ("raise", "nan"))
        checks.integer("batch_size", self.batch_size, minimum=1)
        checks.integer("image_size", self.image_size, minimum=1, optional=True)
        checks.n_jobs(self.n_jobs)
        checks.attempt(resolve_device, self.device)
        if not checks.wrong:
            checks.attempt(check_runtime, self.runtime, self.precision, resolve_device(self.device))
        checks.attempt(resolve_store, self.store)
        layers: Any = self.layer if self._many() else (self.layer,)
        named = isinstance(layers, Sequence) and all(
            isinstance(layer, (str, numbers.Integral)) and not isinstance(layer, bool)
            for layer in layers
        )
        checks.that(
            "layer",
            self.layer,
            named and len(layers) > 0,
            "a name, a stage index or a list of them",
        )
        checks.that(
            "pooling",
            self.pooling,
            not (concatenates and self.pooling == "none" and named and len(layers) > 1),
            'other than "none" for several layers, whose maps have different shapes',
        )
        return checks

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags
