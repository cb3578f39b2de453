"""FashionMNIST: 70,000 gray pictures of clothes, 28 x 28."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.utils import Bunch

from sktl.datasets._download import download
from sktl.datasets._fetch import Published, data_folder, locked, open_dataset
from sktl.exceptions import DatasetError
from sktl.utils._parameters import ParameterChecks

__all__ = ["fetch_fashion_mnist"]

_URL = "https://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# MD5 of the published files, from https://github.com/zalandoresearch/fashion-mnist.
_FILES = {
    "train": {
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
}
_PUBLISHED = Published(
    name="fashion-mnist",
    remedy=(
        "Download the four files from https://github.com/zalandoresearch/fashion-mnist and pass "
        "their folder as source="
    ),
)
_DESCR = """FashionMNIST

70,000 gray pictures of clothes, 28 x 28 pixels, ten classes with 6,000 pictures each for training
and 1,000 for testing. MIT licence.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", arXiv:1708.07747.
"""
_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
_DTYPES = {8: np.dtype(np.uint8)}


def fetch_fashion_mnist(
    *,
    subset: Literal["train", "test", "all"] = "train",
    source: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _URL,
    download_if_missing: bool = True,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    """Load FashionMNIST, downloading it where it is not there yet.

    Parameters
    ----------
    subset : {"train", "test", "all"}, default="train"
        The 60,000 training pictures, the 10,000 test pictures, or both, in this order.
    source : str or Path, default=None
        A folder that has the IDX files, compressed or not, or an archive of them. Nothing is
        downloaded then.
    data_home : str or Path, default=None
        Where data sets are kept and archives unpacked. By default ``datasets`` in the folder that
        the environment variable SKTL_CACHE names, or in the user's cache folder.
    base_url : str, default="https://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
        Where the files come from; they are checked against the digests of the published ones.
    download_if_missing : bool, default=True
        If False, raise an error where the files are not in `data_home`.
    verbose : int, default=0
        Above 0, show the progress of downloading and unpacking.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        - data : ndarray of shape (n_images, 28, 28), dtype uint8: 0 is the background;
        - target : ndarray of shape (n_images,), dtype int64: 0 to 9;
        - target_names : list of str;
        - DESCR : str.
    (data, target) : tuple
        Where `return_X_y` is True.

    Raises
    ------
    DatasetError
        If files are missing, cannot be downloaded, or are damaged.

    References
    ----------
    H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms", arXiv:1708.07747.

    Examples
    --------
    >>> import pathlib, struct, tempfile
    >>> from sktl.datasets import fetch_fashion_mnist
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> images = struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 28, 28) + bytes(2 * 28 * 28)
    >>> labels = struct.pack(">BBBB1I", 0, 0, 8, 1, 2) + bytes([9, 2])
    >>> _ = (folder / "t10k-images-idx3-ubyte").write_bytes(images)
    >>> _ = (folder / "t10k-labels-idx1-ubyte").write_bytes(labels)
    >>> X, y = fetch_fashion_mnist(source=folder, subset="test", return_X_y=True)
    >>> X.shape, y.tolist()
    ((2, 28, 28), [9, 2])
    """
    checks = ParameterChecks("fetch_fashion_mnist")
    checks.choice("subset", subset, ("train", "test", "all"))
    checks.done()
    home = data_folder(data_home) / _PUBLISHED.name
    # The files are small and stay packed: nothing is unpacked, and each is checked every time.
    local = source if source is not None or download_if_missing else home
    pictures, targets = [], []
    for part in ("train", "test") if subset == "all" else (subset,):
        if local is not None:
            files = open_dataset(_PUBLISHED, source=local, data_home=data_home, verbose=verbose)
            paths = [files.file(name, name.removesuffix(".gz")) for name in _FILES[part]]
        else:
            paths = _downloaded(_FILES[part], home, base_url, bool(verbose))
        images, labels = map(_read_idx, paths)
        if len(images) != len(labels) or images.shape[1:] != (28, 28):
            raise DatasetError(
                f"FashionMNIST {part}: {len(labels)} labels for pictures of shape {images.shape}; "
                "the files are not of one set"
            )
        pictures.append(images)
        targets.append(labels.astype(np.int64))
    data, target = np.concatenate(pictures), np.concatenate(targets)
    if return_X_y:
        return data, target
    return Bunch(data=data, target=target, target_names=list(_NAMES), DESCR=_DESCR)


def _downloaded(files: dict[str, str], home: Path, base_url: str, progress: bool) -> list[Path]:
    # A folder that has them all may be one that cannot be written to.
    missing = not all((home / name).is_file() for name in files)
    with locked(home) if missing else nullcontext():
        return [
            download(
                name, digest, home,
                base_url=base_url, remedy=_PUBLISHED.remedy, progress=progress,
            )
            for name, digest in files.items()
        ]  # fmt: skip


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array in the IDX format: a magic number, the shape, the values."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content: bytes = file.read()
        _, _, kind, ndim = struct.unpack(">BBBB", content[:4])
        shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
        values = np.frombuffer(content, _DTYPES[kind], offset=4 + 4 * ndim)
        return values.reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, KeyError, ValueError) as error:
        raise DatasetError(f"{path} is not a whole IDX file of bytes: {error}") from error
