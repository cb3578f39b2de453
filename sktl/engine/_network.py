"""What is known of a network without loading it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sktl.backbones import Backbone, BackboneSpec, Preprocessing, load_backbone
from sktl.backbones._feature_network import replicate
from sktl.backbones._registry import is_registered, weights_key
from sktl.backbones._scratch import list_scratch
from sktl.backbones._weights import digest_learnt, local_file
from sktl.exceptions import WeightsError

if TYPE_CHECKING:
    from sktl.engine._store import FeatureStore

__all__ = ["Network", "may_learn", "require_same", "spec_now"]

Layer = str | int


class Network:
    """A backbone that is loaded only for what a feature store does not remember of it.

    Parameters
    ----------
    backbone : str, nn.Module or Backbone
        As in :func:`sktl.backbones.load_backbone`.
    weights : str, Path or None
        As in :func:`sktl.backbones.load_backbone`.
    store : FeatureStore or None
        Where the facts are remembered.
    image_size : int or None, default=None
        As in :func:`sktl.backbones.load_backbone`.

    Attributes
    ----------
    alias : str or None
        A name under which everything about the network stays true; None where only the object
        itself knows it.
    """

    def __init__(
        self,
        backbone: Any,
        weights: Any,
        store: FeatureStore | None,
        image_size: int | None = None,
    ) -> None:
        self._backbone, self._weights, self.store = backbone, weights, store
        # Of the others, all sizes share what is known.
        is_made_for_it = isinstance(backbone, str) and backbone in list_scratch()
        self._image_size = image_size if is_made_for_it else None
        self.alias = self._find_alias()
        known = store.network(self.alias) if store is not None and self.alias else None
        self._known: dict[str, Any] = known or {}
        self._loaded: Backbone | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process: a name where one serves, else the network itself."""
        state = {**self.__dict__, "store": None}
        if self.alias:
            state["_loaded"] = None
            if self._weights is not None:  # the worker may work in another folder
                state["_weights"] = local_file(self._weights) or self._weights
        else:
            state["_loaded"] = state["_backbone"] = _on_cpu(self.load())
        return state

    @property
    def is_known(self) -> bool:
        """Whether something is remembered of it, so that it need not be loaded for stored rows."""
        return bool(self._known)

    def load(self) -> Backbone:
        """The backbone itself."""
        if self._loaded is None:
            self._loaded = load_backbone(self._backbone, self._weights, image_size=self._image_size)
            if self._known.get("spec", {}).get("digest") not in (None, self._loaded.spec.digest):
                if self.store is not None and self.alias:
                    self.store.remember_network(self.alias, {})
                raise WeightsError(
                    f"the weights {self._weights!r} are no longer those of which the facts are "
                    "remembered; these are forgotten now, so that the same call will do"
                )
        return self._loaded

    @property
    def spec(self) -> BackboneSpec:
        """Name, weights, digest, licence, preprocessing and classes."""
        fields = dict(self._fact("spec", lambda b: dataclasses.asdict(b.spec)))
        for name in ("mean", "std"):
            fields["preprocessing"] = {
                **fields["preprocessing"],
                name: tuple(fields["preprocessing"][name]),
            }
        fields["preprocessing"] = Preprocessing(**fields["preprocessing"])
        names = fields["class_names"]
        fields["class_names"] = None if names is None else tuple(names)
        return BackboneSpec(**fields)

    def spec_now(self) -> BackboneSpec:
        """The spec, with the digest of a network of the caller's own as it is by now."""
        return spec_now(self.load()) if may_learn(self._backbone) else self.spec

    def shape(self, layer: Layer, size: int | None) -> tuple[int, ...]:
        """Shape of a layer for one picture.

        Parameters
        ----------
        layer : str or int
            As of :class:`sktl.CNNFeatures`.
        size : int or None
            Side of the picture, in pixels; None for that of the weights.

        Returns
        -------
        shape : tuple of ints
            (channels, height, width) or (features,).
        """
        return tuple(
            self._fact(f"shape {layer!r} {size}", lambda b: list(b.shapes([layer], size)[0]))
        )

    def layer_name(self, layer: Layer) -> str:
        """Name of a layer given by name or by stage index."""
        return str(self._fact(f"name {layer!r}", lambda b: b.layer_name(layer)))

    def place(self, layer: Layer) -> str:
        """Where a layer is read, whatever it is called."""
        return str(self._fact(f"place {layer!r}", lambda b: repr(b.taps([layer])[0])))

    def fingerprints(self, layers: Sequence[Layer]) -> list[str]:
        """What identifies the numbers of each layer.

        Source, name and digest of the weights, for a network that is known by its name. The code
        and tensors of any other may change under one name: see
        :meth:`sktl.backbones.Backbone.fingerprints`.

        Parameters
        ----------
        layers : sequence of str or int
            As of :class:`sktl.CNNFeatures`.

        Returns
        -------
        fingerprints : list of str
        """
        if self.alias:
            return [f"{self.spec.source} {self.spec.name} {self.spec.digest}"] * len(layers)
        return self.load().fingerprints(layers)

    def _fact(self, name: str, find: Any) -> Any:
        if name not in self._known:
            self._known[name] = find(self.load())
            if self.store is not None and self.alias:
                self.store.remember_network(self.alias, self._known)
        return self._known[name]

    def _find_alias(self) -> str | None:
        if may_learn(self._backbone):
            return None
        versions = [_version(package) for package in ("sktl", "torch", "torchvision", "timm")]
        parts = [self._backbone, weights_key(self._weights), versions, self._image_size]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def may_learn(backbone: Any) -> bool:
    """Whether a `backbone` parameter means an object of the caller's, be it by a name.

    What is in a library is made anew each time.
    """
    return not isinstance(backbone, str) or is_registered(backbone)


def spec_now(backbone: Backbone) -> BackboneSpec:
    """Facts about a network that may have learnt since they were taken down.

    The digest is that of what training changes.
    """
    return dataclasses.replace(backbone.spec, digest=digest_learnt(backbone.module))


def require_same(fitted: BackboneSpec, now: BackboneSpec) -> None:
    """Make sure that weights of the same name are still the same.

    Parameters
    ----------
    fitted : BackboneSpec
        Of the network that an estimator was fitted with.
    now : BackboneSpec
        Of the network that it finds.

    Raises
    ------
    WeightsError
        If a file has other weights by now, or a network has learnt.
    """
    named_alike = (now.name, now.weights) == (fitted.name, fitted.weights)
    if not named_alike or now.digest == fitted.digest:
        return
    digests = f"their digest was {fitted.digest[:12]} and is {now.digest[:12]}"
    if now.source == "module":
        raise WeightsError(
            f"the weights of the network {now.name!r} have changed since the fit: {digests}. Fit "
            "again; to go on with them elsewhere, fit with a copy (copy.deepcopy)"
        )
    raise WeightsError(
        f"the weights {now.weights!r} of {now.name} are not those of the fit: {digests}. Fit "
        "again, or bring the old ones back"
    )


def _on_cpu(backbone: Backbone) -> Backbone:
    """For processes that may have no such device as the network is on."""
    if all(parameter.device.type == "cpu" for parameter in backbone.module.parameters()):
        return backbone
    return Backbone(replicate(backbone.module, device=torch.device("cpu")), backbone.spec)
