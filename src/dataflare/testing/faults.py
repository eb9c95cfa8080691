"""Stores and disks that fail where a test tells them to."""

from __future__ import annotations

import errno as numbers
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from dataflare.checkpoint.store import LocalStore

Call = Literal["fsync", "replace"]


class FlakyStore(LocalStore):
    """A checkpoint store on a local disk, some of whose calls raise.

    faults: by method (`publish`, `write_chunk`, `read_chunk`, `list_manifests`, `collect`), the errors
    of its next calls, in order; a call with None succeeds. All stores of a test share it.
    """

    FAILING = ("publish", "write_chunk", "read_chunk", "list_manifests", "collect")

    def __init__(
        self, folder: Path, lineage: str, faults: Mapping[str, list[Exception | None]]
    ) -> None:
        unknown = faults.keys() - set(self.FAILING)
        if unknown:
            raise ValueError(f"unknown methods {sorted(unknown)}; known: {self.FAILING}")
        super().__init__(folder, lineage)
        for method, errors in faults.items():
            setattr(self, method, _failing(getattr(self, method), errors))


def _failing(method: Callable[..., Any], errors: list[Exception | None]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error
        return method(*args, **options)

    return call


@contextmanager
def disk_faults(
    call: Call, *, at: int = 1, times: int = 1, errno: int = numbers.ENOSPC
) -> Iterator[Callable[[], int]]:
    """Make call number `at` of `os.fsync` or `os.replace` fail, and the `times - 1` calls after it, in any
    thread. Yields a function that returns the number of calls so far."""
    real = getattr(os, call)
    lock = threading.Lock()
    count = 0

    def faulty(*args: Any, **options: Any) -> Any:
        nonlocal count
        with lock:
            count += 1
            number = count
        if at <= number < at + times:
            raise OSError(errno, os.strerror(errno))
        return real(*args, **options)

    with mock.patch.object(os, call, faulty):
        yield lambda: count
