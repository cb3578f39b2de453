"""A server on the loopback interface that can break off, and archives to serve."""

import hashlib
import http.server
import tarfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sktl.datasets import _download


class Handler(http.server.BaseHTTPRequestHandler):
    """Files of a folder, with ranges and versions as `self.server.settings` asks."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        settings = self.server.settings
        path = settings.folder / self.path.lstrip("/")
        wanted = self.headers.get("Range")
        settings.requests.append((self.path.lstrip("/"), wanted))
        error = settings.errors.pop(0) if settings.errors else None
        if error is not None or not path.is_file():
            self.send_error(error or 404)
            return
        content = path.read_bytes()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if wanted and settings.ranges and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if settings.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + settings.breaks.pop(0) if settings.breaks else len(content)
        self.wfile.write(content[start:end])


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves `folder`; breaks off after each of `breaks` bytes, answers with each of `errors`."""
    monkeypatch.setattr(_download, "_PAUSE", 0.0)
    folder = tmp_path / "published"
    folder.mkdir()
    settings = SimpleNamespace(
        folder=folder, requests=[], breaks=[], errors=[], ranges=True, tags=True
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.settings = settings
        settings.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield settings
        httpd.shutdown()
        thread.join()


@pytest.fixture
def make():
    """Functions that make pictures and archives."""

    def pictures(folder, *names):
        for number, name in enumerate(names):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (number % 256, 90, 30)).save(path, "JPEG")

    def tar(archive, folder, mode="w:gz"):
        with tarfile.open(archive, mode) as file:
            for path in sorted(folder.iterdir()):
                file.add(path, path.name)

    def zipped(archive, folder):
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder))

    def text(folder, name, content):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    return SimpleNamespace(pictures=pictures, tar=tar, zip=zipped, text=text)
