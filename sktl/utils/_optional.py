"""Packages that only some calls need."""

from __future__ import annotations

import importlib
from types import ModuleType

from sktl.exceptions import MissingDependencyError

__all__ = ["import_optional"]


def import_optional(module: str, *, extra: str, caller: str) -> ModuleType:
    """Import `module`, or say who needs it and which extra of sktl installs it.

    Parameters
    ----------
    module : str
        Dotted name to import.
    extra : str
        The extra of sktl that installs it.
    caller : str
        What cannot work without it.

    Returns
    -------
    module : module

    Raises
    ------
    MissingDependencyError
        If the package is not installed. What else goes wrong while it is imported, such as the
        lack of a package that it needs itself, is raised as it is.

    Examples
    --------
    >>> import_optional("no_such_package", extra="plot", caller="the gallery")
    Traceback (most recent call last):
    ...
    sktl.exceptions.MissingDependencyError: the gallery needs the package no_such_package, which \
is not installed. Install it with: pip install "sktl[plot]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = module.partition(".")[0]
        if error.name != missing:
            raise
        raise MissingDependencyError(
            f"{caller} needs the package {missing}, which is not installed. "
            f'Install it with: pip install "sktl[{extra}]"'
        ) from error
