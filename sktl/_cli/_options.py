"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sktl.exceptions import ParameterError

# fmt: off
__all__ = [
    "Backbone", "BatchSize", "Crops", "Device", "Exclude", "Folder", "ImageSize", "LabelColumn",
    "Layer", "Listed", "PathColumn", "Pooling", "Quiet", "Store", "StorePath", "Suffix", "Table",
    "Weights", "check_labels", "load_pictures", "make_features",
]
# fmt: on


def _pictures(*names: str, help: str, **kwargs: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Pictures", **kwargs)


def _network(*names: str, help: str, **kwargs: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Network", **kwargs)


Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Folder of pictures, with a sub-folder for each class or without classes.",
        show_default=False,
    ),
]
Listed = Annotated[
    Path | None,
    _pictures(
        "--list",
        metavar="FILE",
        help="Only the pictures in this text file: a path a line, relative to FOLDER.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    _pictures("--exclude", metavar="CLASS", help="Leave a class out; may be repeated."),
]
Table = Annotated[
    Path | None,
    _pictures(
        "--table", metavar="FILE", help="CSV file that names pictures of FOLDER, and their labels."
    ),
]
PathColumn = Annotated[
    str | None,
    _pictures("--path-column", metavar="NAME", help="Its column of file names, else the first."),
]
LabelColumn = Annotated[
    str | None,
    _pictures(
        "--label-column",
        metavar="NAME",
        help='Its column of labels, else the second of two; "none" for no labels.',
    ),
]
Suffix = Annotated[
    str, _pictures("--suffix", metavar=".jpg", help="What its names lack to be file names.")
]

Backbone = Annotated[
    str, _network("--backbone", "-b", metavar="NAME", help="A name from `sktl backbones`.")
]
Weights = Annotated[
    str,
    _network(
        "--weights",
        metavar="NAME|FILE",
        help='"default", a named entry, a .pth or .safetensors file, or "random".',
    ),
]
Layer = Annotated[
    list[str],
    _network(
        "--layer",
        "-l",
        metavar="LAYER",
        help='"bottleneck", "penultimate", a stage by index (-2) or name, or a module; if repeated,'
        " the features are put side by side.",
    ),
]
Pooling = Annotated[
    str,
    _network("--pooling", metavar="POOLING", help='"avg", "max", "avgmax", "gem" or "flatten".'),
]
ImageSize = Annotated[
    int | None,
    _network(
        "--image-size",
        metavar="PIXELS",
        help="Side of the square it sees, else that of the weights.",
    ),
]
Crops = Annotated[
    str, _network("--crops", metavar="CROPS", help='"center", or "ten" for ten times the work.')
]
BatchSize = Annotated[
    int, _network("--batch-size", metavar="N", help="Pictures that are forwarded at once.")
]
Device = Annotated[
    str, _network("--device", metavar="DEVICE", help='"auto", "cpu", "cuda", "cuda:1", ...')
]
Store = Annotated[
    str,
    _network(
        "--store",
        metavar="FILE",
        help='Where features are kept: "default" (the user\'s cache), "none", or a file.',
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
StorePath = Annotated[
    Path | None,
    typer.Argument(metavar="PATH", help="The store's file, else the user's.", show_default=False),
]


def load_pictures(
    folder: Path,
    listed: Path | None,
    exclude: list[str] | None,
    table: Path | None,
    path_column: str | None,
    label_column: str | None,
    suffix: str,
) -> tuple[Any, Any]:
    """Paths, and labels or None, from the options of the panel "Pictures"."""
    from sktl.datasets import load_image_folder, load_image_table

    if table is None:
        if path_column or label_column or suffix:
            raise ParameterError("--path-column, --label-column and --suffix are for a --table")
        return load_image_folder(  # type: ignore[no-any-return]
            folder, split_file=listed, exclude=exclude or (), return_X_y=True
        )
    if listed or exclude:
        raise ParameterError("--list and --exclude are for folders without a --table")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.absolute()}")
    if not table.is_file():
        raise FileNotFoundError(f"there is no file {table.absolute()}")
    labels = {None: "auto", "none": None}.get(label_column, label_column)
    return load_image_table(  # type: ignore[no-any-return]
        table,
        folder=folder,
        path_column=path_column,
        label_column=labels,
        suffix=suffix,
        return_X_y=True,
    )


def check_labels(labels: Any, folds: int) -> None:
    """Raise an error if pictures with these labels cannot be divided into folds."""
    if labels is None:
        raise ParameterError("there are no labels: sort the pictures into a sub-folder for each "
                             "class, or pass a --table")  # fmt: skip
    import numpy as np

    classes, counts = np.unique(labels, return_counts=True)
    measured = [
        label for label in classes.tolist() if isinstance(label, float) and not label.is_integer()
    ]
    if measured:
        raise ParameterError(
            f"labels must be names or whole numbers; got {', '.join(map(str, measured[:5]))}"
        )
    if len(classes) < 2:
        raise ParameterError(f"all pictures are of one class, {str(classes[0])!r}")
    if counts.max() < folds:
        raise ParameterError(
            f"--folds must be at most {counts.max()}, the pictures of the largest class; got "
            f"{folds}"
        )


def make_features(
    backbone: str,
    weights: str,
    layer: list[str],
    pooling: str,
    image_size: int | None,
    crops: str,
    batch_size: int,
    device: str,
    store: str,
    quiet: bool,
    **others: Any,
) -> Any:
    """CNNFeatures of the options of the panel "Network"."""
    from sktl.engine import resolve_store
    from sktl.feature_extraction import CNNFeatures

    if pooling == "none":
        raise ParameterError('--pooling "none" gives maps, which fit no table; use "flatten"')
    layers = [_stage_or_name(name) for name in layer]
    options: dict[str, Any] = {
        "weights": None if weights == "random" else weights,
        "layer": layers[0] if len(layers) == 1 else layers,
        "pooling": pooling,
        "image_size": image_size,
        "crops": crops,
        "batch_size": batch_size,
        "device": device,
        "store": None if store == "none" else resolve_store(store),  # once: it warns once
        "verbose": int(not quiet),
    }
    return CNNFeatures(backbone, **options, **others)


def _stage_or_name(layer: str) -> int | str:
    return int(layer) if layer.removeprefix("-").isdecimal() else layer
