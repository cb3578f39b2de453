"""What a network does with its tensors, as far as that can be read off."""

from __future__ import annotations

import contextlib
import dis
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sktl.backbones._weights import add_tensor, digest_tensors
from sktl.utils._sameness import without_addresses

__all__ = ["digest_structure"]

# Their versions are part of what identifies features anyway, or their modules say all.
_LIBRARIES = ("torch", "torchvision", "timm", "sktl")
_PLAIN = (bool, int, float, complex, str, bytes, np.generic, types.NoneType, types.EllipsisType)
_FUNCTIONS = (
    types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial,
)  # fmt: skip
# What every class has, or what follows from the rest.
_OF_CLASSES = {
    "__annotate__", "__annotate_func__", "__annotations__", "__dict__", "__doc__",
    "__firstlineno__", "__module__", "__static_attributes__", "__weakref__",
}  # fmt: skip
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def digest_structure(module: nn.Module) -> str:
    """SHA-256 of what a network does with its tensors, as far as that can be read off.

    That is its modules with their options, the buffers that are not saved, hooks, and functions
    that it holds; of classes that come with no library known here also their code, the functions
    that this calls, and whatever their instances hold.
    """
    description = _Description()
    description.add_network(module)
    return description.digest.hexdigest()


class _Description:
    """Puts things into a digest, each once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        # By their address, in which order they came; held, so that no other gets it.
        self._seen: dict[int, tuple[int, Any]] = {}

    def add_network(self, network: nn.Module) -> None:
        self._write(without_addresses(network))
        saved, inherited = network.state_dict().keys(), vars(nn.Module()).keys()
        for name, buffer in network.named_buffers():
            if name not in saved:
                self._write(name)
                self.add(buffer)
        parts = dict(network.named_modules())
        for part in parts.values():
            self._see(part)
        for name, part in parts.items():
            kind = type(part)
            self._write(f"{name} {_name(kind)}")
            for table in _HOOKS:
                self.add(list(vars(part).get(table, {}).values()))
            if isinstance(part, torch.fx.GraphModule):
                self._write(part.code)
            own = {k: v for k, v in vars(part).items() if k not in inherited or k == "forward"}
            if _root(kind) in _LIBRARIES:
                own = {k: v for k, v in own.items() if isinstance(v, _FUNCTIONS)}
            else:
                self.add(kind)
            self._add_table(own)

    def add(self, thing: Any) -> None:
        """Whatever a network may hold."""
        if isinstance(thing, _PLAIN):
            self._write(f"{type(thing).__name__} {thing!r}")
        elif isinstance(thing, torch.Tensor):
            add_tensor(self.digest, "", thing)
        elif isinstance(thing, np.ndarray) and thing.dtype != object:
            self._write(f"{thing.dtype} {thing.shape}")
            self.digest.update(thing.tobytes())
        elif id(thing) in self._seen:
            self._write(f"again {self._seen[id(thing)][0]}")
        else:
            self._see(thing)
            self._write(_name(type(thing)))
            self._add_new(thing)

    def _see(self, thing: Any) -> None:
        self._seen.setdefault(id(thing), (len(self._seen), thing))

    def _add_new(self, thing: Any) -> None:
        if isinstance(thing, (list, tuple)):
            self._add_all(thing)
        elif isinstance(thing, (set, frozenset)):
            self._add_all(sorted(thing, key=repr))
        elif isinstance(thing, dict):
            self._add_table({without_addresses(key): value for key, value in thing.items()})
        elif isinstance(thing, functools.partial):
            self._add_all((thing.func, thing.args, thing.keywords))
        elif isinstance(thing, types.MethodType):
            self._add_all((thing.__func__, thing.__self__))
        elif isinstance(thing, property):
            self.add(thing.fget)
        elif isinstance(thing, (staticmethod, classmethod)):
            self.add(thing.__func__)
        elif isinstance(thing, nn.Module):  # which is no part of the network's own tree
            self._write(digest_tensors(thing))
            self.add_network(thing)
        elif isinstance(thing, types.FunctionType):
            self._write(_name(thing))
            if not _is_installed(thing):
                self._add_function(thing)
        elif isinstance(thing, type):
            self._add_class(thing)
        elif hasattr(thing, "__dict__") and not _is_installed(type(thing)):
            self.add(type(thing))
            self._add_table(vars(thing))
        else:
            self._write(without_addresses(thing))

    def _add_function(self, function: types.FunctionType) -> None:
        self._add_code(function.__code__)
        self._add_all((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # empty yet
                self.add(cell.cell_contents)
        known = function.__globals__
        for name in sorted(_globals_of(function.__code__) & known.keys()):
            self._write(name)
            value = known[name]
            if isinstance(value, types.ModuleType):
                if not _is_installed(value):
                    names = _names_of(function.__code__) & vars(value).keys()
                    self._add_table({used: vars(value)[used] for used in names})
            else:
                self.add(value)

    def _add_code(self, code: types.CodeType) -> None:
        self.digest.update(code.co_code)
        self._write(f"{code.co_names} {code.co_varnames}")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._add_code(constant)
            else:
                self.add(constant)

    def _add_class(self, kind: type) -> None:
        for base in kind.__mro__:
            self._write(_name(base))
            if _root(base) in _LIBRARIES:
                continue
            if _is_installed(base):
                with contextlib.suppress(OSError, TypeError):
                    self._write(inspect.getsource(base))
            else:
                self._add_table({k: v for k, v in vars(base).items() if k not in _OF_CLASSES})

    def _add_all(self, things: Sequence[Any]) -> None:
        self._write(str(len(things)))
        for thing in things:
            self.add(thing)

    def _add_table(self, table: dict[str, Any]) -> None:
        for key, value in sorted(table.items()):
            # Empty ones may be filled by running.
            if not (isinstance(value, (dict, list, set)) and not value):
                self._write(key)
                self.add(value)

    def _write(self, text: str) -> None:
        self.digest.update(f"{len(text)} {text}\n".encode("utf-8", "surrogatepass"))


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"


def _root(thing: Any) -> str:
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return (name or "").partition(".")[0]


def _is_installed(thing: Any) -> bool:
    """Whether it came with Python or a package, which stays as it is as long as its version."""
    root = _root(thing)
    if root in _LIBRARIES or (root in sys.stdlib_module_names and root != "__main__"):
        return True
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _codes(code: types.CodeType) -> Iterable[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _names_of(code: types.CodeType) -> set[str]:
    return {name for inner in _codes(code) for name in inner.co_names}


def _globals_of(code: types.CodeType) -> set[str]:
    return {
        step.argval
        for inner in _codes(code)
        for step in dis.get_instructions(inner)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
