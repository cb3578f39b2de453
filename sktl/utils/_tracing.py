"""Networks as graphs, and these as ONNX files."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sktl.utils._quiet import Quiet

if TYPE_CHECKING:
    import torch

__all__ = ["traced", "write_onnx"]

# The tracer, the exporter and the switch of its log are those of the whole process.
_lock = threading.Lock()


def traced(network: torch.nn.Module, pixels: torch.Tensor) -> torch.jit.ScriptModule:
    """What a network does with a batch, as a graph. Other threads can use other networks meanwhile.

    Parameters
    ----------
    network : nn.Module
        The network.
    pixels : Tensor
        The batch.

    Returns
    -------
    graph : torch.jit.ScriptModule
        It shares the network's tensors.

    Raises
    ------
    Exception
        Of the tracer or the network.
    """
    import torch

    with _lock, _without_warnings(), torch.no_grad():
        graph: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, pixels, check_trace=False
        )
    return graph


def write_onnx(
    network: torch.nn.Module,
    pixels: Sequence[torch.Tensor],
    file: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Write a network as ONNX, for batches of any size. Nothing is printed.

    Parameters
    ----------
    network : nn.Module
        The network.
    pixels : sequence of Tensor
        One batch for each input.
    file : Path
        Where to.
    inputs, outputs : sequence of str
        Their names in the file.

    Raises
    ------
    Exception
        Of the exporter, of many types.
    """
    import torch

    with _lock, _without_warnings(), _without_log():
        torch.onnx.export(
            network,
            tuple(pixels),
            file,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in (*inputs, *outputs)},
            dynamo=False,  # the other exporter cannot follow hooks
        )


def _without_warnings() -> Quiet:
    """Without remarks about constants, and about exporters to come."""
    from torch.jit._trace import TracerWarning

    return Quiet({"category": TracerWarning}, {"module": r"(torch|sktl\.utils\._tracing)\b"})


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Keep PyTorch's exporter from switching its log on, which prints what it could not write.

    It means to restore the setting that it finds, and takes the function that tells it for its
    answer (torch 2.15, ``setup_onnx_logging``).
    """
    from torch import _C

    switch = getattr(_C, "_jit_set_onnx_log_enabled", None)
    if switch is None:
        yield
        return
    _C._jit_set_onnx_log_enabled = lambda enabled: None
    try:
        yield
    finally:
        _C._jit_set_onnx_log_enabled = switch
