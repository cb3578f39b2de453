"""Optional packages: the error names the caller and the extra, and hides nothing else."""

import json.decoder
import re
import tomllib
from pathlib import Path

import pytest

from sktl.exceptions import MissingDependencyError
from sktl.utils._optional import import_optional


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package of one file that can be imported."""

    def write(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    return write


def test_module_is_returned():
    module = import_optional("json.decoder", extra="plot", caller="the gallery")
    assert module is json.decoder


@pytest.mark.parametrize("module", ["sktl_no_such_package", "sktl_no_such_package.inner.most"])
def test_missing_package(module):
    with pytest.raises(MissingDependencyError) as caught:
        import_optional(module, extra="plot", caller="ErrorTable.plot")
    message = str(caught.value)
    assert message.startswith("ErrorTable.plot needs the package sktl_no_such_package,")
    assert 'pip install "sktl[plot]"' in message
    assert "inner" not in message
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("import sktl_other_missing_package", "sktl_other_missing_package"),
        ("import sktl_fake_broken.part", "sktl_fake_broken.part"),
        ("from sktl_fake_broken import part", None),
        ("raise ModuleNotFoundError('odd')", None),
    ],
    ids=["other package", "own part", "own name", "without a name"],
)
def test_what_an_installed_package_lacks_is_raised_as_it_is(package, text, missing):
    package("sktl_fake_broken", text)
    with pytest.raises(ImportError) as caught:
        import_optional("sktl_fake_broken", extra="plot", caller="the gallery")
    assert not isinstance(caught.value, MissingDependencyError)
    if missing:
        assert caught.value.name == missing


def test_missing_part_of_an_installed_package_is_not_a_missing_package():
    with pytest.raises(ModuleNotFoundError, match=r"json\.no_such_part"):
        import_optional("json.no_such_part", extra="plot", caller="the gallery")


def test_extras_that_are_named_in_the_package_exist():
    """Every `extra=` that sktl passes is one of pyproject.toml's."""
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    calls = [
        match
        for path in sorted((root / "sktl").rglob("*.py"))
        for match in re.findall(r"extra=\"(\w+)\"", path.read_text())
    ]
    assert calls
    assert set(calls) <= set(extras)
