"""Networks of other tests are let go of, and the network is out of reach where a test says so."""

import socket

import pytest
import torch

from sktl.backbones import _registry, clear_loaded


@pytest.fixture(autouse=True)
def _nothing_loaded_or_registered(monkeypatch):
    monkeypatch.setattr(_registry, "_REGISTERED", {})
    clear_loaded()
    yield
    clear_loaded()


@pytest.fixture(autouse=True)
def _one_thread():
    """The pictures are so few that a second thread costs more than it gains."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def offline(monkeypatch):
    """Fail at once, as without a network, on machines that have one too."""

    def refuse(*_, **__):
        raise OSError("the network is unreachable")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def hub_folder(monkeypatch, tmp_path):
    """Where torch.hub keeps its files, for one test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder
