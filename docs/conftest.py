"""For the doctests in these pages: a feature store and temporary files that leave no trace."""

import tempfile

import pytest

# conf.py is Sphinx's; the rest is what it writes.
collect_ignore_glob = ["conf.py", "_build/*", "api/*", "auto_examples/*", "gallery_header.rst"]


@pytest.fixture(autouse=True, scope="module")
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKTL_CACHE", str(tmp_path_factory.mktemp("store")))
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("files")))
        yield
