"""Parameters of phases, addressed the way those of a pipeline's steps are."""

from __future__ import annotations

import copy
from typing import Any, Self

from sklearn.base import BaseEstimator

from sktl.exceptions import ParameterError
from sktl.neural_network._checks import are_phases
from sktl.training._augmentation import Augmentation, as_augmentation
from sktl.training._phase import Phase

__all__ = ["PhaseParametersMixin"]

_TRANSFER = (
    ("warm_up", Phase("head", 30, optimizer="adam", lr=1e-3, augment=False)),
    ("fine_tune", Phase("last:2", 8, lr=0.005, nesterov=True, schedule="one_cycle")),
)
_SCRATCH = (("train", Phase("all", 40, optimizer="adam", lr=2e-3, schedule="one_cycle")),)


class PhaseParametersMixin(BaseEstimator):
    """For estimators with the parameters `phases`, `augment` and `weights`."""

    phases: Any
    augment: Any
    weights: Any

    def _phases(self) -> list[tuple[str, Phase]]:
        """Those that will be trained."""
        if self.phases is not None:
            return list(self.phases) if are_phases(self.phases) else self.phases
        default = _SCRATCH if self.weights is None else _TRANSFER
        return [(name, copy.copy(phase)) for name, phase in default]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters, with those of the phases as ``phases__<name>__<parameter>``.

        Parameters
        ----------
        deep : bool, default=True
            Whether to give the parameters of phases and augmentation too.

        Returns
        -------
        parameters : dict
        """
        parameters: dict[str, Any] = super().get_params(deep=deep)
        if deep and are_phases(self._phases()):
            for name, phase in self._phases():
                parameters[f"phases__{name}"] = phase
                for key, value in phase.get_params(deep=False).items():
                    parameters[f"phases__{name}__{key}"] = value
        return parameters

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also ``phases__<name>__<parameter>``.

        Parameters
        ----------
        **params : dict
            Parameters.

        Returns
        -------
        self : CNNClassifier
        """
        if any(key.startswith("augment__") for key in params):
            augment = as_augmentation(params.get("augment", self.augment))
            params = {**params, "augment": Augmentation() if augment is None else augment}
        of_phases = {key: params.pop(key) for key in list(params) if key.startswith("phases__")}
        super().set_params(**params)
        if not of_phases:
            return self
        phases = {name: copy.copy(phase) for name, phase in self._phases()}
        for key, value in sorted(of_phases.items(), key=lambda item: item[0].count("__")):
            _, name, *rest = key.split("__", 2)
            if name not in phases:
                raise ParameterError(f"{key}: there is no phase {name!r} among {list(phases)}")
            if rest:
                phases[name].set_params(**{rest[0]: value})
            else:
                phases[name] = value
        self.phases = list(phases.items())
        return self
