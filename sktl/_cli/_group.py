"""Errors and warnings as a person at a terminal wants them: a message, no traceback."""

from __future__ import annotations

import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from sktl.exceptions import SktlError

__all__ = ["CleanGroup"]


class CleanGroup(TyperGroup):
    """Commands whose expected errors end the process with exit code 1 and one message.

    What is not expected is a fault of the program, and keeps its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # typer's own affair, as in `sktl backbones | head`
                raise
            except (SktlError, OSError) as error:
                message = str(error)
            typer.echo(f"Error: {message}", err=True)
            raise typer.Exit(1)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"Warning: {message}", err=True)
