"""Several processes that train one network together, each on its share of a batch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sktl.utils._torch import launched_process

__all__ = ["Team"]


class Team:
    """The processes that `accelerate launch` started; one process alone is a team of one.

    All processes shuffle alike, so that each knows whose share of a batch is whose. The sum of
    their gradients is the gradient of the whole batch, and their networks stay equal.

    Parameters
    ----------
    index, size : int
        The number of this process among how many.
    """

    def __init__(self, index: int = 0, size: int = 1) -> None:
        self.index, self.size = index, size

    @classmethod
    def launched(cls) -> Team:
        """The team that this process was started in."""
        state = launched_process()
        return cls(state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.index == 0

    def share(self, positions: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Those of the pictures of a batch that this process works on."""
        return positions[self.index :: self.size]

    def sum(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Sum of some numbers over all processes."""
        if self.size == 1:
            return np.asarray(values, np.float64)
        tensor = torch.as_tensor(np.asarray(values, np.float64))
        total: npt.NDArray[np.float64] = self._sum(tensor).numpy()
        return total

    def share_step(self, module: nn.Module, loss: torch.Tensor) -> torch.Tensor:
        """Sum the gradients of all processes and average their running statistics.

        Parameters
        ----------
        module : nn.Module
            With the gradients of this process's part of the loss.
        loss : Tensor
            That part.

        Returns
        -------
        loss : Tensor
            Of the whole batch.
        """
        if self.size == 1:
            return loss
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        statistics = list(_moving_statistics(module))
        parts = [loss.detach().reshape(1), *gradients, *statistics]
        # One message: what it costs is mostly the sending of it.
        total = self._sum(torch.cat([part.reshape(-1).float() for part in parts]))
        summed = torch.split(total, [part.numel() for part in parts])
        for part, values in zip(parts[1:], summed[1:], strict=True):
            part.copy_(values.view(part.shape))
        for buffer in statistics:
            buffer /= self.size
        return summed[0][0]

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = tensor.to(launched_process().device)
        torch.distributed.all_reduce(total)
        return total.to(tensor.device)


def _moving_statistics(module: nn.Module) -> Iterable[torch.Tensor]:
    """Running means and variances that this step has changed."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training:
            yield from (b for b in (part.running_mean, part.running_var) if b is not None)
