"""Write files to a store in two steps: staged where no reader sees them, then published under their names.

Always true: what `stage` returned can be published by any process, once or many times; until then the name holds what it
held before.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from dataflare.errors import CheckpointError, ConfigError
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.store import Store, divided, open_store

WRITABLE = ("s3", "az", "gs", "sftp", "ftp")
"""The schemes of stores that files can be written to."""
_HIDDEN = re.compile(r"^(?P<folder>(?:.*/)?)\.(?P<name>[^/]+)\.[0-9a-f]+\.inprogress$", re.DOTALL)
Staged = Mapping[str, Any]
"""What was staged: plain data for a checkpoint. It always has a `token`, a chance text that the file carries."""


class Unfinished(Struct, frozen=True):
    """A file that was staged, or whose staging was not finished. path: its name when it is published."""

    path: str
    staged: Staged


class Uploads(ABC):
    """The writing side of a store. All calls block, and any thread may make them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @abstractmethod
    def stage(self, local: Path, path: str, token: str) -> Staged:
        """Bring a file there, durably."""

    @abstractmethod
    def publish(self, path: str, staged: Staged) -> None:
        """Give the file its name, in place of what has it. Raises CheckpointError (E0704) if the staged file
        is gone and was not published."""

    @abstractmethod
    def discard(self, path: str, staged: Staged) -> None:
        """Remove what was staged; nothing if it is gone."""

    @abstractmethod
    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """What is staged below a prefix of paths, by anyone."""

    @abstractmethod
    def delete(self, paths: Collection[str]) -> None:
        """Remove files. Those that are gone count as removed."""

    @abstractmethod
    def get(self, path: str) -> tuple[bytes, Any] | None:
        """A small file, and its version for `put`. None if there is none."""

    @abstractmethod
    def put(self, path: str, data: bytes, version: Any = None) -> bool:
        """Write a small file, if it has still this version (None: if there is none). Whether it was written."""


def hidden_path(path: str, token: str) -> str:
    """Where a file is staged that has a path of its own until it is published: beside it. Readers leave out names that begin
    with a dot."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.{token}.inprogress"


def hidden_below(store: Store, prefix: str) -> Iterator[Unfinished]:
    """What is staged below a prefix of paths under a hidden name."""
    folder = prefix[: prefix.rfind("/") + 1]
    for each in store.list(folder) if folder == prefix else store.beside(folder):
        match = _HIDDEN.match(each.path)
        if match is not None and (path := match["folder"] + match["name"]).startswith(prefix):
            yield Unfinished(path, {"upload": each.path})


def staged_is_gone(url: str) -> CheckpointError:
    return CheckpointError(
        f"the staged rows of {url} are gone",
        code="E0704",
        help="a rule of the bucket or another program removed them; start over with --fresh",
    )


def open_uploads(url: str, options: StorageOptions, step: str = "") -> tuple[Uploads, str]:
    """The writing side of the store of a URL, and the path in it. Raises ConfigError."""
    store, path = open_store(url, options, step)
    scheme = divided(url)[0].partition("://")[0]
    if scheme not in WRITABLE:
        raise ConfigError(
            f"step '{step}' writes to '{url}', and files at {scheme}:// can only be read",
            code="E0406",
            step=step,
            help=f"write to {', '.join(f'{each}://' for each in WRITABLE)}, or to a path of this machine",
        )
    return _opened(store, options.model_dump_json()), path


@lru_cache(maxsize=64)
def _opened(store: Store, options: str) -> Uploads:
    if store.root.startswith("sftp://"):
        from dataflare.sdk.stores.sftp_uploads import SftpUploads

        return SftpUploads(store)
    if store.root.startswith("ftp://"):
        from dataflare.sdk.stores.ftp_uploads import FtpUploads

        return FtpUploads(store)
    if not store.root.startswith("s3://"):
        from dataflare.sdk.stores.copies import CopiedUploads

        return CopiedUploads(store)
    from dataflare.sdk.stores.multipart import S3Uploads

    return S3Uploads(store, StorageOptions.model_validate_json(options))
