"""What each filter of a network answers to most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from sktl.exceptions import ParameterError
from sktl.images import ImageCollection
from sktl.inspection._grid import make_axes, show
from sktl.inspection._networks import as_backbone, normalised, squares
from sktl.inspection._pictures import check_count, pictures_of, rows_of

if TYPE_CHECKING:
    from sktl.backbones import Backbone, FeatureNetwork

__all__ = ["ReceptiveField", "TopPatchesDisplay", "receptive_field", "top_patches"]

# Side of a patch as it is drawn, and the line between two, in pixels.
_TILE, _LINE = 64, 2
_GRAY = 200


class ReceptiveField(NamedTuple):
    """Which pixels each place of a layer's maps depends on.

    Attributes
    ----------
    rows : ndarray of shape (height, 2), dtype int64
        For each row of the maps, the first row of the input and the one behind the last.
    columns : ndarray of shape (width, 2), dtype int64
        The same for columns.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]


def receptive_field(
    backbone: Any, layer: str | int, *, image_size: int | None = None, batch_size: int = 16
) -> ReceptiveField:
    """Find which pixels each place of a layer's maps depends on, borders included.

    It is measured: one row or column of the input is made NaN, and whatever depends on it becomes
    NaN, through all kinds of layers and branches.

    Parameters
    ----------
    backbone : str, nn.Module, Backbone or estimator
        The network, or an estimator that has one.
    layer : str or int
        As of :class:`sktl.CNNFeatures`; one whose output are maps.
    image_size : int, default=None
        Side of the input in pixels; by default that of the weights.
    batch_size : int, default=16
        Pictures at once.

    Returns
    -------
    field : ReceptiveField
        Ends of the rows and columns of the input that rows and columns of the maps depend on.

    Raises
    ------
    ParameterError
        If the layer does not give maps.

    Examples
    --------
    >>> from torch import nn
    >>> from sktl.backbones import Backbone, Preprocessing
    >>> from sktl.inspection import receptive_field
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
    >>> backbone = Backbone(net, preprocessing=Preprocessing(size=12, resize=12))
    >>> receptive_field(backbone, "2").rows
    array([[ 0,  8],
           [ 2, 10],
           [ 4, 12]])
    """
    found = as_backbone(backbone)
    _check_maps(found, layer, image_size)
    check_count("batch_size", batch_size)
    return _measure(found, layer, image_size or found.preprocessing.size, batch_size)


def _measure(
    backbone: Backbone, layer: str | int, size: int, batch_size: int = 16
) -> ReceptiveField:
    import torch

    # On a GPU convolutions may be computed in tiles (Winograd), which NaN fills as a whole.
    network = backbone.feature_network([layer], device=torch.device("cpu"))
    _, height, width = backbone.shapes([layer], size)[0]
    return ReceptiveField(
        _ends(_reached_by_all(network, "rows", height, size, batch_size)),
        _ends(_reached_by_all(network, "columns", width, size, batch_size)),
    )


def _reached_by_all(
    network: FeatureNetwork, axis: str, n: int, size: int, batch_size: int
) -> npt.NDArray[np.bool_]:
    """Whether the n rows, or columns, of the maps depend on each of the input: (size, n)."""
    stride = size // n
    if size % n == 0 and 2 * stride + 3 <= size:
        # Where the pattern of one stride repeats itself, its beginning and its end tell all. Two
        # pixels in the middle, and what beginning and end say of each other, are the check.
        middle = [size // 3, size // 2]
        pixels = np.r_[np.arange(stride), middle, np.arange(size - stride, size)]
        seen = _reached(network, axis, pixels, size, batch_size)
        foreseen = _repeated(seen, stride, size)
        if np.array_equal(foreseen[pixels], seen):
            return foreseen
    return _reached(network, axis, np.arange(size), size, batch_size)


def _reached(
    network: FeatureNetwork, axis: str, pixels: npt.NDArray[Any], size: int, batch_size: int
) -> npt.NDArray[np.bool_]:
    """Whether rows, or columns, of the maps depend on some of the input: (n_pixels, h or w)."""
    import torch

    like = next(network.parameters(), torch.empty(0))
    reached = []
    with torch.inference_mode():
        for start in range(0, len(pixels), batch_size):
            places = torch.from_numpy(pixels[start : start + batch_size])
            x = torch.zeros((len(places), 3, size, size), dtype=like.dtype, device=like.device)
            # A whole row or column: of a single pixel the other axis may see nothing.
            lines = x if axis == "rows" else x.transpose(2, 3)
            lines[torch.arange(len(places)), :, places] = torch.nan
            (maps,) = network(x)
            across = 3 if axis == "rows" else 2
            reached.append(maps.isnan().any(dim=across).any(dim=1).cpu().numpy())
    return np.concatenate(reached)


def _repeated(seen: npt.NDArray[np.bool_], stride: int, size: int) -> npt.NDArray[np.bool_]:
    """(size, n) from the rows of the first and the last `stride` pixels.

    One stride on, a pixel reaches one place further. The last place that the first pixels reach
    is not cut off by the border, nor is the first place that the last pixels reach, unless that
    of all pixels is.
    """
    n = seen.shape[1]
    last_of_first = n - 1 - seen[:stride, ::-1].argmax(axis=1)
    first_of_last = seen[-stride:].argmax(axis=1)
    turn, offset = np.divmod(np.arange(size), stride)
    high = np.minimum(n - 1, last_of_first[offset] + turn)
    low = np.maximum(0, first_of_last[offset] - (turn[-1] - turn))
    places = np.arange(n)
    reached: npt.NDArray[np.bool_] = (places >= low[:, None]) & (places <= high[:, None])
    return reached


def _ends(reached: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(size, n) whether a place depends on a pixel, to (n, 2) first one and one behind the last."""
    first = reached.argmax(axis=0)
    last = len(reached) - reached[::-1].argmax(axis=0)
    return np.stack([first, np.where(reached.any(axis=0), last, first)], axis=1).astype(np.int64)


def top_patches(
    estimator: Any,
    X: Any,
    layer: str | int = "bottleneck",
    *,
    filters: Sequence[int] | None = None,
    n_patches: int = 9,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Find the patches of pictures that filters of a layer answer to most, one a picture.

    Parameters
    ----------
    estimator : str, nn.Module, Backbone or estimator
        A network, or CNNFeatures, a fitted CNNClassifier, or a pipeline that begins with one.
    X : array-like of n_images pictures
        Anything that :func:`sktl.images.as_images` takes; the more the better.
    layer : str or int, default="bottleneck"
        As of :class:`sktl.CNNFeatures`; one whose output are maps.
    filters : sequence of int, default=None
        Which channels of the layer; all by default.
    n_patches : int, default=9
        How many patches of each filter.
    batch_size : int, default=32
        Pictures at once.

    Returns
    -------
    table : DataFrame
        One row a patch, for each filter the strongest first: `filter`, `image` (position in X),
        `activation`, and `top`, `bottom`, `left`, `right`: its receptive field in pixels of the
        square that the network sees, without the part beyond the border. `bottom` and `right` are
        one behind the last.

    Raises
    ------
    ParameterError
        If the layer does not give maps, or has no such filter.

    References
    ----------
    M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014,
    arXiv:1311.2901, figure 2.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import load_backbone
    >>> from sktl.inspection import top_patches
    >>> backbone = load_backbone("resnet18", weights=None)  # random weights, for the example
    >>> table = top_patches(backbone, load_sample_images().images, "maxpool", filters=[0, 5])
    >>> table["filter"].tolist()
    [0, 0, 5, 5]
    """
    table, _, _ = _find(estimator, X, layer, filters, n_patches, batch_size)
    return table


def _find(
    estimator: Any,
    X: Any,
    layer: str | int,
    filters: Sequence[int] | None,
    n_patches: int,
    batch_size: int,
) -> tuple[pd.DataFrame, ReceptiveField, Any]:
    import torch

    check_count("n_patches", n_patches)
    check_count("batch_size", batch_size)
    images = pictures_of(X, estimator)
    size = _image_size(estimator)
    backbone = as_backbone(estimator)
    _check_maps(backbone, layer, size)
    network = backbone.feature_network([layer])
    preprocessing = backbone.preprocessing.at_size(size)
    n_filters, _, width = backbone.shapes([layer], preprocessing.size)[0]
    wanted = _check_filters(filters, n_filters)
    like = next(network.parameters(), torch.empty(0))
    strongest, where = [], []
    for start in range(0, len(images), batch_size):
        pixels = squares(images[start : start + batch_size], preprocessing)
        with torch.inference_mode():
            (maps,) = network(normalised(pixels, preprocessing, like))
        value, place = maps[:, wanted].flatten(2).max(dim=2)  # (N, n_wanted) each
        strongest.append(value.float().cpu().numpy())
        where.append(place.cpu().numpy())
    activation, place = np.concatenate(strongest), np.concatenate(where)
    field = _measure(backbone, layer, preprocessing.size)
    order = np.argsort(-activation, axis=0, kind="stable")[:n_patches].T  # (n_wanted, n_patches)
    column = np.arange(len(wanted))[:, None]
    rows, columns = np.divmod(place[order, column], width)
    table = pd.DataFrame(
        {
            "filter": np.repeat(wanted, order.shape[1]),
            "image": order.ravel(),
            "activation": activation[order, column].ravel(),
            "top": field.rows[rows.ravel(), 0],
            "bottom": field.rows[rows.ravel(), 1],
            "left": field.columns[columns.ravel(), 0],
            "right": field.columns[columns.ravel(), 1],
        }
    )
    return table, field, preprocessing


class TopPatchesDisplay:
    """For some filters, the patches that they answer to most, in a mosaic a filter.

    Parameters
    ----------
    table : DataFrame
        As of :func:`top_patches`.
    patches : list of ndarray
        The pixels of each row, (height, width, 3), uint8.
    layer : str, default=""
        Name of the layer.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import load_backbone
    >>> from sktl.inspection import TopPatchesDisplay
    >>> backbone = load_backbone("resnet18", weights=None)  # random weights, for the example
    >>> photographs = load_sample_images().images
    >>> display = TopPatchesDisplay.from_estimator(backbone, photographs, "maxpool", filters=[3])
    >>> display.patches[0].shape[2]
    3
    """

    def __init__(
        self, table: pd.DataFrame, patches: list[npt.NDArray[np.uint8]], layer: str = ""
    ) -> None:
        self.table = table
        self.patches = patches
        self.layer = layer

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        layer: str | int = "bottleneck",
        *,
        filters: Sequence[int] | None = None,
        n_patches: int = 9,
        batch_size: int = 32,
        ax: Any = None,
    ) -> Self:
        """Find the patches and draw them.

        Parameters
        ----------
        estimator : str, nn.Module, Backbone or estimator
            As of :func:`top_patches`.
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes; the more the better.
        layer : str or int, default="bottleneck"
            As of :func:`top_patches`.
        filters : sequence of int, default=None
            Which channels of the layer; by default twelve, evenly spread.
        n_patches : int, default=9
            How many patches of each filter.
        batch_size : int, default=32
            Pictures at once.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : TopPatchesDisplay
        """
        backbone = as_backbone(estimator)
        if filters is None:
            n_filters = backbone.shapes([layer])[0][0]
            filters = np.unique(np.linspace(0, n_filters - 1, 12).astype(int)).tolist()
        table, field, preprocessing = _find(estimator, X, layer, filters, n_patches, batch_size)
        patches = _cut_out(table, pictures_of(X, estimator), field, preprocessing)
        return cls(table, patches, backbone.layer_name(layer)).plot(ax)

    def plot(self, ax: Any = None, *, n_columns: int = 4) -> Self:
        """Draw a mosaic a filter.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.
        n_columns : int, default=4
            Filters in a row.

        Returns
        -------
        self : TopPatchesDisplay
        """
        groups = [(name, list(rows.index)) for name, rows in self.table.groupby("filter")]
        n_columns = min(check_count("n_columns", n_columns), len(groups))
        n_rows = -(-len(groups) // n_columns)
        self.figure_, self.axes_ = make_axes(
            n_rows, n_columns, (2.1, 2.3), ax, "TopPatchesDisplay.plot"
        )
        for cell in self.axes_.flat[len(groups) :]:
            show(cell, None)
        for cell, (name, rows) in zip(self.axes_.flat, groups, strict=False):
            mosaic = _mosaic([self.patches[i] for i in rows])
            show(cell, mosaic, f"filter {name}")
        if ax is None and self.layer:
            self.figure_.suptitle(f"Strongest patches of {self.layer}", fontsize=11)
        return self


def _check_maps(backbone: Backbone, layer: str | int, size: int | None) -> None:
    """Raise ParameterError if a layer does not give maps."""
    shape = backbone.shapes([layer], size)[0]
    if len(shape) != 3 or shape[1:] == (1, 1) or (shape[2] == 1 < shape[1]):
        raise ParameterError(
            f"layer must be one that gives maps (channels, height, width); {layer!r} of "
            f"{backbone.spec.name} gives {shape}"
        )


def _image_size(estimator: Any) -> int | None:
    """Side of the pictures, where the estimator or its first step has been given one."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if hasattr(estimator, "steps"):
        estimator = estimator.steps[0][1]
    size = getattr(estimator, "image_size", None)
    return size if isinstance(size, int) else None


def _check_filters(filters: Sequence[int] | None, n_filters: int) -> list[int]:
    filters = range(n_filters) if filters is None else filters
    wanted = list(filters) if isinstance(filters, Iterable) else []
    whole = all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in wanted)
    if not wanted or not whole or not all(0 <= i < n_filters for i in wanted):
        raise ParameterError(
            f"filters must be numbers of channels from 0 to {n_filters - 1}; got {filters!r}"
        )
    return [int(i) for i in wanted]


def _cut_out(
    table: pd.DataFrame, images: ImageCollection, field: ReceptiveField, preprocessing: Any
) -> list[npt.NDArray[np.uint8]]:
    """The pixels of each patch, in gray where the field reaches beyond the picture."""
    needed = np.unique(table["image"])
    seen = dict(zip(needed.tolist(), squares(images[needed], preprocessing), strict=True))
    height, width = (int((ends[:, 1] - ends[:, 0]).max()) for ends in field)
    patches = []
    for row in rows_of(table):
        picture = seen[row.image]
        patch = np.full((height, width, 3), _GRAY, dtype=np.uint8)
        # What is cut off at the first border is missing at the beginning of the patch.
        y = height - (row.bottom - row.top) if row.top == 0 else 0
        x = width - (row.right - row.left) if row.left == 0 else 0
        part = picture[row.top : row.bottom, row.left : row.right]
        patch[y : y + part.shape[0], x : x + part.shape[1]] = part
        patches.append(patch)
    return patches


def _mosaic(patches: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Patches in a square, with white lines between them."""
    side = int(np.ceil(np.sqrt(len(patches))))
    n_rows, step = -(-len(patches) // side), _TILE + _LINE
    mosaic = np.full((n_rows * step - _LINE, side * step - _LINE, 3), 255, dtype=np.uint8)
    for i, patch in enumerate(patches):
        y, x = (place * step for place in divmod(i, side))
        few = max(patch.shape[:2]) < _TILE
        resample = Image.Resampling.NEAREST if few else Image.Resampling.BICUBIC
        tile = Image.fromarray(patch).resize((_TILE, _TILE), resample)
        mosaic[y : y + _TILE, x : x + _TILE] = np.asarray(tile)
    return mosaic
