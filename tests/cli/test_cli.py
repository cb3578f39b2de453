"""The commands, run on a few generated pictures and a small network with random weights."""

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from typer.testing import CliRunner

import sktl
from sktl import CNNFeatures, FeatureStore, load_image_folder
from sktl._cli import main
from sktl._cli._app import app

NETWORK = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32"]
N_FEATURES = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve noisy pictures in each of three classes, which differ in colour."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for channel, name in enumerate(("blue sky", "grass", "rose")):
        (root / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 200, (40, 40, 3))
            pixels[..., channel] += 55 * (i % 3)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store") / "features.sqlite"


@pytest.fixture(scope="module")
def expected(folder):
    """Paths, labels and features as the library gives them."""
    images, labels = load_image_folder(folder, return_X_y=True)
    features = CNNFeatures("resnet18", weights=None, image_size=32, store=None)
    return images, labels, features.fit_transform(images)


def run(*arguments, code=0, **kwargs):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], **kwargs)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def fails(*arguments, **kwargs):
    """The one message of a command that ends with exit code 1."""
    result = run(*arguments, code=1, **kwargs)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def python(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **kwargs
    )


# Features


def test_features_as_csv(folder, store, expected, tmp_path):
    images, labels, features = expected
    output = tmp_path / "out.csv"
    result = run("features", folder, "-o", output, *NETWORK, "--store", store)
    assert result.stdout == f"{output}: 36 pictures, {N_FEATURES} features\n"
    table = pd.read_csv(output, index_col="path")
    assert table.index.tolist() == images.tolist()
    assert table.columns.tolist() == ["label", *(f"resnet18_{i}" for i in range(N_FEATURES))]
    assert table.pop("label").tolist() == labels.tolist()
    np.testing.assert_allclose(table.to_numpy(), features, rtol=1e-5, atol=1e-6)
    assert list(tmp_path.iterdir()) == [output]


def test_features_as_hdf5(folder, store, expected, tmp_path):
    images, labels, features = expected
    output = tmp_path / "out.HDF5"
    run("features", folder, "-o", output, *NETWORK, "--store", store)
    with h5py.File(output) as file:
        np.testing.assert_allclose(file["features"][:], features, rtol=1e-5, atol=1e-6)
        assert file["features"].dtype == np.float32
        assert file["paths"].asstr()[:].tolist() == images.tolist()
        assert file["labels"].asstr()[:].tolist() == labels.tolist()
        assert file["feature_names"].asstr()[3] == "resnet18_3"
        assert len(file["feature_names"]) == N_FEATURES
        origin = dict(file.attrs)
    assert len(origin.pop("weights_digest")) == 64
    assert origin == {
        "backbone": "resnet18", "weights": "random", "layer": "bottleneck", "pooling": "avg",
    }  # fmt: skip


def test_features_as_parquet(folder, store, expected, tmp_path):
    pytest.importorskip("pyarrow")
    images, labels, features = expected
    run("features", folder, "-o", tmp_path / "out.parquet", *NETWORK, "--store", store)
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table.index.tolist() == images.tolist()
    assert table.index.name == "path"
    assert table.pop("label").tolist() == labels.tolist()
    assert set(table.dtypes) == {np.dtype(np.float32)}
    np.testing.assert_allclose(table.to_numpy(), features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("suffix", "package"), [(".parquet", "pyarrow"), (".h5", "h5py")])
def test_a_missing_package_is_named_before_the_work(folder, tmp_path, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(CNNFeatures, "fit_transform", None)
    message = fails("features", folder, "-o", tmp_path / f"out{suffix}", *NETWORK)
    assert f"needs the package {package}" in message
    assert 'pip install "sktl[' in message


def test_layers_by_index_and_name_are_put_side_by_side(folder, expected, tmp_path):
    images, _, features = expected
    output = tmp_path / "out.csv"
    layers = ["--layer", "-2", "-l", "bottleneck", "--store", "none"]
    run("features", folder, "-o", output, *NETWORK, *layers)
    both = pd.read_csv(output, index_col="path").drop(columns="label")
    stage = CNNFeatures("resnet18", weights=None, image_size=32, layer=-2, store=None)
    wanted = np.hstack([stage.fit_transform(images), features])
    np.testing.assert_allclose(both.to_numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_list_and_exclude(folder, store, tmp_path):
    listed, output = tmp_path / "list.txt", tmp_path / "out.csv"
    listed.write_text("rose/03.png\ngrass/01.png\nblue sky/00.png\n")
    run("features", folder, "-o", output, *NETWORK, "--store", store, "--list", listed,
        "--exclude", "grass")  # fmt: skip
    table = pd.read_csv(output)
    assert table["label"].tolist() == ["rose", "blue sky"]
    assert table["path"].tolist() == [str(folder / "rose/03.png"), str(folder / "blue sky/00.png")]


def test_table_of_labels(folder, store, tmp_path):
    labels, output = tmp_path / "labels.csv", tmp_path / "out.csv"
    labels.write_text("id,file,kind\n1,rose/02,7\n2,grass/03,9\n")
    table = ["--table", labels, "--suffix", ".png", "--path-column", "file"]
    command = ["features", folder, "-o", output, *NETWORK, "--store", store, *table]
    assert "say which has the labels" in fails(*command)
    run(*command, "--label-column", "kind")
    assert pd.read_csv(output)["label"].tolist() == [7, 9]
    run(*command, "--label-column", "none")
    assert pd.read_csv(output).columns[:2].tolist() == ["path", "resnet18_0"]
    as_hdf5 = output.with_suffix(".h5")
    command[3] = as_hdf5
    run(*command, "--label-column", "kind")
    with h5py.File(as_hdf5) as file:
        assert file["labels"][:].tolist() == [7, 9]


def test_folder_without_classes_gives_no_labels(folder, store, tmp_path):
    output = tmp_path / "out.h5"
    run("features", folder / "rose", "-o", output, *NETWORK, "--store", store)
    with h5py.File(output) as file:
        assert "labels" not in file
        assert file["features"].shape == (12, N_FEATURES)


def test_broken_pictures(folder, store, tmp_path):
    broken, output = tmp_path / "pictures", tmp_path / "out.csv"
    broken.mkdir()
    (broken / "1.png").write_bytes((folder / "rose" / "00.png").read_bytes())
    (broken / "2.png").write_bytes(b"no picture")
    command = ["features", broken, "-o", output, *NETWORK, "--store", store]
    message = fails(*command)
    assert "1 of 2 pictures cannot be read" in message
    assert "2.png" in message
    assert not output.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a process of the command line
        result = run(*command, "--on-error", "nan")
    assert result.stderr.startswith("Warning: 1 of 2 pictures cannot be read")
    table = pd.read_csv(output).drop(columns="path")
    assert table.isna().all(axis=1).tolist() == [False, True]
    assert not table.iloc[0].isna().any()


def test_a_failed_write_leaves_the_old_file(folder, store, tmp_path, monkeypatch):
    output = tmp_path / "out.csv"
    output.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    message = fails("features", folder, "-o", output, *NETWORK, "--store", store)
    assert "No space left on device" in message
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.xlsx"], "out.xlsx: features are written as .csv, .parquet, .h5"),
        (["-o", "nowhere/out.csv"], "make it first"),
        (["-o", "."], "features are written as"),
        (["-o", "out.csv", "--pooling", "none"], 'use "flatten"'),
        (["-o", "out.csv", "--pooling", "agv"], "Did you mean 'avg'?"),
        (["-o", "out.csv", "--backbone", "resnet19"], "there is no backbone 'resnet19'"),
        (["-o", "out.csv", "--layer", "layer9"], "layer9"),
        (["-o", "out.csv", "--layer", "--5"], "--5"),
        (["-o", "out.csv", "--suffix", ".jpg"], "are for a --table"),
        (["-o", "out.csv", "--table", "no.csv"], "there is no file"),
        (["-o", "out.csv", "--table", "no.csv", "--exclude", "rose"], "without a --table"),
        (["-o", "out.csv", "--exclude", "rosse"], "Did you mean 'rose'"),
        (["-o", "out.csv", "--list", "no.txt"], "no.txt"),
    ],
)
def test_what_cannot_be_is_said_in_one_message(folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    said = fails("features", folder, *NETWORK, *arguments)
    assert message in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    for command in (["features", "-o", tmp_path / "o.csv"], ["evaluate"], ["report"]):
        assert "there is no folder" in fails(*command, tmp_path / "none")


def test_faults_of_the_program_keep_their_traceback(folder, tmp_path, monkeypatch):
    def fault(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(CNNFeatures, "fit_transform", fault)
    command = ["features", str(folder), "-o", str(tmp_path / "out.csv"), *NETWORK]
    assert isinstance(CliRunner().invoke(app, command).exception, ZeroDivisionError)


# Evaluation


def table_of(output):
    """What a command has printed as a table, from the line of its header on."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == ["mean", "std"])
    return pd.read_csv(io.StringIO("\n".join(["k mean std", *lines[start + 1 :]])),
                       sep=r"\s+", index_col="k")  # fmt: skip


@pytest.mark.parametrize("C", [1.0, 1e-5])
def test_evaluate_agrees_with_scikit_learn(folder, store, expected, C):
    _, labels, features = expected
    result = run("evaluate", folder, *NETWORK, "--store", store, "--folds", 3, "-k", 1, "-k", 2,
                 "-k", 3, "-C", C)  # fmt: skip
    first = result.stdout.splitlines()[0]
    assert first == "36 pictures of 3 classes, 512 features of resnet18, 3 folds"
    printed = table_of(result.stdout)
    assert printed.index.tolist() == ["top-1", "top-2", "top-3"]
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    classifier = LogisticRegression(C=C, tol=1e-6, max_iter=5000)
    scores = cross_val_score(classifier, features.astype(np.float64), labels, cv=cv)
    assert 0.4 < scores.mean() < 1, "else the comparison would say little"
    assert printed.loc["top-1", "mean"] == pytest.approx(scores.mean(), abs=1e-4)
    assert printed.loc["top-1", "std"] == pytest.approx(scores.std(), abs=1e-4)
    assert printed.loc["top-1", "mean"] <= printed.loc["top-2", "mean"]
    assert printed.loc["top-3"].tolist() == [1, 0]
    assert result.stderr == "Note: 3 guesses or more name every class.\n"


def test_evaluate_counts_no_more_guesses_than_say_something(folder, store):
    result = run("evaluate", folder, *NETWORK, "--store", store, "--folds", 3)
    assert table_of(result.stdout).index.tolist() == ["top-1"]
    assert result.stderr == ""


def test_evaluate_writes_errors_worst_first(folder, store, expected, tmp_path):
    images, labels, _ = expected
    errors = tmp_path / "errors.csv"
    result = run("evaluate", folder, *NETWORK, "--store", store, "--folds", 3, "--errors", errors)
    table = pd.read_csv(errors)
    assert sorted(table["path"]) == sorted(images)
    assert dict(zip(images, labels, strict=True)) == dict(zip(table["path"], table["truth"],
                                                              strict=True))  # fmt: skip
    assert (table["loss"].diff().dropna() <= 0).all()
    wrong = int((table["truth"] != table["prediction"]).sum())
    assert f"{errors}: {wrong} of 36 pictures are misclassified" in result.stdout
    lines = result.stdout.replace(f"{errors}: {wrong} of 36 pictures are misclassified", "")
    assert table_of(lines).loc["top-1", "mean"] == pytest.approx(1 - wrong / 36, abs=1e-4)


def test_evaluate_forwards_nothing_twice(folder, store):
    run("evaluate", folder, *NETWORK, "--store", store, "--folds", 3)
    before = FeatureStore(store).info()["hits"].sum()
    run("evaluate", folder, *NETWORK, "--store", store, "--folds", 4)
    assert FeatureStore(store).info()["hits"].sum() == before + 36


def test_evaluate_needs_labels_and_enough_of_them(folder, tmp_path):
    assert "there are no labels" in fails("evaluate", folder / "rose", *NETWORK)
    assert "at most 12" in fails("evaluate", folder, *NETWORK, "--folds", 13)
    only = ["--exclude", "rose", "--exclude", "grass"]
    assert "one class, 'blue sky'" in fails("evaluate", folder, *NETWORK, *only)
    assert "make it first" in fails("evaluate", folder, "--errors", tmp_path / "no" / "e.csv")
    assert "is a folder" in fails("evaluate", folder, "--errors", tmp_path)
    run("evaluate", folder, "--folds", 1, code=2)
    run("evaluate", folder, "--top-k", 0, code=2)
    run("evaluate", folder, "--seed", 2**32, code=2)


def test_evaluate_refuses_measurements_before_the_work(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(CNNFeatures, "fit_transform", None)
    table = tmp_path / "half.csv"
    rows = [f"rose/{i:02}.png,{i % 2 + 0.5}\n" for i in range(12)]
    table.write_text("path,label\n" + "".join(rows))
    message = fails("evaluate", folder, "--table", table, *NETWORK)
    assert message == "labels must be names or whole numbers; got 0.5, 1.5"


@pytest.mark.parametrize("option", ["--table", "--list"])
def test_a_list_that_is_no_text(folder, tmp_path, option):
    foreign = tmp_path / "list.txt"
    foreign.write_bytes("path,label\nrosé/1.png,x\n".encode("latin-1"))
    message = fails("evaluate", folder, option, foreign, *NETWORK)
    assert "in UTF-8" in message
    assert str(foreign) in message


# The image report


def test_report_prints_the_class_table(folder):
    result = run("report", folder, "--jobs", 1)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["36", "pictures", "of", "3", "classes:", "12", "a", "class"]
    (grass,) = (line for line in lines if line[:1] == ["grass"])
    assert grass[1:6] == ["12", "0.33", "40.00", "40.00", "1.00"]


def test_report_writes_tables_and_a_picture(folder, tmp_path):
    pictures, output = tmp_path / "pictures", tmp_path / "new" / "report"
    for name in ("a", "b"):
        (pictures / name).mkdir(parents=True)
        (pictures / name / "1.png").write_bytes((folder / "rose" / "00.png").read_bytes())
    (pictures / "b" / "2.png").write_bytes((folder / "rose" / "01.png").read_bytes())
    (pictures / "b" / "3.png").write_bytes(b"no picture")
    result = run("report", pictures, "-o", output, "--jobs", 1)
    written = {path.name for path in output.iterdir()}
    assert written == {
        "classes.csv", "pictures.csv", "flagged.csv", "duplicates.csv", "report.png",
    }  # fmt: skip
    assert all(name in result.stdout for name in written)
    tables = {name: pd.read_csv(output / name) for name in written if name.endswith("csv")}
    assert tables["classes.csv"][["class", "n_pictures", "broken", "conflicting"]].to_numpy(
    ).tolist() == [["a", 1, 0, 1], ["b", 3, 1, 1]]  # fmt: skip
    assert len(tables["pictures.csv"]) == 4
    assert tables["flagged.csv"]["problems"].tolist() == [
        "conflicting, duplicate", "conflicting, duplicate", "broken",
    ]  # fmt: skip
    duplicates = tables["duplicates.csv"]
    assert duplicates["source"].tolist() == [str(pictures / n / "1.png") for n in "ab"]
    assert duplicates["labels"].tolist() == ["a, b", "a, b"]
    groups = tables["pictures.csv"]["group"]
    assert duplicates["group"].tolist() == groups[duplicates["position"]].tolist()
    with Image.open(output / "report.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10


@pytest.mark.filterwarnings("always:.*the font lacks")
def test_report_warns_once_of_letters_that_the_font_lacks(folder, tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, name in enumerate(("\u72ac\u732b", "\u82b1")):
        shutil.copytree(folder / ("rose", "grass")[i], tmp_path / "pictures" / name)
    result = run("report", tmp_path / "pictures", "-o", tmp_path / "out", "--quiet")
    assert result.stderr.startswith(f"Warning: {tmp_path / 'out' / 'report.png'}: the font lacks")
    assert len(result.stderr.splitlines()) == 1


def test_report_names_the_missing_package_first(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = fails("report", folder, "-o", tmp_path / "report")
    assert 'pip install "sktl[plot]"' in message
    assert list(tmp_path.iterdir()) == []


def test_report_names_what_cannot_be(folder, tmp_path):
    output = tmp_path / "report"
    output.write_text("mine")
    assert fails("report", folder, "-o", output) == f"{output} is a file; give the name of a folder"
    assert output.read_text() == "mine"
    assert "n_jobs must be a number of jobs or None; got 0" in fails("report", folder, "-j", 0)


# The store


@pytest.fixture
def filled(folder, tmp_path):
    path = tmp_path / "filled.sqlite"
    for layer in ("bottleneck", "layer1"):
        run("features", folder / "rose", "-o", tmp_path / "out.csv", *NETWORK, "--store", path,
            "--layer", layer)  # fmt: skip
    return path


def test_store_info(filled):
    lines = run("store", "info", filled).stdout.splitlines()
    assert lines[0].startswith(f"{filled}: ")
    assert lines[1].split()[:2] == ["backbone", "layer"]
    rows = [dict(zip(lines[1].split(), line.split(), strict=True)) for line in lines[2:]]
    kept = [(row["backbone"], row["layer"], row["image_size"], row["rows"]) for row in rows]
    assert kept == [("resnet18", "bottleneck", "32", "12"), ("resnet18", "layer1", "32", "12")]


def test_store_info_of_the_networks_own_size(folder, tmp_path):
    path = tmp_path / "store.sqlite"
    network = (
        NETWORK[: NETWORK.index("--image-size")] + NETWORK[NETWORK.index("--image-size") + 2 :]
    )
    for more in ([], ["--image-size", 48]):
        run("features", folder / "rose", "-o", tmp_path / "out.csv", *network, *more,
            "--store", path)  # fmt: skip
    lines = run("store", "info", path).stdout.splitlines()
    assert ["48" in line.split() for line in lines[2:]] == [False, True]


def test_store_clear_asks(filled):
    result = run("store", "clear", filled, input="n\n", code=1)
    assert "delete 24 rows" in result.stdout
    assert FeatureStore(filled).info()["rows"].sum() == 24
    assert "24 rows deleted" in run("store", "clear", filled, input="y\n").stdout
    assert len(FeatureStore(filled).info()) == 0
    assert "nothing is stored" in run("store", "clear", filled).stdout
    assert "Nothing is stored" in run("store", "info", filled).stdout


def test_store_clear_of_one_network(filled):
    run("store", "clear", filled, "--backbone", "resnet50", "--yes")
    assert FeatureStore(filled).info()["rows"].sum() == 24
    run("store", "clear", filled, "--backbone", "resnet18", "--yes")
    assert len(FeatureStore(filled).info()) == 0


def test_store_of_the_user(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SKTL_CACHE", str(tmp_path / "cache"))
    assert "Nothing is stored" in run("store", "info").stdout
    assert not (tmp_path / "cache").exists()
    run("features", folder / "rose", "-o", tmp_path / "out.csv", *NETWORK)
    assert "12 rows deleted" in run("store", "clear", "--yes").stdout


def test_store_that_is_none(tmp_path):
    foreign = tmp_path / "notes.txt"
    foreign.write_text("no database, but something of value\n" * 100)
    for command in (["info"], ["clear", "--yes"]):
        assert "there is no feature store" in fails("store", *command, tmp_path / "none.sqlite")
        message = fails("store", *command, foreign)
        assert message == f"the feature store {foreign} cannot be opened: file is not a database"
    assert foreign.read_text().startswith("no database")


# Networks


def test_backbones():
    assert run("backbones", "vgg1?", "--source", "torchvision").stdout.split() == [
        "vgg11", "vgg13", "vgg16", "vgg19",
    ]  # fmt: skip
    part = run("backbones", "wide_res", "--source", "torchvision").stdout.split()
    assert part == ["wide_resnet101_2", "wide_resnet50_2"]
    assert run("backbones").stdout.split() == sktl.list_backbones()
    assert "name like 'zzz'" in fails("backbones", "zzz")
    assert "Did you mean 'timm'?" in fails("backbones", "--source", "tim")


# The program


def test_help_names_the_commands_and_their_options():
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    shown = run("--help", env=environment).stdout
    for command in ("features", "evaluate", "report", "store", "backbones"):
        assert command in shown
        assert "--help" in run(command, "--help", env=environment).stdout
    assert "--output" in run("features", "-h", env=environment).stdout
    run(code=2)


def test_version():
    assert run("--version").stdout == f"sktl {sktl.__version__}\n"


HELP = """
import json, sys
from sktl._cli import main
heavy = ("torch", "torchvision", "matplotlib", "sklearn", "pandas", "numpy")
try:
    main()
finally:
    print(json.dumps([name for name in heavy if name in sys.modules]), file=sys.stderr)
"""


def test_help_loads_nothing_heavy():
    for arguments in (["--help"], ["features", "--help"], ["store", "clear", "--help"]):
        done = python("-c", HELP, *arguments)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
        assert json.loads(done.stderr) == []


def test_python_dash_m(tmp_path):
    """In a process of its own, where -X importtime tells what was loaded."""
    done = python("-X", "importtime", "-m", "sktl", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sktl [OPTIONS] COMMAND" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "sktl._cli._app" in loaded
    assert not {"torch", "matplotlib"} & loaded


def test_without_typer_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == (
        "Error: the command line needs the package typer, which is not installed. "
        'Install it with: pip install "sktl[cli]"'
    )
    code = "import sys; sys.modules['typer'] = None; from sktl._cli import main; main()"
    done = python("-c", code, env={**os.environ})
    assert done.returncode == 1
    assert done.stderr == f"{ended.value.code}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_are_told_before_the_work(folder, tmp_path):
    odd = tmp_path / "odd" / "rose"
    odd.mkdir(parents=True)
    picture = next((folder / "rose").iterdir())
    Path(os.fsdecode(os.fsencode(odd) + b"/x\xff.jpg")).write_bytes(picture.read_bytes())
    shutil.copytree(folder / "grass", tmp_path / "odd" / "grass")
    kept = tmp_path / "kept.csv"
    kept.write_text("precious")
    for arguments in (
        ["features", odd.parent, "-o", kept, *NETWORK],
        ["evaluate", odd.parent, "--errors", kept, "--folds", 2, *NETWORK],
        ["report", odd.parent, "-o", tmp_path / "report"],
    ):
        assert "names that are no UTF-8" in fails(*arguments)
    assert kept.read_text() == "precious"


def test_a_failed_table_of_errors_leaves_the_old_one(folder, store, tmp_path, monkeypatch):
    errors = tmp_path / "errors.csv"
    errors.write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    options = [*NETWORK, "--store", store, "--folds", 3, "--errors", errors]
    assert "No space left" in run("evaluate", folder, *options, code=1).stderr
    assert errors.read_text() == "old"
    assert list(tmp_path.iterdir()) == [errors]
