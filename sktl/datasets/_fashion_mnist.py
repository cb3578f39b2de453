"""FashionMNIST: 70,000 gray pictures of clothes, 28 x 28."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pooch
from sklearn.utils import Bunch

from sktl.exceptions import DatasetError, ParameterError

__all__ = ["fetch_fashion_mnist"]

_URL = "https://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# MD5 of the published files, from https://github.com/zalandoresearch/fashion-mnist.
_FILES = {
    "train": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
_DTYPES = {8: np.dtype(np.uint8)}


def fetch_fashion_mnist(
    *,
    subset: Literal["train", "test", "all"] = "train",
    folder: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _URL,
    return_X_y: bool = False,
) -> Any:
    """Load FashionMNIST, downloading it where it is not there yet.

    Parameters
    ----------
    subset : {"train", "test", "all"}, default="train"
        The 60,000 training pictures, the 10,000 test pictures, or both, in this order.
    folder : str or Path, default=None
        A folder that has the IDX files, compressed or not. Nothing is downloaded then.
    data_home : str or Path, default=None
        Where downloads are kept; by default the user's cache folder.
    base_url : str, default="https://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
        Where they come from; they are checked against the digests of the published files.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        - data : ndarray of shape (n_images, 28, 28), dtype uint8: 0 is the background;
        - target : ndarray of shape (n_images,), dtype int64: 0 to 9;
        - target_names : list of str.
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
    >>> from sktl.datasets import fetch_fashion_mnist
    >>> X, y = fetch_fashion_mnist(return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (60000, 28, 28)
    """
    if subset not in ("train", "test", "all"):
        raise ParameterError(f'subset must be "train", "test" or "all"; got {subset!r}')
    pictures, targets = [], []
    for part in ("train", "test") if subset == "all" else (subset,):
        images, labels = (
            _read_idx(_local(Path(folder), name) if folder is not None
                      else _download(name, digest, data_home, base_url))
            for name, digest in _FILES[part].items()
        )  # fmt: skip
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
    return Bunch(data=data, target=target, target_names=list(_NAMES))


def _local(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise DatasetError(f"{folder} has no {name}, nor {name.removesuffix('.gz')}")


def _download(
    name: str, digest: str, data_home: str | os.PathLike[str] | None, base_url: str
) -> Path:
    home = Path(data_home) if data_home is not None else Path(pooch.os_cache("sktl"), "datasets")
    try:
        path = pooch.retrieve(
            base_url.rstrip("/") + "/" + name,
            known_hash=f"md5:{digest}",
            fname=name,
            path=home / "fashion-mnist",
        )
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{name} cannot be had from {base_url}: {error}. Download the four files yourself, and "
            "pass their folder as folder="
        ) from error
    return Path(path)


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
    except (OSError, EOFError, struct.error, KeyError, ValueError) as error:
        raise DatasetError(f"{path} is not a whole IDX file of bytes: {error}") from error
