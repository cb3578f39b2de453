"""What a network does with its tensors, as far as that can be read off."""

from __future__ import annotations

import contextlib
import dis
import functools
import hashlib
import inspect
import sys
import types
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sktl.backbones._weights import add_tensor, digest_tensors
from sktl.utils._sameness import without_addresses

__all__ = ["digest_structure", "is_of_library"]

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
# What the program that runs, a notebook too, is called: in it, and in processes that it starts.
_SCRIPT = "__main__"
_SCRIPTS = (_SCRIPT, "__mp_main__")


def digest_structure(module: nn.Module) -> str:
    """SHA-256 of what a network does with its tensors, as far as that can be read off.

    That is its modules with their options, the buffers that are not saved, hooks, and functions
    that it holds; of classes that come with no library known here also their code, the functions
    that this calls, and whatever their instances hold.
    """
    description = _Description()
    description.add_network(module)
    description.finish()
    return description.digest.hexdigest()


def is_of_library(kind: type) -> bool:
    """Whether a class comes with PyTorch, with a library of networks, or with this one."""
    return _root(kind) in _LIBRARIES


class _Description:
    """Puts things into a digest, each once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        # By their address, in which order they came; held, so that no other gets it.
        self._seen: dict[int, tuple[int, Any]] = {}
        # Functions and classes, which may call each other deeper than Python nests calls.
        self._later: deque[Any] = deque()

    def finish(self) -> None:
        """Put in what was left for later."""
        while self._later:
            thing = self._later.popleft()
            if isinstance(thing, type):
                self._add_class(thing)
            else:
                self._add_function(thing)

    def add_network(self, network: nn.Module) -> None:
        self._write(without_addresses(network))
        saved, inherited = network.state_dict().keys(), vars(nn.Module()).keys()
        for name, buffer in network.named_buffers():
            if name not in saved:
                self._write(name)
                self.add(buffer)
        parts = dict(network.named_modules(remove_duplicate=False))
        for part in parts.values():
            self._see(part)
        described: set[int] = set()
        for name, part in parts.items():
            kind, number = type(part), self._seen[id(part)][0]
            self._write(f"{name} {_name(kind)} {number}")
            if number in described:
                continue
            described.add(number)
            for table in _HOOKS:
                self.add(list(vars(part).get(table, {}).values()))
            if isinstance(part, torch.fx.GraphModule):
                self._write(part.code)
            own = {k: v for k, v in vars(part).items() if k not in inherited or k == "forward"}
            if is_of_library(kind):
                own = {k: v for k, v in own.items() if isinstance(v, (*_FUNCTIONS, *_PLAIN, list))}
            else:
                self.add(kind)
            self._add_table(own)

    def add(self, thing: Any) -> None:
        """Whatever a network may hold."""
        if type(thing) in _PLAIN or isinstance(thing, np.generic):
            self._write(f"{type(thing).__name__} {thing!r}")
        elif isinstance(thing, torch.Tensor) and thing.is_meta:  # of a run without numbers
            self._write(f"{thing.dtype} {tuple(thing.shape)}")
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
        is_object = not isinstance(thing, (type, nn.Module, types.FunctionType))
        if is_object and not _is_installed(type(thing)):
            self.add(type(thing))
            self._add_table(_attributes(thing))
        if isinstance(thing, (list, tuple, deque)):
            self._add_all(list(thing))
        elif isinstance(thing, (set, frozenset)):
            self._add_all(sorted(thing, key=without_addresses))
        elif isinstance(thing, Mapping):
            self._add_all([part for item in thing.items() for part in item])
        elif isinstance(thing, _PLAIN):
            self._write(repr(thing))
        elif isinstance(thing, functools.partial):
            self._add_all((thing.func, thing.args, thing.keywords))
        elif isinstance(thing, types.MethodType):
            self._add_all((thing.__func__, thing.__self__))
        elif isinstance(thing, property):
            self.add(thing.fget)
        elif isinstance(thing, (staticmethod, classmethod)):
            self.add(thing.__func__)
        elif isinstance(thing, functools.cached_property):
            self.add(thing.func)
        elif isinstance(thing, torch.jit.ScriptFunction):
            code: Any = thing.code
            self._write(code)
        elif isinstance(thing, nn.Module):  # which is no part of the network's own tree
            self._write(digest_tensors(thing))
            self.add_network(thing)
        elif isinstance(thing, types.FunctionType):
            self._write(_name(thing))
            if not _is_installed(thing):
                self._later.append(thing)
        elif isinstance(thing, type):
            self._later.append(thing)
        elif isinstance(thing, types.SimpleNamespace):
            self._add_table(vars(thing))
        elif _is_installed(type(thing)):
            self._write(without_addresses(thing))
            self.add(getattr(thing, "__wrapped__", None))  # of functools.cache

    def _add_function(self, function: types.FunctionType) -> None:
        code, known = function.__code__, function.__globals__
        self._add_code(code)
        self._add_all((function.__defaults__, function.__kwdefaults__))
        names = _names_of(code)
        read = _names_in(code, "LOAD_GLOBAL", "LOAD_NAME")
        used = [(name, known[name]) for name in sorted(read & known.keys())]
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # empty yet
                used.append((name, cell.cell_contents))
        for name, value in used:
            self._write(name)
            if isinstance(value, types.ModuleType):
                self._add_module(value, names)
            else:
                self.add(value)
        for name in sorted(_names_in(code, "IMPORT_NAME")):
            for module in (name, f"{known.get('__package__')}.{name}"):
                if module in sys.modules:
                    self._add_module(sys.modules[module], names)

    def _add_module(self, module: types.ModuleType, names: set[str]) -> None:
        """What code with these names in it may use of a module."""
        if _is_installed(module):
            return
        there = {name: value for name, value in vars(module).items() if not name.startswith("__")}
        used = there.keys() if "getattr" in names else names & there.keys()
        for name in sorted(used):
            self._write(name)
            if not isinstance(there[name], types.ModuleType):
                self.add(there[name])
            elif there[name].__name__.startswith(f"{module.__name__}."):  # one of its own parts
                self._add_module(there[name], names)

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
            if is_of_library(base):
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
    module = getattr(thing, "__module__", "")
    module = _SCRIPT if module in _SCRIPTS else module
    return f"{module}.{getattr(thing, '__qualname__', '')}"


def _root(thing: Any) -> str:
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return (name or "").partition(".")[0]


def _attributes(thing: Any) -> dict[str, Any]:
    """What an object holds under a name."""
    slots = [
        name
        for kind in type(thing).__mro__
        for name, value in vars(kind).items()
        if isinstance(value, types.MemberDescriptorType)
    ]
    held = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    return {**held, **getattr(thing, "__dict__", {})}


def _is_installed(thing: Any) -> bool:
    """Whether it came with Python or a package, which stays as it is as long as its version."""
    root = _root(thing)
    if root in _SCRIPTS:  # whose file is, in a worker process, that of what started it
        return False
    if root in _LIBRARIES or root in sys.stdlib_module_names:
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


def _names_in(code: types.CodeType, *operations: str) -> set[str]:
    """What some operations of the code are given."""
    return {
        step.argval
        for inner in _codes(code)
        for step in dis.get_instructions(inner)
        if step.opname in operations
    }
