"""What a search may try: dimensions of a space, and spaces that are ready made."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sktl.exceptions import ParameterError
from sktl.model_selection._identity import in_words
from sktl.utils._parameters import suggest
from sktl.utils._sameness import without_addresses

__all__ = [
    "choices",
    "decode",
    "fine_tuning_space",
    "frozen_space",
    "misfit",
    "named_space",
    "sample",
    "stood_for",
]

# What Optuna's storages hold as a choice.
_PLAIN = (type(None), bool, int, float, str)
# Quantiles between which distributions that Optuna does not know are drawn.
_LEAST, _MOST = 1e-6, 1 - 1e-6


def frozen_space(
    *,
    features: str = "feat",
    classifier: str = "clf",
    layers: Sequence[Any] = (-2, "bottleneck"),
) -> dict[str, Any]:
    """Space for frozen features and a linear classifier: the layer, and `C`.

    Parameters
    ----------
    features : str, default="feat"
        Name of the pipeline's step that is a :class:`sktl.CNNFeatures`.
    classifier : str, default="clf"
        Name of the step with a parameter `C`: LogisticRegression, SVC, LogisticProbe and others.
    layers : sequence of str, int or list, default=(-2, "bottleneck")
        Layers to choose from: by default the last stage but one, and the last.

    Returns
    -------
    space : dict
        For :class:`sktl.model_selection.OptunaSearch`; to be added to as one likes.

    References
    ----------
    S. Kornblith, J. Shlens, Q. V. Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019,
    arXiv:1805.08974, search C likewise by its logarithm; the range here is sktl's choice.

    Examples
    --------
    >>> from sktl.model_selection import frozen_space
    >>> frozen_space(layers=["layer3", "layer4"])
    {'feat__layer': ['layer3', 'layer4'], 'clf__C': (1e-06, 100000.0, 'log')}
    """
    return {f"{features}__layer": list(layers), f"{classifier}__C": (1e-6, 1e5, "log")}


def fine_tuning_space(
    *, phase: str | None = None, prefix: str = "", from_scratch: bool = False
) -> dict[str, Any]:
    """Space for a network that is fine-tuned: how fast, how deep, and how it is regularised.

    Parameters
    ----------
    phase : str, default=None
        Name of the phase of :class:`sktl.CNNClassifier` that is searched; by default the one that
        it has by default: "train" from scratch, else "fine_tune".
    prefix : str, default=""
        What stands before the classifier's parameters where it is a part of something, such as
        ``"clf__"``.
    from_scratch : bool, default=False
        Whether the network has random weights: then all of it learns, at higher rates.

    Returns
    -------
    space : dict
        For :class:`sktl.model_selection.OptunaSearch`; to be added to as one likes.

    References
    ----------
    S. Kornblith, J. Shlens, Q. V. Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019,
    arXiv:1805.08974, search the learning rate likewise; the range here is sktl's choice.

    Examples
    --------
    >>> from sktl import CNNClassifier
    >>> from sktl.model_selection import fine_tuning_space
    >>> space = fine_tuning_space()
    >>> space["phases__fine_tune__lr"]
    (0.0001, 0.1, 'log')
    >>> set(space) <= set(CNNClassifier().get_params())
    True
    """
    if phase is None:
        phase = "train" if from_scratch else "fine_tune"
    space: dict[str, Any] = {
        f"phases__{phase}__lr": (1e-3, 0.3, "log") if from_scratch else (1e-4, 0.1, "log"),
        f"phases__{phase}__weight_decay": (1e-6, 1e-2, "log"),
        "dropout": (0.0, 0.5),
        "label_smoothing": (0.0, 0.2),
    }
    if not from_scratch:
        space[f"phases__{phase}__train"] = ["last:1", "last:2", "last:3", "all"]
    return {f"{prefix}{name}": dimension for name, dimension in space.items()}


class Dimension(NamedTuple):
    """What a parameter may be: a distribution of Optuna, and what stands behind a draw of it."""

    distribution: Any
    value: Callable[[Any], Any] = lambda drawn: drawn


def named_space(space: Any, estimator: Any) -> dict[str, Dimension] | Callable[[Any], Any]:
    """The space, checked: its dimensions are such, and the estimator has the parameters."""
    if callable(space):
        return space  # type: ignore[no-any-return]
    if not isinstance(space, Mapping) or not space:
        raise ParameterError(
            "space must be a dict of parameters' names and what they may be, or a function of an "
            f"Optuna trial; got {space!r}."
        )
    known = estimator.get_params(deep=True)
    for name in space:
        # The parameters of what is itself searched are known only once it is there.
        is_inside = any(name.startswith(f"{outer}__") for outer in space)
        if name not in known and not is_inside:
            raise ParameterError(
                f"space names {name!r}, which is no parameter of {type(estimator).__name__}."
                + suggest(name, known)
            )
    return {name: _dimension(name, given) for name, given in space.items()}


def sample(space: Any, trial: Any) -> dict[str, Any]:
    """Parameters for a trial of Optuna."""
    if callable(space):
        return dict(space(trial))
    return {name: _draw(name, dimension, trial) for name, dimension in space.items()}


def decode(space: Any, trial: Any) -> dict[str, Any]:
    """Give the parameters behind what Optuna recorded of a trial."""
    recorded = trial.params
    if callable(space):
        return sample(space, _optuna().trial.FixedTrial(dict(recorded), number=trial.number))
    return {
        name: dimension.value(recorded[name])
        for name, dimension in space.items()
        if name in recorded
    }


def choices(dimension: Dimension) -> list[Any]:
    """All that a dimension may be, or nothing if it is neither a list nor of whole numbers."""
    given = dimension.distribution
    drawn = getattr(given, "choices", ())
    if isinstance(given, _optuna().distributions.IntDistribution):
        drawn = range(given.low, given.high + 1, given.step)
    return [dimension.value(one) for one in drawn]


def stood_for(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a storage can hold them: finite numbers, and of all else what it is."""
    return {name: value if _is_finite(value) else in_words(value) for name, value in chosen.items()}


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def misfit(space: Any, trial: Any, before: Mapping[str, Any] | None) -> str | None:
    """Why a recorded trial could not be one of this space; None if it could.

    `before` is what its draws stood for, if that is known.
    """
    return _outside(space, trial) or _changed(space, trial, before)


def _changed(space: Any, trial: Any, before: Mapping[str, Any] | None) -> str | None:
    """What the draws of a trial stood for, if they stand for something else now."""
    if before is None:
        return None
    try:
        now = stood_for(decode(space, trial))
    except Exception:  # noqa: BLE001 (a function may ask for what was never drawn)
        return f"trial {trial.number} drew {trial.params}, of which it makes nothing now"
    for name in {**before, **now}:
        then, later = before.get(name, "absent"), now.get(name, "absent")
        are_numbers = _is_finite(then) and _is_finite(later)
        if not (math.isclose(then, later) if are_numbers else then == later):
            return f"{name} was {then} in trial {trial.number}, and would now be {later}"
    return None


def _outside(space: Any, trial: Any) -> str | None:
    if callable(space) or "fixed_params" in trial.system_attrs:  # that someone has asked for
        return None
    known = {name: d for name, d in trial.distributions.items() if name in space}
    for name, before in known.items():
        now, value = space[name].distribution, trial.params[name]
        try:
            _optuna().distributions.check_distribution_compatibility(before, now)
        except ValueError:
            return f"{name} was drawn from {before}, and is now to be from {now}"
        if not now._contains(now.to_internal_repr(value)):
            return f"{name} was {value!r} in trial {trial.number}, which is outside of {now}"
    return None


def _draw(name: str, dimension: Dimension, trial: Any) -> Any:
    given = dimension.distribution
    if hasattr(given, "choices"):
        return dimension.value(trial.suggest_categorical(name, given.choices))
    is_int = isinstance(given, _optuna().distributions.IntDistribution)
    suggest_number = trial.suggest_int if is_int else trial.suggest_float
    drawn = suggest_number(name, given.low, given.high, step=given.step, log=given.log)
    return dimension.value(drawn)


def _dimension(name: str, given: Any) -> Dimension:
    distributions = _optuna().distributions
    if isinstance(given, distributions.BaseDistribution):
        return Dimension(_as_stored(given, distributions))
    if isinstance(given, (list, np.ndarray)) and len(given) > 0:
        labels = _labels(given)
        return Dimension(distributions.CategoricalDistribution(list(labels)), labels.__getitem__)
    if isinstance(given, tuple):
        return Dimension(_range(name, given, distributions))
    if hasattr(given, "ppf") and hasattr(given, "dist"):
        return _of_scipy(given, distributions)
    raise ParameterError(
        f"space[{name!r}] must be a list of choices, a range (low, high) or (low, high, 'log'), a "
        f"distribution of Optuna or a frozen one of scipy.stats; got {given!r}."
    )


def _as_stored(given: Any, distributions: Any) -> Any:
    """One of Optuna's older classes as the newer one that its storages give back."""
    for kind in (distributions.FloatDistribution, distributions.IntDistribution):
        if isinstance(given, kind):
            return kind(given.low, given.high, log=given.log, step=given.step)
    return given


def _range(name: str, given: tuple[Any, ...], distributions: Any) -> Any:
    ends, is_log = given[:2], given[2:] == ("log",)
    are_numbers = all(isinstance(e, numbers.Real) and not isinstance(e, bool) for e in ends)
    if len(ends) < 2 or not are_numbers or not (is_log or len(given) == 2):
        raise ParameterError(
            f"space[{name!r}] is a tuple, which must be (low, high) or (low, high, 'log'); choices "
            f"are a list. Got {given!r}."
        )
    low, high = ends
    if not all(math.isfinite(end) for end in ends):
        raise ParameterError(f"space[{name!r}] must have finite ends; got {given!r}.")
    if not low < high or (is_log and low <= 0):
        above = "above 0 and " if is_log else ""
        raise ParameterError(f"space[{name!r}] must have low {above}below high; got {given!r}.")
    if all(isinstance(end, numbers.Integral) for end in ends):
        return distributions.IntDistribution(int(low), int(high), log=is_log)
    return distributions.FloatDistribution(float(low), float(high), log=is_log)


def _of_scipy(given: Any, distributions: Any) -> Dimension:
    """The same distribution where Optuna has it, else that of the quantile."""
    from scipy.stats import rv_discrete

    low, high = (float(end) for end in given.support())
    kind = given.dist.name
    if kind == "uniform":
        return Dimension(distributions.FloatDistribution(low, high))
    if kind == "randint":
        return Dimension(distributions.IntDistribution(int(low), int(high)))
    # Moved by `loc`, it would have its median elsewhere.
    if kind in ("loguniform", "reciprocal") and np.isclose(given.median(), np.sqrt(low * high)):
        return Dimension(distributions.FloatDistribution(low, high, log=True))
    quantile = distributions.FloatDistribution(_LEAST, _MOST)
    value: Any = int if isinstance(given.dist, rv_discrete) else float
    return Dimension(quantile, lambda drawn: value(given.ppf(drawn)))


def _labels(values: Any) -> dict[Any, Any]:
    """Choices as Optuna's storages hold them, and what they stand for."""
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if all(isinstance(value, _PLAIN) for value in values) and _differ(values):
        return dict(zip(values, values, strict=True))
    labels = [v if isinstance(v, str) else _described(v) for v in values]
    if not _differ(labels):
        labels = [f"{i}: {label}" for i, label in enumerate(labels)]
    return dict(zip(labels, values, strict=True))


def _described(value: Any) -> str:
    """One line that is the same in every process."""
    return " ".join(without_addresses(value).split())


def _differ(values: list[Any]) -> bool:
    return len(set(values)) == len(values)


def _optuna() -> Any:
    """Optuna, which is not loaded with this module, as it takes its time."""
    import optuna

    return optuna
