"""The command line: a few lines for each command over what the library offers.

Here things are printed, and errors become one message; the library itself does neither. Asking for
help loads neither torch nor matplotlib.
"""

from __future__ import annotations

import sys

from sktl.exceptions import MissingDependencyError
from sktl.utils._optional import import_optional

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments of this process name, and end the process."""
    try:
        import_optional("typer", extra="cli", caller="the command line")
    except MissingDependencyError as error:
        sys.exit(f"Error: {error}")
    from sktl._cli._app import app

    app(prog_name="sktl")
