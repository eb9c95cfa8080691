"""The contract of a place that holds files: list, look, read a range of one version.

A URL is divided into the root of its store (`s3://bucket`) and a path in it (`orders/a.csv`).
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct

from dataflare.errors import CheckpointError, ConfigError, Retry, SystemError_
from dataflare.sdk.stores.options import SCHEMES, StorageOptions

_READ_BY_CLIENTS = ("AWS_", "AZURE_", "GOOGLE_")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/]*)/?(.*)", re.S)


class FileInfo(Struct, frozen=True):
    """A file as it is now. path: in its store. etag: changes whenever the content does; None where the
    store has none, so that size and time tell versions apart."""

    path: str
    size: int
    mtime_ns: int
    etag: str | None = None

    def is_version(self, other: FileInfo) -> bool:
        """Whether both are the same version of the file."""
        if self.etag is not None and other.etag is not None:
            return self.etag == other.etag
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


class Store(ABC):
    """One bucket, container or server. All calls block, and any thread may make them."""

    lists = True
    """Whether it can say which files it has."""

    def __init__(self, root: str) -> None:
        self.root = root

    def url(self, path: str) -> str:
        return f"{self.root}/{path}"

    @abstractmethod
    def list(self, folder: str) -> Iterator[FileInfo]:
        """The files below a folder and its folders, sorted by path. folder: "" or ends in a slash.
        Nothing for a folder that does not exist."""

    def beside(self, folder: str) -> Iterator[FileInfo]:
        """The files in a folder, without those in its folders."""
        return (each for each in self.list(folder) if "/" not in each.path[len(folder) :])

    @abstractmethod
    def look(self, path: str) -> FileInfo | None:
        """None if there is no such file."""

    @abstractmethod
    def read(self, file: FileInfo, start: int, end: int) -> bytes:
        """These bytes of this version; fewer only at its end. Raises CheckpointError (E0703) if the file
        is another version or gone."""


def replaced(url: str, what: str = "another program replaced it") -> CheckpointError:
    """A file is not the version any more that the run lists or reads."""
    return CheckpointError(
        f"{url} has changed since the run began: {what}",
        code="E0703",
        help="put the old file back, or start over with --fresh; files that are written under new names "
        "are never in the way of a run",
    )


def divided(url: str) -> tuple[str, str]:
    """The root of a URL's store, and the path in it."""
    match = _URL.fullmatch(url)
    assert match is not None
    scheme, host, path = match.groups()
    return f"{scheme.lower()}://{host}", path


def open_store(url: str, options: StorageOptions, step: str = "") -> tuple[Store, str]:
    """The store of a URL, and the path in it. Raises ConfigError: E0419 for a scheme without a store, E0404
    without its library, E0405 for options that it does not have."""
    root, path = divided(url)
    scheme = root.partition("://")[0]
    if scheme not in SCHEMES:
        near = {
            "azure": "az",
            "abfs": "az",
            "abfss": "az",
            "gcs": "gs",
            "s3a": "s3",
            "s3n": "s3",
        }.get(scheme)
        raise ConfigError(
            f"step '{step}' names '{url}', and {scheme}:// is not a place that files can be in",
            code="E0419",
            step=step or None,
            help=f"write {near}://..."
            if near
            else f"write the path alone: {url.partition('://')[2]}"
            if scheme == "file"
            else f"use a path of this machine, or one of {', '.join(f'{each}://' for each in SCHEMES)}",
        )
    if root.endswith("://"):
        raise ConfigError(
            f"'{url}' names no {'bucket' if scheme in ('s3', 'gs') else 'container or server'}",
            code="E0419",
            step=step or None,
            help=f"write {scheme}://NAME/path",
        )
    user, _, host = root.partition("://")[2].rpartition("@")
    if ":" in user:
        raise ConfigError(
            f"a URL at {scheme}://{host} holds a password",
            code="E0405",
            step=step or None,
            help="take it out, and give it in storage.password, as ${secret:NAME}: messages and positions "
            "name URLs",
        )
    unused = options.unused_by(scheme)
    if unused:
        raise ConfigError(
            f"storage: '{unused[0]}' has no meaning for {scheme}:// places",
            code="E0405",
            step=step or None,
            help="leave it out",
        )
    return _opened(root, options.model_dump_json(), _environment()), path


def _environment() -> tuple[tuple[str, str], ...]:
    """What the clients of object stores read from it: another address or login means another store."""
    found = (item for item in os.environ.items() if item[0].startswith(_READ_BY_CLIENTS))
    return tuple(sorted(found))


def server_failure(
    error: Exception, doing: str, where: str, *, denied: bool, login: str
) -> SystemError_:
    """The error for what a file server says. denied: whether the user may not do it. login: the options of the login."""
    if denied:
        return SystemError_(
            f"permission denied: {doing} {where}",
            code="E0602",
            notes=[str(error)],
            help=f"check {login} in 'storage', and the rights of this user",
        )
    return SystemError_(
        f"{doing} {where} failed: {error or type(error).__name__}",
        code="E0607",
        retry=Retry.LATER,
        help="check that the server answers",
    )


@lru_cache(maxsize=64)
def _opened(root: str, options: str, environment: tuple[tuple[str, str], ...]) -> Store:
    given = StorageOptions.model_validate_json(options)
    match root.partition("://")[0]:
        case "http" | "https":
            from dataflare.sdk.stores.web import WebPlace

            return WebPlace(root, given)
        case "sftp":
            from dataflare.sdk.stores.sftp import SftpPlace

            return SftpPlace(root, given)
        case "ftp":
            from dataflare.sdk.stores.ftp import FtpPlace

            return FtpPlace(root, given)
    from dataflare.sdk.stores.objects import ObjectPlace

    return ObjectPlace(root, given)
