"""Docstrings of the public names: they say what the signatures say, and show an example."""

import ast
import dataclasses
import functools
import importlib
import inspect

import numpy as np
import pandas as pd
import pytest
from numpydoc.docscrape import ClassDoc, FunctionDoc
from numpydoc.validate import ERROR_MSGS, validate
from PIL import Image
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from torch import nn

import sktl
from sktl import CPCFeatures, LinearProbe
from sktl.images import ImageEstimatorMixin

# Every check of numpydoc runs, but for these.
LEFT_OUT = {
    "ES01": "where the summary says it all, an extended one would be filler",
    "EX01": "below, with reasons where there is no example",
    "RT02": "results have names, as in scikit-learn",
    "RT03": "`self : CNNFeatures` needs no more words",
    "SA01": "the guide links what belongs together",
    "SS05": 'takes the plural of "Features of pictures" for a verb',
}
# What has no Examples section, and why.
WITHOUT_EXAMPLE = {
    "sktl.backbones.FeatureNetwork": "made by Backbone.feature_network, for estimators",
    "sktl.engine.Network": "for those who write estimators",
    "sktl.engine.compute_features": "for those who write estimators",
    "sktl.engine.extract": "for those who write estimators",
    "sktl.engine.resolve_store": "for those who write estimators",
    "sktl.images.ImageEstimatorMixin": "for those who write estimators",
    "sktl.utils.estimator_checks.image_checks": "shown by parametrize_with_image_checks",
    "sktl.utils.estimator_checks.check_image_estimator": "shown by parametrize_with_image_checks",
}
# What those need that wrap another estimator.
SEARCHES = {
    "sktl.model_selection.OptunaSearch": {
        "estimator": LogisticRegression(), "space": {"C": [1.0]}, "n_trials": 1, "cv": 2,
    },
}  # fmt: skip
ROOMS = [*sktl._PACKAGES, "utils.estimator_checks"]


def public_objects():
    """Dotted name -> class or function, for every room's `__all__`."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(f"sktl.{room}")
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"sktl.{room}.{name}"] = value
    return found


def public_members(cls):
    """Names of the public methods and properties that a class defines itself."""
    kinds = (property, functools.cached_property, classmethod, staticmethod)
    for name, member in vars(cls).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds)):
            yield name


def is_record(value):
    """Whether it is a dataclass or a named tuple, whose attributes are its parameters."""
    return inspect.isclass(value) and (dataclasses.is_dataclass(value) or hasattr(value, "_fields"))


def is_error(value):
    return inspect.isclass(value) and issubclass(value, (Exception, Warning))


def is_a_sentence(value):
    """Whether it is a method of at most one argument whose docstring is a single paragraph.

    Such as "Path of picture `i`": headings would only repeat it.
    """
    parameters = inspect.signature(value).parameters.keys() - {"self", "cls"}
    return len(parameters) <= 1 and "\n\n" not in (inspect.getdoc(value) or "")


OBJECTS = public_objects()
# Records and errors are handed out to users, who seldom make one.
MADE_BY_USERS = [n for n, value in OBJECTS.items() if not is_record(value) and not is_error(value)]
MEMBERS = {
    f"{name}.{member}": inspect.getattr_static(cls, member)
    for name, cls in OBJECTS.items()
    if inspect.isclass(cls)
    for member in public_members(cls)
}


def test_there_is_something_to_check():
    assert len(OBJECTS) > 30
    assert len(MEMBERS) > 30
    assert set(LEFT_OUT) <= set(ERROR_MSGS)


@pytest.mark.parametrize("room", ["sktl", *(f"sktl.{room}" for room in ROOMS)])
def test_packages_have_a_docstring(room):
    assert importlib.import_module(room).__doc__.strip()


@pytest.mark.parametrize("name", [*OBJECTS, *MEMBERS])
def test_docstring_is_numpydoc_and_matches_the_signature(name):
    value = OBJECTS.get(name, MEMBERS.get(name))
    errors = [(code, message) for code, message in validate(name)["errors"] if code not in LEFT_OUT]
    if is_record(value):  # its fields are checked in test_records_document_their_fields
        errors = [error for error in errors if error[0] != "PR01"]
    if name in MEMBERS and inspect.isfunction(value) and is_a_sentence(value):
        errors = [error for error in errors if error[0] not in ("PR01", "RT01", "YD01")]
    assert errors == []


@pytest.mark.parametrize("name", [n for n, value in OBJECTS.items() if is_record(value)])
def test_records_document_their_fields(name):
    cls = OBJECTS[name]
    fields = (
        [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else cls._fields
    )
    documented = [
        attribute.strip()
        for entry in ClassDoc(cls)["Attributes"]
        for attribute in entry.name.split(",")
        if entry.desc or entry.type
    ]
    assert [attribute for attribute in documented if attribute in fields] == list(fields)


@pytest.mark.parametrize("name", MADE_BY_USERS)
def test_documented_defaults_are_those_of_the_signature(name):
    value = OBJECTS[name]
    doc = ClassDoc(value) if inspect.isclass(value) else FunctionDoc(value)
    types = {
        parameter.strip(): entry.type
        for entry in doc["Parameters"]
        for parameter in entry.name.split(",")
    }
    for parameter in inspect.signature(value).parameters.values():
        if parameter.default is parameter.empty:
            assert "default=" not in types.get(parameter.name, ""), parameter
        elif types.get(parameter.name):
            _, _, text = types[parameter.name].partition("default=")
            assert text, f"{parameter} has a default, which the docstring does not say"
            if isinstance(parameter.default, (str, int, float, tuple, type(None))):
                assert ast.literal_eval(text) == parameter.default, parameter


@pytest.mark.parametrize("name", MADE_BY_USERS)
def test_example(name):
    value = OBJECTS[name]
    doc = ClassDoc(value) if inspect.isclass(value) else FunctionDoc(value)
    shown = any(">>>" in line for line in doc["Examples"])
    assert shown != (name in WITHOUT_EXAMPLE)


def test_fitted_attributes_are_documented(tmp_path):
    """Those that fit on rows, and on a DataFrame, sets: no more, no less."""
    rows = np.random.default_rng(0).integers(0, 256, (3, 64))
    Image.fromarray(rows.astype(np.uint8)).save(tmp_path / "1.png")
    frame = pd.DataFrame({"path": 3 * [str(tmp_path / "1.png")]})
    network = nn.Sequential(nn.Conv2d(3, 1000, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for name, cls in OBJECTS.items():
        if not (inspect.isclass(cls) and issubclass(cls, BaseEstimator) and hasattr(cls, "fit")):
            continue
        # What is built when it is asked for is a property.
        fitted = {a for a in dir(cls) if a.endswith("_") and not a.startswith("_")}
        if issubclass(cls, ImageEstimatorMixin):
            names = ["palace", "daisy", "daisy"]
            estimators = [
                cls(network, image_size=32, image_shape=(8, 8)).fit(rows, names),
                cls(network, image_size=32).fit(frame, names),
            ]
        elif cls is LinearProbe:
            cpc = CPCFeatures(network, image_size=32)
            by_rows = clone(cpc).set_params(image_shape=(8, 8))
            estimators = [cls(by_rows).fit(rows, [0, 1, 1]), cls(cpc).fit(frame, [0, 1, 1])]
        else:
            table = pd.DataFrame(np.tile(rows / 255, (2, 1))).add_prefix("f")
            make = functools.partial(cls, **SEARCHES.get(name, {}))
            estimators = [make().fit(X, 2 * [0, 1, 2]) for X in (table.to_numpy(), table)]
        for estimator in estimators:
            fitted |= {a for a in vars(estimator) if a.endswith("_") and not a.startswith("_")}
        documented = {entry.name for entry in ClassDoc(cls)["Attributes"]}
        assert {a for a in documented if a.endswith("_")} == fitted, name
