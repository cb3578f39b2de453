"""Contrastive Predictive Coding as a transformer."""

from __future__ import annotations

import math
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sktl.backbones import Backbone, Preprocessing, load_backbone
from sktl.backbones._weights import digest_tensors, seeded
from sktl.engine import Network, Recipe, compute_features, resolve_store
from sktl.engine._digests import picture_digests
from sktl.exceptions import CollapseWarning, ImageDecodeError
from sktl.images import ImageCollection, ImageEstimatorMixin
from sktl.nn.cpc import CPCNetwork, PatchGrid, small_encoder
from sktl.nn.pooling import POOLINGS, Pooling
from sktl.self_supervised._pretrain import Pretraining
from sktl.training._augmentation import Augmentation, as_augmentation
from sktl.training._checkpoint import Checkpoint, make_folder
from sktl.training._data import Pixels, channel_statistics
from sktl.training._network import TransferNet
from sktl.utils._parameters import ParameterChecks
from sktl.utils._portable import PortableMixin, stow, take
from sktl.utils._sklearn import as_before_if_refused
from sktl.utils._torch import resolve_device

if TYPE_CHECKING:
    from sktl.engine import FeatureStore

__all__ = ["CPCFeatures"]

_OUTPUTS = {"latents": ("latents",), "context": ("contexts",), "both": ("latents", "contexts")}
_LARGEST = 96
# Features that use fewer directions than this tell nearly nothing apart.
_COLLAPSED = 2.0
# So few pictures may well be alike.
_JUDGED = 10


class CPCFeatures(
    PortableMixin,
    ClassNamePrefixFeaturesOutMixin,
    ImageEstimatorMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Features that a network learns from pictures without labels, by predicting their parts.

    Pictures are cut into overlapping patches, which an encoder turns into a grid of latents. From
    the latents above, a context network predicts those of rows further below, and is trained to
    tell them from latents of other places and other pictures.

    Parameters
    ----------
    encoder : str, Backbone or nn.Module, default="small"
        Encoder of a patch: "small", see :func:`sktl.nn.small_encoder`; the name of a network, as of
        :func:`sktl.list_backbones`, with random weights; or a network with the weights to start
        from, which is copied.
    n_features : int, default=128
        Number of latents a patch.
    image_size : int, default=None
        Side of the square that pictures are squeezed into, in pixels. By default the shorter side
        of the first picture, and 96 at most.
    patch_size : int, default=None
        Side of a patch, in pixels; by default a quarter of the picture, rounded to an even number.
    overlap : int, default=None
        Pixels that neighbouring patches share; by default half a patch.
    context : {"pixelcnn", "gru"}, default="pixelcnn"
        See :class:`sktl.nn.RowContext`.
    directions : {1, 2, 4}, default=1
        Whether predictions go down, also up, and also to both sides.
    prediction_steps : int, default=3
        How many rows each context predicts, beginning with the first whose patches share no pixels
        with it; fewer where there are no more.
    n_negatives : int, default=None
        Latents that each prediction must be told from; by default all of the batch.
    normalization : {"layer", "batch"}, default="layer"
        Of the small encoder.
    patch_augment : Augmentation, {"color", "light"} or None, default="color"
        Random changes of each patch by itself; "color" is a color_jitter of 0.4.
    temperature : float, default=0.1
        Of the scores.
    epochs : int, default=20
        Passes over the pictures.
    lr : float, default=0.001
        Largest learning rate of AdamW, which falls along half a cosine.
    batch_size : int, default=64
        Pictures a training step.
    output : {"latents", "context", "both"}, default="latents"
        What `transform` gives.
    pooling : {"avg", "max", "avgmax", "gem", "flatten"}, default="avg"
        How the places of the grid become one row; see :func:`sktl.nn.pool`. "flatten" keeps them
        apart, which serves pictures that are all framed alike.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    precision : {"auto", "exact", "bf16"}, default="auto"
        "bf16" trains and transforms in mixed precision. For the others see
        :class:`sktl.CNNFeatures`.
    n_jobs : int, default=None
        Threads that decode training pictures (None: all cores), and shards of transforming.
    store : str, Path, FeatureStore or None, default="default"
        Where features are kept; see :class:`sktl.CNNFeatures`.
    cache_bytes : int, default=8_000_000_000
        Room on the disk for decoded pictures while fitting.
    checkpoint_dir : str or Path, default=None
        Folder where the state is kept after each epoch. The same fit, killed and called again,
        goes on from there.
    random_state : int, RandomState instance or None, default=None
        Seed of the weights and of everything drawn in training. With `checkpoint_dir`, None is 0.
    image_shape : tuple of 2 or 3 ints, default=None
        Shape of one picture, for flattened rows only; see :func:`sktl.as_images`.
    value_range : tuple of 2 floats, default=None
        Values of black and white in arrays; see :func:`sktl.as_images`.
    background : str or tuple of 3 ints, default="white"
        Colour behind transparent pixels.
    verbose : int, default=0
        If not 0, a progress bar is shown for work of more than three seconds.

    Attributes
    ----------
    encoder_ : Backbone
        The trained encoder, as a network from pictures to maps: ``CNNClassifier(cpc.encoder_)``
        fine-tunes it.
    network_ : CPCNetwork
        Encoder, contexts and predictions.
    history_ : DataFrame
        One row an epoch: InfoNCE loss in nats, contrastive accuracy and chance, the bound
        log(N) - loss of the mutual information in nats, and the effective rank of the latents of
        up to 1,000 pictures.
    value_range_ : tuple of 2 floats
        Values of black and white. Only defined for flattened rows.
    n_features_in_ : int
        Number of columns. Only defined when X is a table.
    feature_names_in_ : ndarray of str
        Names of the columns. Only defined when X is a DataFrame with column names.

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive
    Coding", arXiv:1807.03748.

    O. J. Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding",
    arXiv:1905.09272.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import CPCFeatures
    >>> X, _ = load_digits(return_X_y=True)
    >>> cpc = CPCFeatures(image_shape=(8, 8), image_size=16, n_features=32, epochs=1,
    ...                   random_state=0)
    >>> cpc.fit_transform(X[:200]).shape
    (200, 32)
    """

    def __init__(
        self,
        encoder: str | Backbone | nn.Module = "small",
        *,
        n_features: int = 128,
        image_size: int | None = None,
        patch_size: int | None = None,
        overlap: int | None = None,
        context: Literal["pixelcnn", "gru"] = "pixelcnn",
        directions: Literal[1, 2, 4] = 1,
        prediction_steps: int = 3,
        n_negatives: int | None = None,
        normalization: Literal["layer", "batch"] = "layer",
        patch_augment: Augmentation | str | None = "color",
        temperature: float = 0.1,
        epochs: int = 20,
        lr: float = 0.001,
        batch_size: int = 64,
        output: Literal["latents", "context", "both"] = "latents",
        pooling: Pooling = "avg",
        device: str | torch.device = "auto",
        precision: Literal["auto", "exact", "bf16"] = "auto",
        n_jobs: int | None = None,
        store: str | os.PathLike[str] | FeatureStore | None = "default",
        cache_bytes: int = 8_000_000_000,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        random_state: int | np.random.RandomState | None = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        background: str | tuple[int, int, int] = "white",
        verbose: int = 0,
    ) -> None:
        self.encoder = encoder
        self.n_features = n_features
        self.image_size = image_size
        self.patch_size = patch_size
        self.overlap = overlap
        self.context = context
        self.directions = directions
        self.prediction_steps = prediction_steps
        self.n_negatives = n_negatives
        self.normalization = normalization
        self.patch_augment = patch_augment
        self.temperature = temperature
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.output = output
        self.pooling = pooling
        self.device = device
        self.precision = precision
        self.n_jobs = n_jobs
        self.store = store
        self.cache_bytes = cache_bytes
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.image_shape = image_shape
        self.value_range = value_range
        self.background = background
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from pictures.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : CPCFeatures
        """
        self._train(*self._begin(X))
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from pictures in one more pass.

        The optimizer's state is kept from call to call, but not in a pickle or a copy. The
        statistics that normalise the pixels are those of the first call's pictures.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : CPCFeatures
        """
        if not hasattr(self, "network_"):
            self._train(*self._begin(X), one_pass=True)
            return self
        self._check_parameters()
        images = self._checked(self._read_images(X, reset=False))
        self._train(images, self.network_, self._pixels(images), one_pass=True)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Latents, contexts or both of pictures.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), dtype float32
        """
        check_is_fitted(self, "network_")
        images = self._read_images(X, reset=False)
        module = _Outputs(self.network_, with_context=self.output != "latents")
        backbone = Backbone(module, preprocessing=self._preprocessing, name="cpc")
        store = resolve_store(self.store)
        layers, bad = compute_features(
            images,
            Network(backbone, "default", store),
            Recipe(_OUTPUTS[self.output], self.pooling, None, "center", self.precision),
            store,
            batch_size=self.batch_size,
            device=resolve_device(self.device),
            n_jobs=self.n_jobs,
            progress=bool(self.verbose),
        )
        if bad:
            raise ImageDecodeError(bad, len(images))
        return np.concatenate([layer.reshape(len(images), -1) for layer in layers], axis=1)

    @property
    def encoder_(self) -> Backbone:
        """The trained encoder, as a network from pictures to maps."""
        check_is_fitted(self, "network_")
        return Backbone(self.network_.grid, preprocessing=self._preprocessing, name="cpc")

    @property
    def _n_features_out(self) -> int:
        check_is_fitted(self, "network_")
        n_places = math.prod(self._grid_shape) if self.pooling == "flatten" else 1
        return len(_OUTPUTS[self.output]) * int(self._plan["n_features"]) * n_places

    def _begin(self, X: Any) -> tuple[ImageCollection, CPCNetwork, Pixels]:
        """Check everything, forget what was learnt, and make an untrained network."""
        with as_before_if_refused(self):
            return self._checked_and_begun(X)

    def _checked_and_begun(self, X: Any) -> tuple[ImageCollection, CPCNetwork, Pixels]:
        self._check_parameters()
        for name in ("network_", "history_", "_online"):
            self.__dict__.pop(name, None)
        images = self._checked(self._read_images(X, reset=True))
        size = self.image_size or min(_LARGEST, *images.decode(0).shape[:2])
        patch = self.patch_size or max(4, 2 * round(size / 8))
        overlap = patch // 2 if self.overlap is None else self.overlap
        checks = ParameterChecks(type(self).__name__)
        checks.that("overlap", overlap, overlap < patch, f"below patch_size, which is {patch}")
        checks.done()
        stride = patch - overlap
        rows = (size - patch) // stride + 1 if patch <= size else 0
        first_step = -(-patch // stride)  # patches further away share no pixels
        checks.that(
            "patch_size",
            patch,
            rows > first_step,
            f"smaller, or overlap larger: pictures of {size} pixels have {rows} rows of such "
            f"patches, and a context predicts the row {first_step} below it",
        )
        checks.done()
        is_fixed = self.checkpoint_dir is not None and self.random_state is None
        self._seed = int(check_random_state(0 if is_fixed else self.random_state).randint(2**31))
        n_steps = min(self.prediction_steps, rows - first_step)
        self._grid_shape = (rows, rows)
        shape = ("encoder", "n_features", "context", "directions", "normalization")
        # Parameters may be set to something else before they count again.
        self._plan = {name: getattr(self, name) for name in shape}
        self._plan.update(patch=patch, stride=stride, first_step=first_step, n_steps=n_steps)
        self._preprocessing = Preprocessing(size=size, resize=size, keep_aspect=False)
        network = self._untrained_network()
        pixels = self._pixels(images)
        pixels.fill(progress=bool(self.verbose))
        mean, std = channel_statistics(pixels)
        self._preprocessing = Preprocessing(
            size=size, resize=size, keep_aspect=False, mean=mean, std=std
        )
        return images, network, pixels

    def _untrained_network(self) -> CPCNetwork:
        plan, n = self._plan, self._plan["n_features"]
        with seeded(self._seed):
            grid = PatchGrid(self._encoder(), plan["patch"], plan["stride"])
            network = CPCNetwork(
                grid, n, plan["context"], plan["directions"], plan["first_step"], plan["n_steps"]
            )
        return network.to(memory_format=torch.channels_last)

    def _encoder(self) -> nn.Module:
        name, n_features, patch = (self._plan[k] for k in ("encoder", "n_features", "patch"))
        if isinstance(name, str) and name == "small":
            return small_encoder(n_features, self._plan["normalization"])
        weights = None if isinstance(name, str) else "default"
        backbone = load_backbone(name, weights, random_state=self._seed, image_size=patch)
        (shape,) = backbone.shapes(["bottleneck"], patch)
        return TransferNet(backbone, "bottleneck", "avg", nn.Linear(shape[0], n_features))

    def _train(
        self,
        images: ImageCollection,
        network: CPCNetwork,
        pixels: Pixels,
        *,
        one_pass: bool = False,
    ) -> None:
        """All epochs, or one more at a constant rate."""
        pixels.fill(progress=bool(self.verbose))
        network = network.to(resolve_device(self.device))
        checkpoint = None
        if self.checkpoint_dir is not None and not one_pass:
            checkpoint = Checkpoint(self.checkpoint_dir, self._described(images, network))
        pretraining = self._pretraining(network)
        known = getattr(self, "_online", None)
        if known is not None and known.device == pretraining.device:
            pretraining.optimizer = known.optimizer
        if one_pass and hasattr(self, "history_"):
            pretraining.history = cast("list[dict[str, float]]", self.history_.to_dict("records"))
        epochs = len(pretraining.history) + 1 if one_pass else self.epochs
        before = {name: x.clone() for name, x in network.state_dict().items()} if one_pass else None
        try:
            pretraining.run(
                pixels, epochs, checkpoint, constant=one_pass, progress=bool(self.verbose)
            )
        except BaseException:
            if before is not None:  # what was learnt in earlier passes is kept
                network.load_state_dict(before)
                network.eval()
                self.__dict__.pop("_online", None)
            raise
        if one_pass:
            self._online = pretraining
        self.network_ = network
        self.history_: pd.DataFrame = pd.DataFrame(pretraining.history)
        rank = self.history_["effective_rank"].iloc[-1]
        if rank < _COLLAPSED and len(images) >= _JUDGED:
            warnings.warn(
                f"the features use {rank:.1f} directions of {self._plan['n_features']}: they have "
                "collapsed, and tell hardly anything apart. Try a smaller lr, more pictures a "
                "batch, or larger patches",
                CollapseWarning,
                stacklevel=3,
            )

    def _pretraining(self, network: CPCNetwork) -> Pretraining:
        augment = self.patch_augment
        color = isinstance(augment, str) and augment == "color"
        options = {
            name: getattr(self, name)
            for name in ("temperature", "n_negatives", "lr", "epochs", "batch_size")
        }
        return Pretraining(
            network,
            self._preprocessing.mean,
            self._preprocessing.std,
            {**options, "bf16": self.precision == "bf16", "seed": self._seed},
            Augmentation(color_jitter=0.4) if color else as_augmentation(augment),
            resolve_device(self.device),
        )

    def _pixels(self, images: ImageCollection) -> Pixels:
        n_threads = int(joblib.effective_n_jobs(-1 if self.n_jobs is None else self.n_jobs))
        return Pixels(images, self._preprocessing, n_threads, self.cache_bytes)

    def _described(self, images: ImageCollection, network: CPCNetwork) -> dict[str, Any]:
        """Everything that decides the result of a fit."""
        ignored = {
            "checkpoint_dir", "device", "n_jobs", "output", "pooling", "random_state", "store",
            "verbose",
        }  # fmt: skip
        known = resolve_store(self.store) or resolve_store("memory")
        assert known is not None
        return {
            **{k: v for k, v in self.get_params(deep=False).items() if k not in ignored},
            "pictures": picture_digests(images, known),
            "network": digest_tensors(network),
            "seed": self._seed,
        }

    def _checked(self, images: ImageCollection) -> ImageCollection:
        bad = images.check()
        if bad:
            raise ImageDecodeError(bad, len(images))
        return images

    def _check_parameters(self) -> None:
        checks = ParameterChecks(type(self).__name__)
        checks.choice("context", self.context, ("pixelcnn", "gru"))
        checks.choice("normalization", self.normalization, ("layer", "batch"))
        checks.choice("output", self.output, tuple(_OUTPUTS))
        checks.choice("pooling", self.pooling, POOLINGS[:-1])
        checks.choice("precision", self.precision, ("auto", "exact", "bf16"))
        checks.that("directions", self.directions, self.directions in (1, 2, 4), "1, 2 or 4")
        for name in ("n_features", "prediction_steps", "epochs", "batch_size"):
            checks.integer(name, getattr(self, name), minimum=1)
        for name in ("image_size", "n_negatives"):
            checks.integer(name, getattr(self, name), minimum=1, optional=True)
        checks.integer("patch_size", self.patch_size, minimum=2, optional=True)
        checks.integer("overlap", self.overlap, minimum=0, optional=True)
        checks.integer("cache_bytes", self.cache_bytes, minimum=0)
        if isinstance(self.patch_size, int) and isinstance(self.overlap, int):
            checks.that("overlap", self.overlap, self.overlap < self.patch_size, "below patch_size")
        checks.number("temperature", self.temperature, above=0)
        checks.number("lr", self.lr, above=0)
        augment: Any = self.patch_augment
        named = isinstance(augment, str) and augment in ("color", "light")
        known = augment is None or named or isinstance(augment, Augmentation)
        checks.that("patch_augment", augment, known, 'an Augmentation, "color", "light" or None')
        if isinstance(augment, Augmentation):
            augment.check(checks)
        checks.attempt(resolve_device, self.device)
        checks.attempt(resolve_store, self.store)
        checks.done()
        if self.checkpoint_dir is not None:
            make_folder(self.checkpoint_dir)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        state = {k: v for k, v in state.items() if k != "_online"}
        if "network_" in state:
            tensors = state.pop("network_").state_dict()
            state["_tensors"] = stow({name: t.cpu() for name, t in tensors.items()})
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        tensors = state.pop("_tensors", None)
        super().__setstate__(state)
        if tensors is not None:
            self.network_ = self._untrained_network().eval()
            self.network_.load_state_dict(take(tensors))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


class _Outputs(nn.Module):
    """Latents and contexts of pictures, under names."""

    def __init__(self, network: CPCNetwork, *, with_context: bool) -> None:
        super().__init__()
        self.network, self.with_context = network, with_context
        self.latents, self.contexts = nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, D, rows, columns)."""
        latents: torch.Tensor = self.latents(self.network.grid(x))
        if self.with_context:
            latents = self.contexts(self.network.context(latents))
        return latents
