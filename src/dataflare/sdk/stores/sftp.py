"""Files on SFTP servers, through asyncssh: listed, and read by ranges.

Always true: a range counts only if the file has the size and the time that were listed, before and after it is read.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from dataflare.errors import ConfigError, DataFlareError, SystemError_
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.store import FileInfo, Store, replaced, server_failure

_TIMEOUT_S = 60
T = TypeVar("T")


class SftpPlace(Store):
    """A server. Paths are absolute; those that begin with `~/` are in the user's home."""

    def __init__(self, root: str, options: StorageOptions) -> None:
        super().__init__(root)
        try:
            import asyncssh
        except ImportError as error:
            raise ConfigError(
                f"{root} needs the library asyncssh",
                code="E0404",
                help="pip install 'dataflare[sftp]'",
            ) from error
        self.ssh: Any = asyncssh
        self._options = options
        self._sftp: Any = None
        self._opening = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="dataflare-sftp", daemon=True).start()

    def list(self, folder: str) -> Iterator[FileInfo]:
        return iter(sorted(self.run(self._walk(folder), folder), key=lambda each: each.path))

    async def _walk(self, folder: str) -> Sequence[FileInfo]:
        sftp, found, waiting = await self.client(), [], [folder]
        while waiting:
            here = waiting.pop()
            try:
                entries = await sftp.readdir(self.there(here) or ".")
            except self.ssh.SFTPNoSuchFile:
                continue
            for entry in entries:
                name = str(entry.filename)
                if name in (".", ".."):
                    continue
                attrs = entry.attrs
                if attrs.type == self.ssh.FILEXFER_TYPE_SYMLINK:
                    attrs = await sftp.stat(self.there(here + name))
                if attrs.type == self.ssh.FILEXFER_TYPE_DIRECTORY:
                    waiting.append(f"{here}{name}/")
                else:
                    found.append(_info(f"{here}{name}", attrs))
        return found

    def look(self, path: str) -> FileInfo | None:
        return self.run(self._look(path), path)

    async def _look(self, path: str) -> FileInfo | None:
        sftp = await self.client()
        try:
            attrs = await sftp.stat(self.there(path))
        except self.ssh.SFTPNoSuchFile:
            return None
        is_folder = attrs.type == self.ssh.FILEXFER_TYPE_DIRECTORY
        return None if is_folder else _info(path, attrs)

    def read(self, file: FileInfo, start: int, end: int) -> bytes:
        end = min(end, file.size)
        return self.run(self._read(file, start, end), file.path) if start < end else b""

    async def _read(self, file: FileInfo, start: int, end: int) -> bytes:
        sftp = await self.client()
        try:
            async with sftp.open(self.there(file.path), "rb") as opened:
                data: bytes = await opened.read(end - start, start)
                now = _info(file.path, await opened.stat())
        except self.ssh.SFTPNoSuchFile:
            raise replaced(self.url(file.path), "it is gone") from None
        if not now.is_version(file) or len(data) != end - start:
            raise replaced(self.url(file.path))
        return data

    def there(self, path: str) -> str:
        return path[2:] if path.startswith("~/") else f"/{path}"

    async def client(self) -> Any:
        """The connection; it is made again if it was lost."""
        async with self._opening:
            if self._sftp is None:
                user, _, host = self.root.partition("://")[2].rpartition("@")
                name, _, port = host.partition(":")
                given, options = self._options, dict[str, Any]()
                if given.known_hosts is not None:
                    options["known_hosts"] = given.known_hosts
                if given.private_key is not None:
                    options["client_keys"] = [given.private_key]
                if given.passphrase is not None:
                    options["passphrase"] = given.passphrase
                if given.password is not None:
                    options["password"] = given.password
                if given.user or user:
                    options["username"] = given.user or user
                connection = await self.ssh.connect(
                    name, int(port or 22), connect_timeout=10, keepalive_interval=15, **options
                )
                self._sftp = await connection.start_sftp_client()
            return self._sftp

    def run(
        self, work: Coroutine[Any, Any, T], path: str, doing: str = "reading", *, ends: bool = True
    ) -> T:
        """The result of work with the connection. doing: what is done with the path, for messages. ends: it must end in time;
        else as long as the server answers."""
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
            return waiting.result(_TIMEOUT_S if ends else None)
        except DataFlareError:
            raise
        except (OSError, TimeoutError, self.ssh.Error) as error:
            lost = isinstance(error, self.ssh.SFTPConnectionLost | self.ssh.SFTPNoConnection)
            if lost or not isinstance(error, self.ssh.SFTPError):
                self._sftp = None  # the next call connects again
            raise self._translated(error, path, doing) from error

    def _translated(self, error: Exception, path: str, doing: str) -> DataFlareError:
        ssh, where = self.ssh, self.url(path)
        if isinstance(error, ssh.HostKeyNotVerifiable):
            return SystemError_(
                f"the host key of {self.root} is not known",
                code="E0602",
                notes=[str(error)],
                help="check its fingerprint with its owner, and add it to ~/.ssh/known_hosts (ssh-keyscan), or "
                "name a file of host keys in storage.known_hosts",
            )
        denied = isinstance(error, ssh.PermissionDenied | ssh.SFTPPermissionDenied)
        login = "user, password and private_key"
        return server_failure(error, doing, where, denied=denied, login=login)


def _info(path: str, attrs: Any) -> FileInfo:
    seconds = (attrs.mtime or 0) * 1_000_000_000
    return FileInfo(path, attrs.size or 0, seconds + (getattr(attrs, "mtime_ns", None) or 0))
