"""Fixtures for all tests, and a feature store that is not the user's."""

import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pytest_configure(config):
    # In the environment, so that the worker processes of joblib see it too.
    config.store_folder = tempfile.TemporaryDirectory(prefix="sktl-tests-")
    os.environ["SKTL_CACHE"] = config.store_folder.name


def pytest_unconfigure(config):
    config.store_folder.cleanup()


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real pictures; tests that want it are skipped where there is none."""
    folder = Path(os.environ.get("SKTL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("set SKTL_DATA to a folder with real pictures")
    return folder
