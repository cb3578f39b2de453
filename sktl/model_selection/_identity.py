"""What a search is of, in words that are the same in every process."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import joblib
import numpy as np

from sktl.utils._sameness import ADDRESS
from sktl.utils._sklearn import num_samples

__all__ = ["identity", "in_words"]

# Parameters that do not change what a search finds.
_IMMATERIAL = {
    "cache_bytes", "checkpoint_dir", "device", "memory", "n_jobs", "pre_dispatch", "runtime",
    "store", "verbose",
}  # fmt: skip
_PLAIN = (str, bytes, int, float, np.generic, np.ndarray, os.PathLike, list, tuple)
_SHOWN = 100


def identity(
    estimator: Any,
    searched: Collection[str],
    X: Any,
    y: Any,
    splits: Sequence[Any],
    scorer: Any,
    fit_params: Mapping[str, Any],
    score_params: Mapping[str, Any],
    others: Mapping[str, Any],
) -> dict[str, str]:
    """What decides the score of a candidate: a short text for each part of it."""
    params = estimator.get_params(deep=True)
    # The parameters of these are listed themselves.
    listed = {id(value) for value in params.values() if hasattr(value, "get_params")}
    words = {
        "estimator": type(estimator).__name__,
        "X": _samples(X),
        "y": joblib.hash(None if y is None else _digest(np.asarray(y))),
        "folds": joblib.hash([tuple(map(np.asarray, fold)) for fold in splits]),
        "scoring": in_words(scorer),
        **{name: in_words(value) for name, value in others.items()},
        **{f"fit's {name}": in_words(value) for name, value in fit_params.items()},
        **{f"scorer's {name}": in_words(value) for name, value in score_params.items()},
        **{
            f"estimator's {name}": in_words(value, listed)
            for name, value in params.items()
            if name not in searched and name.rpartition("__")[2] not in _IMMATERIAL
        },
    }
    return {name: _shortened(text) for name, text in words.items()}


def in_words(value: Any, listed: AbstractSet[int] = frozenset()) -> str:
    """Text that tells values apart by their content, and is the same in every process.

    Functions and classes are told apart by their names, and lambdas, whose name is the same, by
    what they do. Of what is in `listed`, by its id, only the type is told.
    """
    say = functools.partial(in_words, listed=listed)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, (str, bytes)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(say, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{say(k)}: {say(v)}' for k, v in value.items()))}}}"
    if isinstance(value, AbstractSet):
        return f"{{{', '.join(sorted(map(say, value)))}}}"
    if hasattr(value, "iloc"):  # a frame or a series
        return f"{type(value).__name__} {_digest(value.to_numpy())}"
    if isinstance(value, np.ndarray):
        return f"array of shape {value.shape}, {value.dtype}: {_digest(value)}"
    if isinstance(value, functools.partial):
        return f"partial({say(value.func)}, {say(value.args)}, {say(value.keywords)})"
    if inspect.ismethod(value):
        return f"{say(value.__self__)}.{value.__name__}"
    if isinstance(value, types.LambdaType) and value.__name__ == "<lambda>":
        name = f"{value.__module__}.{value.__qualname__}"
        if id(value) in listed:  # it calls itself
            return name
        cells = [_content(cell) for cell in value.__closure__ or ()]
        inside = _code(value.__code__), cells, value.__defaults__, value.__kwdefaults__
        return f"{name}({joblib.hash(in_words(inside, listed | {id(value)}))})"
    if inspect.isroutine(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return _object(value, listed)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is not filled yet
        return None


def _code(code: types.CodeType) -> tuple[Any, ...]:
    """Instructions, names and constants, wherever it stands."""
    parts = [_code(c) if isinstance(c, types.CodeType) else c for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, parts


def _object(value: Any, listed: AbstractSet[int]) -> str:
    kind = type(value).__name__
    if id(value) in listed:
        return kind
    inner = listed | {id(value)}  # what refers to itself comes to an end
    if hasattr(value, "get_params") and not isinstance(value, type):
        params = value.get_params(deep=False)
        told = {k: in_words(v, inner) for k, v in params.items() if k not in _IMMATERIAL}
        return f"{kind}({', '.join(f'{name}={text}' for name, text in told.items())})"
    weights = _weights(value)
    if weights is not None:
        return f"{kind} {weights}"
    try:
        text = repr(value)
    except AttributeError:  # a scorer of scikit-learn's has none for a callable without a name
        text = "..."
    if not ADDRESS.search(text) and "..." not in text:
        return text
    return f"{kind} {in_words(vars(value), inner)}" if hasattr(value, "__dict__") else kind


def _weights(value: Any) -> str | None:
    """Digest of a tensor's values, or of a network's structure and weights; None for others."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.Tensor):
        return _digest(value.detach().cpu().numpy())
    module = value if isinstance(value, torch.nn.Module) else getattr(value, "module", None)
    if not isinstance(module, torch.nn.Module):
        return None
    from sktl.backbones._structure import digest_structure
    from sktl.backbones._weights import digest_tensors

    preprocessing = getattr(value, "preprocessing", None)  # of a Backbone
    parts = digest_tensors(module), digest_structure(module), preprocessing
    return str(joblib.hash(repr(parts)))


def _samples(X: Any) -> str:
    """Numbers by their content, paths by their letters, all else by how many there are."""
    n = num_samples(X)
    values = X.to_numpy() if hasattr(X, "iloc") else X
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "OUS":
            return f"{n} samples, {_digest(values)}"
        values = values.tolist()
    if isinstance(values, (list, tuple)) and all(isinstance(value, _PLAIN) for value in values):
        return f"{n} samples, {joblib.hash([*map(in_words, values)])}"
    return f"{n} samples in {type(X).__name__}"


def _digest(array: Any) -> str:
    """Hash of an array's content, however it lies in memory and however wide its strings are."""
    array = np.asarray(array)
    if array.dtype.kind in "OUS":
        return str(joblib.hash(in_words(array.tolist())))
    return str(joblib.hash(np.ascontiguousarray(array)))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({joblib.hash(text)})"
