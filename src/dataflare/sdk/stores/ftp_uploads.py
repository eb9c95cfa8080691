"""Write files to FTP servers.

A small file with versions is a file, and then a row of folders with numbers, each with the file in it: a rename of a folder is
refused where there is one of that name, while a rename of a file would replace it. So of two that write the same version one is
refused. The file of the first version is claimed by such a folder beside it. A folder that is not wanted any more is renamed
before it is removed, so a name has the whole folder or nothing.
"""

from __future__ import annotations

import ftplib
import io
import re
import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from dataflare.errors import SystemError_
from dataflare.sdk.stores.ftp import FtpPlace, entries_of, look, there
from dataflare.sdk.stores.server_uploads import PIECE, ServerUploads
from dataflare.sdk.stores.store import Store
from dataflare.sdk.stores.uploads import hidden_path

_DATA, _MADE = "data", "made"


class FtpUploads(ServerUploads):
    """The writing side of a server."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        assert isinstance(store, FtpPlace)
        self._place = store

    def send(self, local: Path, hidden: str) -> str:
        return self._place.run(lambda ftp: _send(ftp, local, hidden), hidden, "writing")

    def rename(self, hidden: str, path: str) -> bool:
        return self._place.run(lambda ftp: _rename(ftp, hidden, path), path, "writing")

    def digest(self, path: str) -> str | None:
        return self._place.run(lambda ftp: _digest(ftp, path), path)

    def delete(self, paths: Collection[str]) -> None:
        def act(ftp: ftplib.FTP) -> None:
            for path in paths:
                _delete(ftp, path)

        if paths:
            self._place.run(act, next(iter(paths)), "deleting")

    # -- small files with versions -----------------------------------------------------------------

    def get(self, path: str) -> tuple[bytes, Any] | None:
        return self._place.run(lambda ftp: _get(ftp, path), path)

    def put(self, path: str, data: bytes, version: Any = None) -> bool:
        number = 0 if version is None else int(version) + 1
        return self._place.run(lambda ftp: self._put(ftp, path, data, number), path, "writing")

    def _put(self, ftp: ftplib.FTP, path: str, data: bytes, number: int) -> bool:
        if not (_put_first(ftp, path, data) if number == 0 else _put_next(ftp, path, data, number)):
            return False
        versions = _versions(ftp, path)
        if not versions:
            raise SystemError_(
                f"{self._place.root} does not list names that begin with a dot, by which a run knows what it has written",
                code="E0600",
                help="let the server list them, or write to another place",
            )
        if max(versions) > number:  # it was replaced, and removed, before this one came
            _withdraw(ftp, path, number)
            return False
        for older in versions:
            if older < number:
                _withdraw(ftp, path, older)
        return True


def _put_first(ftp: ftplib.FTP, path: str, data: bytes) -> bool:
    """As a file of this name. The folder of its claim says which writer gave it; a writer that finds one completes it."""
    if look(ftp, path) is not None:
        return False
    is_first = _put_folder(ftp, path, _claim_of(path), {_DATA: data, _MADE: b""})
    with suppress(ftplib.error_perm):  # another one has completed it
        ftp.rename(there(f"{_claim_of(path)}/{_DATA}"), there(path))
    if is_first and look(ftp, path) is None:
        raise ftplib.error_perm("550 the file that was written is not there")
    return is_first


def _put_next(ftp: ftplib.FTP, path: str, data: bytes, number: int) -> bool:
    folder = f"{path}.{number}"
    return _put_folder(ftp, path, folder, {_DATA: data})


def _put_folder(ftp: ftplib.FTP, path: str, folder: str, files: Mapping[str, bytes]) -> bool:
    """Make a folder with files, unless there is one of this name. Whether it was made."""
    hidden = hidden_path(path, secrets.token_hex(8))
    for name, data in files.items():
        _make_folders(ftp, f"{hidden}/{name}")
        ftp.storbinary(f"STOR {there(f'{hidden}/{name}')}", io.BytesIO(data))
    try:
        ftp.rename(there(hidden), there(folder))  # refused where there is one
    except ftplib.error_perm:
        _remove(ftp, hidden)
        parent, slash, name = folder.rpartition("/")
        if name not in [each for each, _ in entries_of(ftp, parent + slash)]:
            raise
        return False
    return True


def _withdraw(ftp: ftplib.FTP, path: str, number: int) -> None:
    if number == 0:
        _delete(ftp, path)
        return
    _remove_at_once(ftp, f"{path}.{number}")


def _remove_at_once(ftp: ftplib.FTP, folder: str) -> None:
    """A folder, if it is there: no reader sees a part of it."""
    hidden = hidden_path(folder, secrets.token_hex(8))
    with suppress(ftplib.error_perm):  # it is not there, or another one has removed it
        ftp.rename(there(folder), there(hidden))
        _remove(ftp, hidden)


def _claim_of(path: str) -> str:
    """The folder that says that the first version of a small file was given."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.first"


def _send(ftp: ftplib.FTP, local: Path, hidden: str) -> str:
    digest = xxhash.xxh3_128()
    _make_folders(ftp, hidden)
    with local.open("rb") as data:
        ftp.storbinary(f"STOR {there(hidden)}", data, PIECE, callback=digest.update)
    return digest.hexdigest()


def _make_folders(ftp: ftplib.FTP, path: str) -> None:
    folder, _, _ = path.rpartition("/")
    names = folder.split("/") if folder else []
    for count in range(1, len(names) + 1):
        with suppress(ftplib.error_perm):  # it is there, or the file in it is refused
            ftp.mkd(there("/".join(names[:count])))


def _rename(ftp: ftplib.FTP, hidden: str, path: str) -> bool:
    if look(ftp, hidden) is None:
        return False
    try:
        ftp.rename(there(hidden), there(path))
    except ftplib.error_perm:
        if look(ftp, path) is None:
            raise
        ftp.delete(there(path))  # this server does not replace a file by a rename
        ftp.rename(there(hidden), there(path))
    return True


def _digest(ftp: ftplib.FTP, path: str) -> str | None:
    if look(ftp, path) is None:
        return None
    digest = xxhash.xxh3_128()
    ftp.retrbinary(f"RETR {there(path)}", digest.update, PIECE)
    return digest.hexdigest()


def _delete(ftp: ftplib.FTP, path: str) -> None:
    """A file, and before it the claim of its first version."""
    _remove_at_once(ftp, _claim_of(path))
    try:
        ftp.delete(there(path))
    except ftplib.error_perm:
        if look(ftp, path) is not None:
            raise


def _remove(ftp: ftplib.FTP, folder: str) -> None:
    for name in (_DATA, _MADE):
        with suppress(ftplib.error_perm):  # it has not both
            ftp.delete(there(f"{folder}/{name}"))
    ftp.rmd(there(folder))


def _get(ftp: ftplib.FTP, path: str) -> tuple[bytes, int] | None:
    while versions := _versions(ftp, path):
        newest, data = max(versions), bytearray()
        place = f"{path}.{newest}/{_DATA}" if newest else path
        try:
            ftp.retrbinary(f"RETR {there(place)}", data.extend)
        except ftplib.error_perm:
            if newest in _versions(ftp, path):
                raise
            continue  # a newer one has replaced it just now
        return bytes(data), newest
    return None


def _versions(ftp: ftplib.FTP, path: str) -> list[int]:
    """The numbers of the versions that are there."""
    folder, slash, name = path.rpartition("/")
    pattern = re.compile(rf"{re.escape(name)}(?:\.(\d+))?")
    found = [pattern.fullmatch(each) for each, _ in entries_of(ftp, folder + slash)]
    return [int(match[1] or 0) for match in found if match is not None]
