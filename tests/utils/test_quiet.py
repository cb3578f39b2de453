"""Warnings are off while somebody is inside, and nothing is left behind."""

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from sktl.utils._quiet import Quiet


class Odd(UserWarning):
    """What is silenced."""


def test_what_is_silenced_and_for_how_long():
    quiet = Quiet({"category": Odd}, {"module": "nowhere"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with quiet:
            with quiet:
                warnings.warn("one", Odd, stacklevel=1)
            warnings.warn("two", Odd, stacklevel=1)
            with pytest.raises(UserWarning):
                warnings.warn("another", UserWarning, stacklevel=1)
        assert list(warnings.filters) == before
        with pytest.raises(Odd):
            warnings.warn("three", Odd, stacklevel=1)


def test_several_in_many_threads_leave_nothing_behind():
    kinds = [Quiet({"category": Odd}), Quiet({"module": "nowhere"}), Quiet({"module": "here"})]

    def enter(i):
        with kinds[i % 3]:
            return len(warnings.filters)

    interval = sys.getswitchinterval()
    with warnings.catch_warnings():
        before = list(warnings.filters)
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as threads:
                lengths = list(threads.map(enter, range(40_000)))
        finally:
            sys.setswitchinterval(interval)
        assert list(warnings.filters) == before
    assert min(lengths) > len(before)
