"""Training data in batches: pictures, or what the frozen part of a network made of them."""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sktl.backbones import Preprocessing
from sktl.engine import prepare
from sktl.exceptions import BadImage, ImageDecodeError
from sktl.images import ImageCollection
from sktl.images._decode import BadImageError
from sktl.training._team import Team
from sktl.utils._progress import ProgressBar

__all__ = [
    "Activations",
    "Batches",
    "NoRoomError",
    "Pixels",
    "channel_statistics",
    "fill_together",
    "fits_on_disk",
]

Positions = Sequence[int] | npt.NDArray[np.intp]

# Of the largest number among the first activations, in 16 bits, which know exponents from -14
# (with all digits) to 15: where later ones are more than 32 times as large, the unit changes.
_EXPONENT = 10
# Pictures that the frozen part is run on at once, and batches that are read ahead.
_AT_ONCE = 64
_AHEAD = 2
OF_VALIDATION = "These are pictures of the validation set that was passed."


class NoRoomError(Exception):
    """The disk is too full for what would be kept in a temporary file."""


class Pixels:
    """Pictures as a network sees them: decoded, resized and cut once, and kept in a file.

    Parameters
    ----------
    images : ImageCollection
        The pictures.
    preprocessing : Preprocessing
        How they are resized and cut.
    n_threads : int
        How many are decoded at once.
    cache_bytes : int
        Bytes that may be kept in a temporary file. Pictures that need more are decoded anew each
        time.
    number : callable, default=None
        Where the pictures are a part of others, the number of one in error messages, by its
        position.
    n_all : int, default=None
        How many pictures those numbers are of.
    """

    def __init__(
        self,
        images: ImageCollection,
        preprocessing: Preprocessing,
        n_threads: int,
        cache_bytes: int,
        *,
        number: Callable[[int], int] | None = None,
        n_all: int | None = None,
    ) -> None:
        self.images, self.preprocessing = images, preprocessing
        self.n_threads = n_threads
        self.is_part = number is not None
        self._number, self._n_all = number or int, n_all or len(images)
        size = preprocessing.size
        self._shape = (len(images), size, size, 3)
        self._kept: npt.NDArray[np.uint8] | None = None
        self._fits = fits_on_disk(self._shape, 1, cache_bytes)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_kept(self) -> bool:
        """Whether all pictures have been decoded."""
        return self._kept is not None

    def fill(self, *, progress: bool = False) -> None:
        """Decode all pictures, if they can be kept.

        Raises
        ------
        ImageDecodeError
            If some cannot be read; all of them are named.
        """
        if self._kept is not None or not self._fits:
            return
        try:
            kept = _memory_map(self._shape, np.uint8)
        except NoRoomError:
            self._fits = False
            return
        bad: list[BadImage] = []

        def put(i: int) -> None:
            try:
                kept[i] = self._decode(i)
            except BadImageError as error:
                bad.append(self._bad_image(i, error))

        with ThreadPoolExecutor(self.n_threads) as threads:
            done = threads.map(put, range(len(self)))
            for _ in ProgressBar(
                done, total=len(self), unit="image", delay=3, disable=not progress
            ):
                pass
        if bad:
            raise ImageDecodeError(sorted(bad, key=lambda b: b.index), self._n_all)
        self._kept = kept

    def read(self, positions: Positions) -> torch.Tensor:
        """(n, 3, H, W) uint8, channels-last in memory."""
        if self._kept is not None:
            pixels = self._kept[np.asarray(positions)]
        else:
            try:
                with ThreadPoolExecutor(self.n_threads) as threads:
                    pixels = np.stack(list(threads.map(self._decode, map(int, positions))))
            except BadImageError:
                raise ImageDecodeError(self._bad(positions), self._n_all) from None
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (n, H, W, 3) -> (n, 3, H, W)

    def _decode(self, i: int) -> npt.NDArray[np.uint8]:
        pixels: npt.NDArray[np.uint8] = prepare(self.images.read(i), self.preprocessing)[0]
        return pixels

    def _bad(self, positions: Positions) -> list[BadImage]:
        bad = []
        for i in map(int, positions):
            try:
                self.images.read_rgb(i)
            except BadImageError as error:
                bad.append(self._bad_image(i, error))
        return bad

    def _bad_image(self, i: int, error: BadImageError) -> BadImage:
        return BadImage(self._number(i), self.images.describe(i), str(error))


def fill_together(parts: Sequence[Pixels], *, progress: bool = False) -> None:
    """Decode the pictures of several parts of the same data, or of data given for each part.

    Parameters
    ----------
    parts : sequence of Pixels
        The training pictures first.
    progress : bool, default=False
        Show a progress bar for each if it takes more than three seconds.

    Raises
    ------
    ImageDecodeError
        If some cannot be read; all of them, in all parts of the same data, are named.
    """
    failures: list[BadImage] = []
    n_images = 0
    for pixels in parts:
        try:
            pixels.fill(progress=progress)
        except ImageDecodeError as error:
            if not pixels.is_part:
                if pixels is not parts[0]:
                    error.add_note(OF_VALIDATION)
                raise
            failures += error.failures
            n_images = max(n_images, error.n_images)
    if failures:
        raise ImageDecodeError(sorted(failures, key=lambda bad: bad.index), n_images)


class Activations:
    """What the frozen part of a network makes of pictures, kept in a temporary file.

    Parameters
    ----------
    values : ndarray of shape (n_copies, n, ...)
        One or several versions of each picture.
    unit : float, default=1.0
        What a 1 in there stands for: a power of 2.
    """

    def __init__(self, values: npt.NDArray[Any], unit: float = 1.0) -> None:
        self.values, self.unit = values, unit

    def __len__(self) -> int:
        return int(self.values.shape[1])

    def read(
        self, positions: Positions, copies: npt.NDArray[np.intp] | None = None
    ) -> torch.Tensor:
        """(n, ...) float32 of some pictures, each in the copy that is given for it."""
        chosen = np.zeros(len(positions), np.intp) if copies is None else copies
        found = torch.from_numpy(self.values[chosen, np.asarray(positions)]).float()
        return found if self.unit == 1 else found.mul_(self.unit)

    @staticmethod
    def dtype(shape: tuple[int, ...]) -> np.dtype[Any]:
        """Of what is kept: 16 bits for maps."""
        return np.dtype(np.float16 if len(shape) > 1 else np.float32)

    @classmethod
    def compute(
        cls,
        pixels: Pixels,
        shape: tuple[int, ...],
        run: Callable[[torch.Tensor, int], torch.Tensor],
        *,
        n_copies: int = 1,
        progress: bool = False,
    ) -> Activations:
        """Run the frozen part on all pictures.

        Parameters
        ----------
        pixels : Pixels
            The pictures.
        shape : tuple of ints
            Of the result for one of them.
        run : callable
            Takes (n, 3, H, W) uint8 pixels and the number of the copy; gives (n, *shape).
        n_copies : int, default=1
            Versions of each picture.
        progress : bool, default=False
            Show a progress bar if the work takes more than three seconds.

        Returns
        -------
        activations : Activations
            In 16 bits if they are maps.

        Raises
        ------
        OverflowError
            If a number is too large for 16 bits.
        NoRoomError
            If the disk is full.
        """
        dtype = cls.dtype(shape)
        values = _memory_map((n_copies, len(pixels), *shape), dtype)
        total, most = n_copies * len(pixels), float(np.finfo(dtype).max)
        unit = 1.0 if dtype == np.float32 else None
        with ProgressBar(total=total, unit="image", delay=3, disable=not progress) as bar:
            for copy in range(n_copies):
                for start in range(0, len(pixels), _AT_ONCE):
                    some = range(start, min(start + _AT_ONCE, len(pixels)))
                    found = run(pixels.read(some), copy).cpu()
                    largest = float(found.abs().max())
                    if unit is None or largest > unit * most:
                        before, unit = unit, _unit_of(largest)
                        if before is not None and unit is not None:
                            values *= before / unit
                    if largest > (unit or 1.0) * most:
                        raise OverflowError("a number is too large for 16 bits")
                    values[copy, some.start : some.stop] = found / (unit or 1.0)
                    bar.update(len(some))
        return cls(values, unit or 1.0)


def _unit_of(largest: float) -> float | None:
    """A power of 2, at most 1, in which numbers up to this are not too small for 16 bits."""
    if largest == 0:
        return None  # nothing can be told
    if not math.isfinite(largest):
        return 1.0
    return min(1.0, 2.0 ** (math.floor(math.log2(largest)) - _EXPONENT))


class Batches:
    """One pass over training or validation data; the next batches are read beside the work.

    Parameters
    ----------
    source : Pixels or Activations
        The inputs.
    labels : ndarray of shape (n,), int64
        Of all pictures of the source.
    weights : ndarray of shape (n,), or None
        Weights of the samples, 1 on average.
    batch_size : int
        Pictures a batch.
    rng : numpy.random.Generator, default=None
        Shuffles, and chooses copies; by default the order is kept and the first copies are taken.
    after_batch : callable, default=None
        Called when a batch has been worked on.
    team : Team, default=None
        Processes that take a share of each batch, this one among them; by default it is alone.
    pin : bool, default=False
        Whether inputs are put where a GPU takes them from faster.
    """

    def __init__(
        self,
        source: Pixels | Activations,
        labels: npt.NDArray[np.int64],
        weights: npt.NDArray[np.floating[Any]] | None,
        batch_size: int,
        rng: np.random.Generator | None = None,
        *,
        after_batch: Callable[[], None] | None = None,
        team: Team | None = None,
        pin: bool = False,
    ) -> None:
        self.after_batch, self.pin = after_batch, pin
        self.team = team or Team()
        self.source, self.labels = source, labels
        self.weights = None if weights is None else np.asarray(weights, np.float32)
        self.batch_size, self.rng = batch_size, rng

    def __len__(self) -> int:
        return len(self._starts())

    @property
    def n_own(self) -> int:
        """How many pictures this process works on."""
        n = len(self.labels)
        sizes = [min(self.batch_size, n - start) for start in self._starts()]
        return sum(len(range(self.team.index, size, self.team.size)) for size in sizes)

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        n = len(self.labels)
        order = np.arange(n) if self.rng is None else self.rng.permutation(n)
        copies = None
        if self.rng is not None and isinstance(self.source, Activations):
            copies = self.rng.integers(len(self.source.values), size=n)
        with ThreadPoolExecutor(1) as thread:
            ahead: deque[Future[Any]] = deque()
            for start in self._starts():
                ahead.append(thread.submit(self._batch, order, copies, start))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft().result()
                    self._worked()
            while ahead:
                yield ahead.popleft().result()
                self._worked()

    def _worked(self) -> None:
        if self.after_batch is not None:
            self.after_batch()

    def _starts(self) -> list[int]:
        starts = list(range(0, len(self.labels), self.batch_size))
        left = len(self.labels) - starts[-1]
        if self.rng is None:
            return starts if self.team.index < left else starts[:-1]
        # Batch normalisation has no statistics of a single picture.
        if len(starts) > 1 and left <= 2 * self.team.size - 1 and left < self.batch_size:
            starts.pop()
        return starts

    def _batch(
        self, order: npt.NDArray[np.intp], copies: npt.NDArray[np.intp] | None, start: int
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        batch = order[start : start + self.batch_size]
        positions = self.team.share(batch)
        if copies is not None and isinstance(self.source, Activations):
            X = {"x": self.source.read(positions, copies[positions])}
        else:
            X = {"x": self.source.read(positions)}
        if self.pin:
            X["x"] = X["x"].pin_memory()
        if self.weights is not None:
            X["weight"] = torch.from_numpy(self.weights[positions])
        if self.team.size > 1:
            X["share"] = torch.full((len(positions),), len(positions) / len(batch))
        return X, torch.from_numpy(self.labels[positions])


def channel_statistics(
    pixels: Pixels,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel over all pixels.

    Parameters
    ----------
    pixels : Pixels
        The pictures.

    Returns
    -------
    mean, std : tuples of 3 floats
        For values 0-1.
    """
    total, squares, n = np.zeros(3), np.zeros(3), 0
    for start in range(0, len(pixels), _AT_ONCE):
        x = pixels.read(range(start, min(start + _AT_ONCE, len(pixels)))).double() / 255
        total += x.sum((0, 2, 3)).numpy()
        squares += x.square().sum((0, 2, 3)).numpy()
        n += x[:, 0].numel()
    mean = total / n
    # A channel that is the same everywhere is only shifted.
    std = np.sqrt(np.maximum(squares / n - mean**2, 0))
    std[std < 1e-6] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())


def fits_on_disk(shape: tuple[int, ...], itemsize: int, cache_bytes: int) -> bool:
    """Whether an array may be kept in a temporary file, and there is room for it."""
    size = int(np.prod(shape, dtype=np.int64)) * itemsize
    return size <= cache_bytes and size < 0.9 * shutil.disk_usage(tempfile.gettempdir()).free


def _memory_map(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """An array in a file that has no name and goes with the array; raise NoRoomError."""
    size = max(1, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        # The disk's room is taken here: without it, writing to the array would end the process.
        try:
            getattr(os, "posix_fallocate", lambda *_: None)(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoRoomError from error
        return np.memmap(file, dtype, "r+", shape=shape)
