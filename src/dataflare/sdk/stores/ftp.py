"""Files on FTP servers: listed, and read by ranges.

Always true: a range counts only if the file has the size and the time that were listed, after it is read.
"""

from __future__ import annotations

import ftplib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from dataflare.errors import DataFlareError
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.store import FileInfo, Store, replaced, server_failure

_TIMEOUT_S = 60
_PORT = 21
_PIECE = 64 << 10
_UNKNOWN = ("500", "501", "502", "504")
"""Replies to a command that a server does not have."""
_DENIED = ("530", "532", "550", "553")
_BROKEN: tuple[type[Exception], ...] = (ftplib.Error, OSError, EOFError, ValueError)
T = TypeVar("T")
Entry = tuple[str, FileInfo | None]
"""A name, and what is known of the file; None for a folder."""


class FtpPlace(Store):
    """A server. Paths are absolute; those that begin with `~/` are in the folder in which a login begins."""

    def __init__(self, root: str, options: StorageOptions) -> None:
        super().__init__(root)
        user, _, host = root.partition("://")[2].rpartition("@")
        name, _, port = host.partition(":")
        self._address = name, int(port or _PORT)
        self._login = options.user or user or "anonymous", options.password or ""
        self._idle: list[ftplib.FTP] = []
        self._lock = threading.Lock()

    def list(self, folder: str) -> Iterator[FileInfo]:
        return iter(self.run(lambda ftp: self._walk(ftp, folder), folder))

    def _walk(self, ftp: ftplib.FTP, folder: str) -> Sequence[FileInfo]:
        found, waiting = [], [folder]
        while waiting:
            here = waiting.pop()
            for name, info in entries_of(ftp, here):
                if info is None:
                    waiting.append(f"{here}{name}/")
                else:
                    found.append(info)
        return sorted(found, key=lambda each: each.path)

    def look(self, path: str) -> FileInfo | None:
        return self.run(lambda ftp: look(ftp, path), path)

    def read(self, file: FileInfo, start: int, end: int) -> bytes:
        end = min(end, file.size)
        if start >= end:
            return b""
        return self.run(lambda ftp: self._read(ftp, file, start, end), file.path)

    def _read(self, ftp: ftplib.FTP, file: FileInfo, start: int, end: int) -> bytes:
        data = bytearray()
        try:
            with ftp.transfercmd(f"RETR {there(file.path)}", rest=start or None) as connection:
                while len(data) < end - start:
                    piece = connection.recv(min(_PIECE, end - start - len(data)))
                    if not piece:
                        break
                    data += piece
        except ftplib.error_perm:
            raise replaced(self.url(file.path), "it is gone") from None
        whole = end == file.size
        try:
            ftp.voidresp()
        except (ftplib.error_temp, ftplib.error_perm):
            if whole:
                raise  # it ended too early; otherwise the client has ended it
        now = look(ftp, file.path)
        if now is None:
            raise replaced(self.url(file.path), "it is gone")
        if not now.is_version(file) or len(data) != end - start:
            raise replaced(self.url(file.path))
        return bytes(data)

    # -- connections -------------------------------------------------------------------------------

    def run(self, act: Callable[[ftplib.FTP], T], path: str, doing: str = "reading") -> T:
        """The result of calls over a connection that nothing else uses. One that fails is not used again. doing: what is
        done with the path, for messages."""
        try:
            ftp = self._take()
            result = act(ftp)
        except _BROKEN as error:
            raise self._translated(error, path, doing) from error
        with self._lock:
            self._idle.append(ftp)
        return result

    def _take(self) -> ftplib.FTP:
        while True:
            with self._lock:
                ftp = self._idle.pop() if self._idle else None
            if ftp is None:
                return self._connect()
            with suppress(*_BROKEN):
                # A server ends a connection that was idle, and lists go over it as text.
                ftp.voidcmd("TYPE I")
                return ftp

    def _connect(self) -> ftplib.FTP:
        ftp = ftplib.FTP(timeout=_TIMEOUT_S, encoding="utf-8")
        ftp.connect(*self._address)
        ftp.login(*self._login)
        ftp.voidcmd("TYPE I")
        return ftp

    def _translated(self, error: Exception, path: str, doing: str) -> DataFlareError:
        denied = isinstance(error, ftplib.error_perm) and str(error)[:3] in _DENIED
        return server_failure(
            error, doing, self.url(path), denied=denied, login="user and password"
        )


def entries_of(ftp: ftplib.FTP, folder: str) -> Sequence[Entry]:
    """What a folder has; nothing if there is no such folder."""
    place = there(folder) or "."
    try:
        listed = list(ftp.mlsd(place, facts=["type", "size", "modify"]))
    except ftplib.error_perm as error:
        if not str(error).startswith(_UNKNOWN):
            return []
        return _plain_entries(ftp, folder, place)
    entries: list[Entry] = []
    for name, facts in listed:
        if facts["type"] == "dir":
            entries.append((name, None))
        elif facts["type"] == "file":
            path = f"{folder}{name}"
            entries.append((name, FileInfo(path, int(facts["size"]), _ns(facts["modify"]))))
    return entries


def _plain_entries(ftp: ftplib.FTP, folder: str, place: str) -> Sequence[Entry]:
    """By names alone, of a server without MLSD."""
    try:
        names = ftp.nlst(place)
    except ftplib.error_perm:
        return []
    ftp.voidcmd("TYPE I")  # as text, files have no sizes
    names = [name.rstrip("/").rpartition("/")[2] for name in names]
    return [(name, look(ftp, f"{folder}{name}")) for name in names if name not in ("", ".", "..")]


def there(path: str) -> str:
    return path[2:] if path.startswith("~/") else f"/{path}"


def look(ftp: ftplib.FTP, path: str) -> FileInfo | None:
    """None for a folder, and for what is not there."""
    try:
        size = ftp.size(there(path))
        modified = ftp.voidcmd(f"MDTM {there(path)}").split()[1]
    except ftplib.error_perm as error:
        if str(error).startswith("550"):
            return None
        raise
    return FileInfo(path, size or 0, _ns(modified))


def _ns(text: str) -> int:
    """Of YYYYMMDDHHMMSS[.sss], in UTC."""
    seconds, _, fraction = text.partition(".")
    at = datetime.strptime(seconds, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    return int(at.timestamp()) * 1_000_000_000 + int(f"{fraction:0<9}"[:9] or 0)
