"""The commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sktl import __version__
from sktl._cli import _options as o
from sktl._cli._group import CleanGroup
from sktl._cli._output import (
    check_folder,
    check_folder_of,
    check_names,
    check_output,
    write_csv,
    write_features,
    write_picture,
)
from sktl.exceptions import BackboneNotFoundError

if TYPE_CHECKING:
    import pandas as pd

    from sktl.engine import FeatureStore

__all__ = ["app"]

app = typer.Typer(
    cls=CleanGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(no_args_is_help=True, help="Look at the feature store, or empty it.")
app.add_typer(store_app, name="store")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sktl {__version__}")
        raise typer.Exit


@app.callback()
def sktl(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Image transfer learning inside scikit-learn, from the command line."""


@app.command()
def features(
    folder: o.Folder,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="What to write, a .parquet, .h5 or .csv file; replaced if it is there.",
            show_default=False,
        ),
    ],
    listed: o.Listed = None,
    exclude: o.Exclude = None,
    table: o.Table = None,
    path_column: o.PathColumn = None,
    label_column: o.LabelColumn = None,
    suffix: o.Suffix = "",
    backbone: o.Backbone = "efficientnet_lite0",
    weights: o.Weights = "default",
    layer: o.Layer = ["bottleneck"],  # noqa: B006 (typer makes a new list of it)
    pooling: o.Pooling = "avg",
    image_size: o.ImageSize = None,
    crops: o.Crops = "center",
    batch_size: o.BatchSize = 64,
    device: o.Device = "auto",
    store: o.Store = "default",
    on_error: Annotated[
        str,
        typer.Option(
            metavar="raise|nan",
            help='Pictures that cannot be read: "raise" names them all and writes nothing, "nan" '
            "writes rows without values.",
        ),
    ] = "raise",
    quiet: o.Quiet = False,
) -> None:
    """Write the features of pictures to a file, one row a picture."""
    check_output(output)
    images, labels = o.load_pictures(
        folder, listed, exclude, table, path_column, label_column, suffix
    )
    check_names(images)
    extractor = o.make_features(
        backbone, weights, layer, pooling, image_size, crops, batch_size, device, store, quiet,
        on_error=on_error,
    )  # fmt: skip
    rows = extractor.fit_transform(images)
    spec = extractor.backbone_spec_
    origin = {
        "backbone": spec.name,
        "weights": spec.weights or "random",
        "weights_digest": spec.digest,
        "layer": ", ".join(layer),
        "pooling": pooling,
    }
    write_features(output, images, labels, rows, extractor.get_feature_names_out(), origin)
    typer.echo(f"{output}: {len(rows)} pictures, {rows.shape[1]} features")


@app.command()
def evaluate(
    folder: o.Folder,
    C: Annotated[
        float, typer.Option("--C", "-C", help="Inverse strength of the classifier's penalty.")
    ] = 1.0,
    folds: Annotated[
        int, typer.Option("--folds", min=2, help="Folds of the cross-validation.")
    ] = 5,
    top_k: Annotated[
        list[int] | None,
        typer.Option(
            "--top-k",
            "-k",
            min=1,
            metavar="K",
            help="Guesses allowed; may be repeated. By default 1, and 5 if there are more classes.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**32 - 1, help="Of the shuffle of the folds.")
    ] = 0,
    errors: Annotated[
        Path | None,
        typer.Option(
            "--errors",
            metavar="FILE",
            help="CSV file to write: truth, prediction and loss of each picture, worst first.",
        ),
    ] = None,
    listed: o.Listed = None,
    exclude: o.Exclude = None,
    table: o.Table = None,
    path_column: o.PathColumn = None,
    label_column: o.LabelColumn = None,
    suffix: o.Suffix = "",
    backbone: o.Backbone = "efficientnet_lite0",
    weights: o.Weights = "default",
    layer: o.Layer = ["bottleneck"],  # noqa: B006 (typer makes a new list of it)
    pooling: o.Pooling = "avg",
    image_size: o.ImageSize = None,
    crops: o.Crops = "center",
    batch_size: o.BatchSize = 64,
    device: o.Device = "auto",
    store: o.Store = "default",
    quiet: o.Quiet = False,
) -> None:
    """Cross-validate a logistic regression on the features of pictures, and print its accuracy."""
    if errors is not None:
        check_folder_of(errors)
    images, labels = o.load_pictures(
        folder, listed, exclude, table, path_column, label_column, suffix
    )
    if errors is not None:
        check_names(images)
    o.check_labels(labels, folds)
    import pandas as pd
    from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_validate

    from sktl.linear_model import LogisticProbe
    from sktl.metrics import make_top_k_scorer

    extractor = o.make_features(
        backbone, weights, layer, pooling, image_size, crops, batch_size, device, store, quiet
    )
    # Nothing is learnt from the pictures here, so that it may stand outside of the folds.
    rows = extractor.fit_transform(images)
    probe, cv = LogisticProbe(C), StratifiedKFold(folds, shuffle=True, random_state=seed)
    n_classes = len(set(labels.tolist()))
    guesses = list(dict.fromkeys(top_k or [k for k in (1, 5) if k < n_classes]))
    scoring = {f"top-{k}": make_top_k_scorer(k) for k in guesses}
    scores = cross_validate(probe, rows, labels, scoring=scoring, cv=cv, error_score="raise")
    typer.echo(
        f"{len(rows)} pictures of {n_classes} classes, {rows.shape[1]} features of {backbone}, "
        f"{folds} folds"
    )
    of_folds = {name: scores[f"test_{name}"] for name in scoring}
    summary = {name: {"mean": s.mean(), "std": s.std()} for name, s in of_folds.items()}
    _print_table(pd.DataFrame(summary).T, digits=4)
    if max(guesses) >= n_classes:
        typer.echo(f"Note: {n_classes} guesses or more name every class.", err=True)
    if errors is not None:
        from sktl.inspection import error_table_from_predictions

        proba = cross_val_predict(probe, rows, labels, cv=cv, method="predict_proba")
        found = error_table_from_predictions(images, labels, proba)
        worst_first = found.sort_values("loss", ascending=False, kind="stable")
        write_csv(worst_first, errors)
        wrong = int((found["truth"] != found["prediction"]).sum())
        typer.echo(f"{errors}: {wrong} of {len(found)} pictures are misclassified")


@app.command()
def report(
    folder: o.Folder,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for the tables, as CSV files, and a picture; made if it is not there.",
        ),
    ] = None,
    listed: o.Listed = None,
    exclude: o.Exclude = None,
    table: o.Table = None,
    path_column: o.PathColumn = None,
    label_column: o.LabelColumn = None,
    suffix: o.Suffix = "",
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Threads; -1 is one a core.")] = -1,
    quiet: o.Quiet = False,
) -> None:
    """Report sizes, damage, darkness, blur and duplicates of pictures, class by class."""
    if output is not None:
        check_folder(output)
    images, labels = o.load_pictures(
        folder, listed, exclude, table, path_column, label_column, suffix
    )
    if output is not None:
        check_names(images)
        from sktl.utils._optional import import_optional

        import_optional("matplotlib", extra="plot", caller="the picture of a report").use("Agg")
        output.mkdir(parents=True, exist_ok=True)
    from sktl.datasets import image_report

    found = image_report(images, labels, n_jobs=jobs, verbose=int(not quiet))
    typer.echo(f"{found!r}\n")
    _print_table(found.classes, digits=2)
    if output is None:
        return
    duplicates = found.duplicates.explode(["positions", "sources"])
    duplicates = duplicates.rename(columns={"positions": "position", "sources": "source"})
    duplicates["labels"] = [", ".join(map(str, names)) for names in duplicates["labels"]]
    duplicates.insert(0, "group", found.groups[duplicates["position"].to_numpy(dtype=int)])
    tables = {
        "classes": found.classes.rename_axis("class").reset_index(),
        "pictures": found.pictures,
        "flagged": found.flagged,
        "duplicates": duplicates,
    }
    for name, content in tables.items():
        write_csv(content, output / f"{name}.csv")
    write_picture(found, output / "report.png")
    typer.echo(f"\n{output}: {', '.join(f'{name}.csv' for name in tables)}, report.png")


@app.command()
def backbones(
    filter: Annotated[
        str,
        typer.Argument(
            metavar="FILTER",
            help='A part of the name, or a pattern such as "timm/convnext*".',
            show_default=False,
        ),
    ] = "*",
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="SOURCE", help="Only torchvision, timm, packaged or scratch."
        ),
    ] = None,
) -> None:
    """List the names of networks, one a line."""
    from sktl.backbones import list_backbones

    pattern = filter if any(sign in filter for sign in "*?[") else f"*{filter}*"
    names = list_backbones(pattern, source=source)
    if not names:
        of_source = "" if source is None else f" of {source}"
        raise BackboneNotFoundError(f"no backbone{of_source} has a name like {filter!r}")
    typer.echo("\n".join(names))


@store_app.command()
def info(path: o.StorePath = None) -> None:
    """Say what is kept in the feature store."""
    table = _open_store(path).info()
    typer.echo(f"{table.attrs['path']}: {_size(table.attrs['bytes'])}")
    if len(table):
        _print_table(table.astype({"image_size": object}).fillna(""), index=False)
    else:
        typer.echo("Nothing is stored.")


@store_app.command()
def clear(
    path: o.StorePath = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", "-b", metavar="NAME", help="Only what this network gave."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete the features in the feature store, after asking."""
    opened = _open_store(path)
    table = opened.info()
    if backbone is not None:
        table = table[table["backbone"] == backbone]
    n_rows = int(table["rows"].sum())
    if n_rows == 0:
        of_network = "" if backbone is None else f" of {backbone}"
        typer.echo(f"{opened.path}: nothing{of_network} is stored.")
        return
    if not yes:
        size = _size(table["bytes"].sum())
        typer.confirm(f"{opened.path}: delete {n_rows} rows, {size}?", abort=True)
    opened.clear(backbone)
    typer.echo(f"{opened.path}: {n_rows} rows deleted.")


def _open_store(path: Path | None) -> FeatureStore:
    from sktl.engine import FeatureStore

    opened = FeatureStore(path)
    if path is not None and not opened.path.is_file():
        raise FileNotFoundError(f"there is no feature store {opened.path.absolute()}")
    return opened


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"


def _print_table(table: pd.DataFrame, *, digits: int = 2, index: bool = True) -> None:
    typer.echo(table.to_string(index=index, float_format=lambda value: f"{value:.{digits}f}"))
