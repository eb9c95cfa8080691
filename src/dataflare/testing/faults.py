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

import polars as pl

from dataflare.checkpoint.manifest import Manifest, StateChunk
from dataflare.checkpoint.resolve import ManifestFact
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
        self._faults = faults

    def _fail(self, method: str) -> None:
        errors = self._faults.get(method)
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error

    def publish(self, manifest: Manifest) -> None:
        self._fail("publish")
        super().publish(manifest)

    def write_chunk(
        self, name: str, frame: pl.DataFrame, key_groups: tuple[int, int] | None = None
    ) -> StateChunk:
        self._fail("write_chunk")
        return super().write_chunk(name, frame, key_groups)

    def read_chunk(self, chunk: StateChunk) -> pl.DataFrame:
        self._fail("read_chunk")
        return super().read_chunk(chunk)

    def list_manifests(self, *, thorough: bool = False) -> list[ManifestFact]:
        self._fail("list_manifests")
        return super().list_manifests(thorough=thorough)

    def collect(self, retain: int = 3) -> int:
        self._fail("collect")
        return super().collect(retain)


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
