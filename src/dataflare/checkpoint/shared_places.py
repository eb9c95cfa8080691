"""Small texts that processes on several machines see: how a job and its workers find out that they share a storage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from dataflare.checkpoint.object_store import Bucket
from dataflare.security.redact import redact


class SharedPlace(Protocol):
    """It is sent to workers. All calls block."""

    @property
    def shown(self) -> str:
        """For messages."""

    def write(self, name: str, text: str) -> None: ...
    def read(self, name: str) -> str | None:
        """None if there is no such text."""

    def remove(self, names: Iterable[str]) -> None:
        """Those that are there."""


class FolderPlace(Struct, frozen=True):
    """A folder."""

    folder: Path

    @property
    def shown(self) -> str:
        return str(self.folder)

    def write(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def read(self, name: str) -> str | None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return (self.folder / name).read_text()
        return None

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)


class BucketPlace(Struct, frozen=True):
    """Objects of a bucket. prefix: of their names, below its URL."""

    url: str
    prefix: str

    @property
    def shown(self) -> str:
        return f"{redact(self.url.rstrip('/'))}/{self.prefix}"

    def write(self, name: str, text: str) -> None:
        Bucket(self.url).put(f"{self.prefix}/{name}", text.encode())

    def read(self, name: str) -> str | None:
        data = Bucket(self.url).get(f"{self.prefix}/{name}")
        return None if data is None else data.decode("utf-8", "replace")

    def remove(self, names: Iterable[str]) -> None:
        Bucket(self.url).delete([f"{self.prefix}/{name}" for name in names])
