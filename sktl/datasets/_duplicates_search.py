"""Pairs of pictures that look the same: candidates by a perceptual hash, confirmed by detail."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.fft import dctn
from scipy.ndimage import uniform_filter

from sktl.datasets._report_measure import THUMB, Look
from sktl.utils._parameters import ParameterChecks

__all__ = ["Fingerprints", "check_search", "find_pairs", "perceptual_hash"]

Positions = npt.NDArray[np.intp]

_HASH = 8  # bits a side
_NEIGHBOURHOOD = 5
# Gray levels. Rounding alone is 0.3, and a correlation of roundings says nothing.
_LEAST_DETAIL = 1.0
_BLOCK = 1 << 22  # hashes compared at once
_CONFIRMED = 1 << 14  # thumbnails compared at once


@dataclass(frozen=True)
class Fingerprints:
    """What distinct pictures are compared by.

    Attributes
    ----------
    code : ndarray of shape (n_images,), dtype int
        Which distinct picture each one is; -1 for what cannot be read.
    hashes : ndarray of shape (n_distinct,), dtype uint64
        Perceptual hashes.
    detail : ndarray of shape (n_distinct, 1024), dtype float32
        Thumbnails without what is smooth, of length 1; all zero where nothing is left.
    """

    code: Positions
    hashes: npt.NDArray[np.uint64]
    detail: npt.NDArray[np.float32]

    @classmethod
    def from_looks(cls, looks: Sequence[Look]) -> Self:
        digests = [look.digest for look in looks if look.digest is not None]
        readable = np.flatnonzero([look.digest is not None for look in looks])
        # The additional entry keeps an empty list from becoming an array of floats.
        distinct, first, inverse = np.unique(
            np.array([*digests, b""], dtype=object)[:-1], return_index=True, return_inverse=True
        )
        code = np.full(len(looks), -1)
        code[readable] = inverse
        thumbs = np.zeros((len(distinct), THUMB, THUMB), dtype=np.uint8)
        for row, i in enumerate(readable[first]):
            thumbs[row] = looks[i].thumb
        return cls(code, perceptual_hash(thumbs), _detail(thumbs))


def perceptual_hash(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """64 bits that hardly change with size, compression and light.

    Parameters
    ----------
    thumbs : ndarray of shape (n, 32, 32), dtype uint8
        Gray pictures.

    Returns
    -------
    hashes : ndarray of shape (n,), dtype uint64
        Which of the 8 x 8 lowest frequencies, but for those that are constant along an axis, are
        above their median. Half of the bits are set, so that distances are even.

    References
    ----------
    C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010,
    section 3.2.1 (pHash).
    """
    frequencies = dctn(thumbs.astype(np.float32), axes=(1, 2), norm="ortho")
    low = frequencies[:, 1 : _HASH + 1, 1 : _HASH + 1].reshape(len(thumbs), _HASH * _HASH)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def find_pairs(
    a: Fingerprints, b: Fingerprints, max_distance: int, min_correlation: float
) -> pd.DataFrame:
    """Pairs of distinct pictures that look the same.

    Parameters
    ----------
    a, b : Fingerprints
        Two sets, or twice the same one.
    max_distance : int
        Most bits that the hashes of a pair may differ in.
    min_correlation : float
        Least correlation of the details.

    Returns
    -------
    pairs : DataFrame
        a, b : codes in their sets (a < b within one set); distance; correlation.
    """
    none = np.empty(0, dtype=np.intp)
    found = [_pair_table(none, none, none, none)]
    for i, j, distance in _candidates(a.hashes, b.hashes, max_distance, within=a is b):
        correlation = _correlations(a.detail, b.detail, i, j)
        kept = correlation >= min_correlation
        found.append(_pair_table(i[kept], j[kept], distance[kept], correlation[kept]))
    return pd.concat(found, ignore_index=True)


def _pair_table(
    a: Positions, b: Positions, distance: npt.NDArray[Any], correlation: npt.NDArray[Any]
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "a": a,
            "b": b,
            "distance": distance.astype(np.int64),
            "correlation": correlation.astype(np.float64),
        }
    )


def check_search(owner: str, max_distance: Any, min_correlation: Any, n_jobs: Any) -> None:
    """Raise ParameterError for thresholds, or a number of threads, that cannot be right."""
    checks = ParameterChecks(owner)
    checks.integer("max_distance", max_distance, minimum=0)
    fits = isinstance(min_correlation, numbers.Real) and 0 < float(min_correlation) <= 1
    checks.that("min_correlation", min_correlation, fits, "a number above 0, at most 1")
    checks.n_jobs(n_jobs)
    checks.done()


def _candidates(
    a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64], max_distance: int, *, within: bool
) -> Iterator[tuple[Positions, Positions, npt.NDArray[np.uint8]]]:
    step = max(1, _BLOCK // max(1, len(b)))
    for start in range(0, len(a), step):
        first = start if within else 0
        distance = np.bitwise_count(a[start : start + step, None] ^ b[None, first:])
        i, j = np.nonzero(distance <= max_distance)
        near = distance[i, j]
        i, j = i + start, j + first
        yield (i[i < j], j[i < j], near[i < j]) if within else (i, j, near)


def _correlations(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], i: Positions, j: Positions
) -> npt.NDArray[np.float32]:
    correlation = np.empty(len(i), dtype=np.float32)
    for start in range(0, len(i), _CONFIRMED):
        some = slice(start, start + _CONFIRMED)
        correlation[some] = np.einsum("nd,nd->n", a[i[some]], b[j[some]])
    return correlation


def _detail(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Thumbnails less the mean of each pixel's neighbourhood, of mean 0 and length 1.

    Pictures of one kind of scene share the smooth part, whose correlation is high for any two
    objects on a white ground. What is left tells them apart.
    """
    x = thumbs.astype(np.float32)  # (n, 32, 32)
    x -= uniform_filter(x, (0, _NEIGHBOURHOOD, _NEIGHBOURHOOD), mode="nearest")
    x = x.reshape(len(x), THUMB * THUMB)
    x -= x.mean(axis=1, keepdims=True)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    # length / THUMB is the standard deviation in gray levels
    return np.where(length / THUMB < _LEAST_DETAIL, 0, x / np.maximum(length, 1e-6))
