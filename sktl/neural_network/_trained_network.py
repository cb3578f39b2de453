"""The network of a fitted classifier: its kept weights, built into it when it is needed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sktl.engine._network import may_learn, require_same
from sktl.exceptions import ParameterError
from sktl.neural_network._build import Built, Statistics, build, described_spec, has_trunk
from sktl.training._history import remember
from sktl.utils._portable import PortableMixin, stow, take
from sktl.utils._torch import resolve_device

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from sktl.backbones import Backbone, BackboneSpec

__all__ = ["TrainedNetworkMixin"]

# Parameters without which the fitted weights mean nothing.
_OF_THE_NETWORK = (
    "backbone", "weights", "layer", "pooling", "head", "dropout", "batch_norm", "image_size",
)  # fmt: skip


class TrainedNetworkMixin(PortableMixin, BaseEstimator):
    """For estimators with the parameters of a network, of which they keep what has learnt."""

    keep: Literal["best", "final"]
    device: Any
    classes_: npt.NDArray[Any]
    history_: pd.DataFrame
    best_epoch_: int
    # Trained tensors, by the names of `with_weights`.
    _states: dict[str, dict[str, torch.Tensor]]
    # Of the head, of random weights and of all that is drawn in training.
    _seed: int
    # Of the normalisation, where it is not that of the weights.
    _statistics: Statistics | None
    # The parameters of the network, as they were when it was fitted.
    _described_network: dict[str, Any]
    # The network with one of the states, if it was needed: what is not pickled.
    _made: Built
    # Of a copy whose original was fitted on an object that has learnt since: the trunk of the fit.
    _trunk: dict[str, torch.Tensor]

    def with_weights(self, which: Literal["best", "final"]) -> Self:
        """Give the same classifier with the weights of the best or of the last epoch.

        Parameters
        ----------
        which : {"best", "final"}
            Both are there where the fit had validation pictures and no `refit`.

        Returns
        -------
        classifier : CNNClassifier
            A copy; the original stays as it is.
        """
        check_is_fitted(self)
        if which not in self._states:
            raise ParameterError(
                f"which must be one of {sorted(self._states)}; got {which!r}. The weights of the "
                "best epoch are kept where there are validation pictures and no refit"
            )
        other = copy.copy(self)
        other._load(which)
        return other

    @property
    def net_(self) -> Any:
        """The trained skorch net."""
        check_is_fitted(self)
        return self._built().net

    @property
    def backbone_(self) -> Backbone:
        """The trained network, for other estimators."""
        check_is_fitted(self)
        return self._built().backbone

    def _begin_untrained(self, seed: int) -> None:
        """Make ready for the network that the parameters describe, as it is before it learns."""
        self._states = {}
        self._seed, self._statistics = seed, None
        self._described_network = {name: getattr(self, name) for name in _OF_THE_NETWORK}
        for name in ("_made", "_trunk"):
            self.__dict__.pop(name, None)

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Give up a network in case of an error: what is kept of it is its last good state."""
        try:
            yield
        except BaseException:
            self.__dict__.pop("_made", None)
            raise

    def _built(self) -> Built:
        """The network with its weights, built if it is not there."""
        check_is_fitted(self, "classes_")
        made: Built | None = vars(self).get("_made")
        if made is not None and made.net.device != str(resolve_device(self.device)):
            self.__dict__.pop("_made")
        if "_made" not in vars(self):
            self._made = self._build()
            if self._states and hasattr(self, "history_"):
                remember(self._made.net, self.history_)
            self._spec: BackboneSpec = self._made.spec  # that of the fit, if there was one
            with self._all_or_nothing():
                self._load(getattr(self, "_loaded", self.keep))
        return self._made

    def _build(self, *, callbacks: bool = True) -> Built:
        """The network as it was before it learnt, with callbacks that begin anew, or without."""
        described = self._as_fitted()
        if not callbacks:
            described.callbacks = None
        built = build(described, self._seed, self._statistics, len(self.classes_))
        if not (hasattr(self, "_spec") and self._states):
            return built
        built.spec = self._spec
        if "_trunk" in vars(self) and built.found != self._spec:
            built.module.trunk.load_state_dict(self._trunk)
            built.found = self._spec
        return built

    def _as_fitted(self) -> Any:
        """A copy with the network that was fitted, whatever the parameters say by now."""
        as_fitted = type(self).__new__(type(self))
        as_fitted.__dict__.update(vars(self), **self._described_network)
        as_fitted.__dict__.pop("_made", None)
        return as_fitted

    def _load(self, which: str) -> None:
        """Put one of the kept states into the network."""
        self._loaded = which
        state = self._states.get(which, self._states.get("final"))
        if state is None:
            return
        built = self._built()
        if not has_trunk(state):  # that of an epoch before the trunk learnt
            before = self._build(callbacks=False) if built.has_learnt else built
            require_same(self._spec, before.found)
            if built.has_learnt:
                built.module.trunk.load_state_dict(before.module.trunk.state_dict())
        built.load(state)
        is_last = state is self._states["final"] or self.best_epoch_ == len(self.history_)
        if not is_last and hasattr(built.net, "optimizer_"):
            built.net.optimizer_.state.clear()  # momentum that led elsewhere

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())  # perhaps the attributes themselves
        trunk = self._trunk_of_the_fit(state.pop("_made", None))
        if trunk is not None:
            state["_trunk"] = stow(trunk)
        # What is still as the parameters say goes with them, and with the weights they take along.
        fitted = state.pop("_described_network", {})
        changed = {name: v for name, v in fitted.items() if v is not getattr(self, name)}
        if changed:
            state["_described_network"] = changed
        if "_states" in state:
            state["_states"] = {which: stow(part) for which, part in state["_states"].items()}
        return state

    def _trunk_of_the_fit(self, made: Built | None) -> dict[str, torch.Tensor] | None:
        """The tensors of the trunk, where the object that they were copied from has learnt since.

        Only where some of the kept states do not have them.
        """
        if "_trunk" in vars(self):
            return self._trunk
        if made is None or made.has_learnt or not may_learn(self._described_network["backbone"]):
            return None
        if all(has_trunk(state) for state in self._states.values()):
            return None
        try:
            is_as_fitted = described_spec(self._as_fitted(), self._seed).digest == made.spec.digest
        except Exception:  # noqa: BLE001 (whatever has become of it)
            is_as_fitted = False
        if is_as_fitted:
            return None
        tensors: dict[str, torch.Tensor] = made.module.trunk.state_dict()
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_states" in state:
            states = {which: take(part) for which, part in state["_states"].items()}
            state = {**state, "_states": states}
        if "_trunk" in state:
            state = {**state, "_trunk": take(state["_trunk"])}
        super().__setstate__(state)
        if hasattr(self, "_seed"):  # fitted
            changed = vars(self).get("_described_network", {})
            same = {name: getattr(self, name) for name in _OF_THE_NETWORK}
            self._described_network = {**same, **changed}

    def __sklearn_is_fitted__(self) -> bool:
        return bool(getattr(self, "_states", None))
