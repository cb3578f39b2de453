"""The networks of Contrastive Predictive Coding: patches, their encoder, their context."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from sktl.nn.info_nce import Contrast, info_nce

__all__ = ["CPCNetwork", "PatchGrid", "RowContext", "cut_patches", "small_encoder"]

Normalization = Literal["layer", "batch"]


def cut_patches(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Overlapping patches of pictures.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        Pictures.
    size : int
        Side of a patch, in pixels.
    stride : int
        From one patch to the next, in pixels.

    Returns
    -------
    patches : Tensor of shape (N, rows, columns, C, size, size)
        Pixels at the right and lower border that make no whole patch are left out.

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import cut_patches
    >>> cut_patches(torch.zeros(2, 3, 28, 28), 8, 4).shape
    torch.Size([2, 6, 6, 3, 8, 8])
    """
    n, c, height, width = x.shape
    rows, columns = (
        torch.arange((side - size) // stride + 1, device=x.device)[:, None] * stride
        + torch.arange(size, device=x.device)
        for side in (height, width)
    )
    strips = x.index_select(2, rows.flatten()).reshape(n, c, *rows.shape, width)
    patches = strips.index_select(4, columns.flatten()).reshape(n, c, *rows.shape, *columns.shape)
    return patches.permute(0, 2, 4, 1, 3, 5)  # (N, C, r, h, c, w) -> (N, r, c, C, h, w)


def small_encoder(n_features: int, normalization: Normalization = "layer") -> nn.Sequential:
    """Two convolutions with stride 2 and two fully connected layers, for patches.

    Parameters
    ----------
    n_features : int
        Number of outputs.
    normalization : {"layer", "batch"}, default="layer"
        Of each patch by itself, or by the statistics of the batch.

    Returns
    -------
    encoder : nn.Sequential
        (N, 3, size, size) to (N, n_features).

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import small_encoder
    >>> small_encoder(64)(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 64])
    """

    def block(n_in: int, n_out: int, kernel: int) -> list[nn.Module]:
        norm = nn.GroupNorm(1, n_out) if normalization == "layer" else nn.BatchNorm2d(n_out)
        return [nn.Conv2d(n_in, n_out, kernel, 2, 1, bias=False), norm, nn.ReLU()]

    return nn.Sequential(
        *block(3, 64, 4),
        *block(64, 128, 3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, n_features),
    )


class PatchGrid(nn.Module):
    """An encoder of patches, as a network from pictures to feature maps.

    Parameters
    ----------
    encoder : nn.Module
        (N, 3, size, size) to (N, n_features).
    size : int
        Side of a patch, in pixels.
    stride : int
        From one patch to the next, in pixels.

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import PatchGrid, small_encoder
    >>> PatchGrid(small_encoder(64), 8, 4)(torch.zeros(2, 3, 28, 28)).shape
    torch.Size([2, 64, 6, 6])
    """

    def __init__(self, encoder: nn.Module, size: int, stride: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.grid = nn.Identity()  # a name for the maps
        self.size, self.stride = size, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, n_features, rows, columns)."""
        return self.encode(cut_patches(x, self.size, self.stride))

    def encode(self, patches: torch.Tensor) -> torch.Tensor:
        """(N, rows, columns, 3, size, size) to (N, n_features, rows, columns)."""
        n, rows, columns = patches.shape[:3]
        flat = patches.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        z = self.encoder(flat)  # (N r c, D)
        maps: torch.Tensor = self.grid(z.view(n, rows, columns, -1).permute(0, 3, 1, 2))
        return maps


class RowContext(nn.Module):
    """Context of each position of a grid: a summary of its row and of all rows above.

    Parameters
    ----------
    n_features : int
        Of the grid, and of the context.
    kind : {"pixelcnn", "gru"}, default="pixelcnn"
        Residual convolutions over two rows and three columns, or a recurrent unit down each
        column.
    n_layers : int, default=4
        Of the convolutions, each of which sees one row further up.

    References
    ----------
    O. J. Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding",
    arXiv:1905.09272, section 2.1.

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import RowContext
    >>> RowContext(64)(torch.zeros(2, 64, 6, 6)).shape
    torch.Size([2, 64, 6, 6])
    """

    def __init__(
        self, n_features: int, kind: Literal["pixelcnn", "gru"] = "pixelcnn", n_layers: int = 4
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gru":
            self.gru = nn.GRU(n_features, n_features, batch_first=True)
        else:
            self.convolutions = nn.ModuleList(
                nn.Conv2d(n_features, n_features, (2, 3)) for _ in range(n_layers)
            )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(N, D, rows, columns) to the same shape."""
        n, d, rows, columns = z.shape
        if self.kind == "gru":
            by_column = z.permute(0, 3, 2, 1).reshape(n * columns, rows, d)  # (N c, r, D)
            context: torch.Tensor = self.gru(by_column)[0]
            return context.reshape(n, columns, rows, d).permute(0, 3, 2, 1)
        for convolution in self.convolutions:
            # One row of zeros above, none below: a row never sees the next one.
            z = z + F.relu(convolution(F.pad(z, (1, 1, 1, 0))))
        return z


class CPCNetwork(nn.Module):
    """Encoder, contexts and predictions of Contrastive Predictive Coding.

    Parameters
    ----------
    grid : PatchGrid
        The encoder.
    n_features : int
        Of the encoder.
    context : {"pixelcnn", "gru"}, default="pixelcnn"
        See :class:`RowContext`.
    directions : {1, 2, 4}, default=1
        Downward; and upward; and to both sides. Each has its own context and predictions.
    first_step : int, default=2
        Rows between a context and the first row that it predicts: enough for their patches not to
        share pixels.
    n_steps : int, default=3
        How many rows it predicts.

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import CPCNetwork, PatchGrid, small_encoder
    >>> network = CPCNetwork(PatchGrid(small_encoder(64), 8, 4), 64)
    >>> contrasts = network.contrasts(torch.rand(4, 6, 6, 3, 8, 8))
    >>> [contrast.n_candidates for contrast in contrasts]  # 4 pictures, 4, 3 and 2 rows of 6
    [96, 72, 48]
    """

    def __init__(
        self,
        grid: PatchGrid,
        n_features: int,
        context: Literal["pixelcnn", "gru"] = "pixelcnn",
        directions: int = 1,
        first_step: int = 2,
        n_steps: int = 3,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.first_step = first_step
        # Turns of the grid by 90 degrees after which the direction is downward.
        self.turns = {1: (0,), 2: (0, 2), 4: (0, 1, 2, 3)}[directions]
        self.contexts = nn.ModuleList(RowContext(n_features, context) for _ in self.turns)
        self.predictors = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(n_features, n_features, 1) for _ in range(n_steps))
            for _ in self.turns
        )

    def context(self, z: torch.Tensor) -> torch.Tensor:
        """(N, D, rows, columns) latents to the mean of the contexts, the same shape."""
        contexts = [
            torch.rot90(context(torch.rot90(z, turn, (2, 3))), -turn, (2, 3))
            for turn, context in zip(self.turns, self.contexts, strict=True)
        ]
        return torch.stack(contexts).mean(0)

    def contrasts(
        self,
        patches: torch.Tensor,
        *,
        temperature: float = 0.1,
        n_negatives: int | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Contrast]:
        """The contrastive tasks of a batch, one for each direction and step.

        Parameters
        ----------
        patches : Tensor of shape (N, rows, columns, 3, size, size)
            Patches of pictures.
        temperature : float, default=0.1
            As of :func:`info_nce`.
        n_negatives : int, default=None
            As of :func:`info_nce`; they are from the same and from other pictures.
        generator : torch.Generator, default=None
            Chooses the negatives.

        Returns
        -------
        contrasts : list of Contrast
        """
        grid = self.grid.encode(patches)
        found = []
        for turn, context, predictors in zip(
            self.turns, self.contexts, self.predictors, strict=True
        ):
            z = torch.rot90(grid, turn, (2, 3))
            c = context(z)
            steps: Any = enumerate(predictors, start=self.first_step)  # type: ignore[arg-type]
            for step, predictor in steps:
                if step >= z.shape[2]:
                    break
                predicted = predictor(c[:, :, :-step])
                found.append(
                    info_nce(
                        _rows_of(predicted),
                        _rows_of(z[:, :, step:]),
                        temperature=temperature,
                        n_negatives=n_negatives,
                        generator=generator,
                    )
                )
        return found


def _rows_of(maps: torch.Tensor) -> torch.Tensor:
    """(N, D, rows, columns) to (N rows columns, D)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
