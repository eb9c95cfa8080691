"""Stores and disks that fail when a test says so."""

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

    faults: by method (`publish`, `write_chunk`, `read_chunk`, `list_manifests`, `collect`), what its
    next calls raise, one after the other; None lets a call pass. Shared by all stores of a test.
    """

    FAILING = ("publish", "write_chunk", "read_chunk", "list_manifests", "collect")

    def __init__(
        self, folder: Path, lineage: str, faults: Mapping[str, list[Exception | None]]
    ) -> None:
        unknown = faults.keys() - set(self.FAILING)
        if unknown:
            raise ValueError(f"no store fails at {sorted(unknown)}; known: {self.FAILING}")
        super().__init__(folder, lineage)
        for method, coming in faults.items():
            setattr(self, method, _failing(getattr(self, method), coming))


def _failing(method: Callable[..., Any], coming: list[Exception | None]) -> Callable[..., Any]:
    def call(*args: Any, **more: Any) -> Any:
        error = coming.pop(0) if coming else None
        if error is not None:
            raise error
        return method(*args, **more)

    return call


@contextmanager
def disk_faults(
    call: Call, *, at: int = 1, times: int = 1, errno: int = numbers.ENOSPC
) -> Iterator[Callable[[], int]]:
    """Let `os.fsync` or `os.replace` fail at its `at`-th call and the `times - 1` after it, in any
    thread. Gives a function that says how many calls there were."""
    real = getattr(os, call)
    lock = threading.Lock()
    count = 0

    def faulty(*args: Any, **more: Any) -> Any:
        nonlocal count
        with lock:
            count += 1
            now = count
        if at <= now < at + times:
            raise OSError(errno, os.strerror(errno))
        return real(*args, **more)

    with mock.patch.object(os, call, faulty):
        yield lambda: count
