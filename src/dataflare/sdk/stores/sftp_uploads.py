"""Write files to SFTP servers. A rename replaces a file where the server knows `posix-rename@openssh.com`.

A small file with versions is a row of files with numbers, each of which is made once, so of
two that write the same version one is refused.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

import xxhash

from dataflare.sdk.stores.server_uploads import PIECE, ServerUploads
from dataflare.sdk.stores.sftp import SftpPlace
from dataflare.sdk.stores.store import Store
from dataflare.sdk.stores.uploads import hidden_path


class SftpUploads(ServerUploads):
    """The writing side of a server."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        assert isinstance(store, SftpPlace)
        self._place, self._ssh = store, store.ssh

    def send(self, local: Path, hidden: str) -> str:
        return self._place.run(self._send(local, hidden), hidden, "writing", ends=False)

    async def _send(self, local: Path, hidden: str) -> str:
        """Write a file durably; gives its digest. A server without `fsync@openssh.com` keeps it as it keeps all files."""
        sftp, digest = await self._place.client(), xxhash.xxh3_128()
        await self._make_folder(sftp, hidden)
        with local.open("rb") as data:
            async with sftp.open(self._place.there(hidden), "wb") as there:
                while piece := data.read(PIECE):
                    digest.update(piece)
                    await there.write(piece)
                try:
                    await there.fsync()
                except self._ssh.SFTPOpUnsupported:
                    return digest.hexdigest()
        return digest.hexdigest()

    async def _make_folder(self, sftp: Any, path: str) -> None:
        folder = self._place.there(path).rpartition("/")[0]
        if folder:
            await sftp.makedirs(folder, exist_ok=True)

    def rename(self, hidden: str, path: str) -> bool:
        return self._place.run(self._rename(hidden, path), path, "writing")

    async def _rename(self, hidden: str, path: str) -> bool:
        """Whether there was something to rename."""
        sftp = await self._place.client()
        old, new = self._place.there(hidden), self._place.there(path)
        try:
            try:
                await sftp.posix_rename(old, new)
            except self._ssh.SFTPOpUnsupported:
                await sftp.stat(old)
                await self._remove(sftp, new)
                await sftp.rename(old, new)
        except self._ssh.SFTPNoSuchFile:
            return False
        return True

    def digest(self, path: str) -> str | None:
        return self._place.run(self._digest(path), path, ends=False)

    async def _digest(self, path: str) -> str | None:
        """Of a file that is there."""
        sftp, digest = await self._place.client(), xxhash.xxh3_128()
        try:
            async with sftp.open(self._place.there(path), "rb") as there:
                while piece := await there.read(PIECE):
                    digest.update(piece)
        except self._ssh.SFTPNoSuchFile:
            return None
        return digest.hexdigest()

    def delete(self, paths: Collection[str]) -> None:
        if paths:
            self._place.run(self._delete(paths), next(iter(paths)), "deleting", ends=False)

    async def _delete(self, paths: Collection[str]) -> None:
        sftp = await self._place.client()
        for path in paths:
            await self._remove(sftp, self._place.there(path))

    async def _remove(self, sftp: Any, there: str) -> None:
        try:
            await sftp.remove(there)
        except self._ssh.SFTPNoSuchFile:
            return

    # -- small files with versions -----------------------------------------------------------------

    def get(self, path: str) -> tuple[bytes, Any] | None:
        return self._place.run(self._get(path), path)

    async def _get(self, path: str) -> tuple[bytes, int] | None:
        sftp = await self._place.client()
        while versions := await self._versions(sftp, path):
            newest = max(versions)
            try:
                async with sftp.open(self._place.there(_version(path, newest)), "rb") as there:
                    return bytes(await there.read()), newest
            except self._ssh.SFTPNoSuchFile:
                continue  # a newer one has replaced it just now
        return None

    async def _versions(self, sftp: Any, path: str) -> list[int]:
        """The numbers of the versions that are there."""
        folder, _, name = self._place.there(path).rpartition("/")
        try:
            names = [str(each) for each in await sftp.listdir(folder or ".")]
        except self._ssh.SFTPNoSuchFile:
            return []
        pattern = re.compile(rf"{re.escape(name)}(?:\.(\d+))?")
        found = [match for each in names if (match := pattern.fullmatch(each)) is not None]
        return [int(match[1] or 0) for match in found]

    def put(self, path: str, data: bytes, version: Any = None) -> bool:
        number = 0 if version is None else int(version) + 1
        return self._place.run(self._put(path, data, number), path, "writing")

    async def _put(self, path: str, data: bytes, number: int) -> bool:
        sftp = await self._place.client()
        await self._make_folder(sftp, path)
        hidden = self._place.there(hidden_path(path, secrets.token_hex(8)))
        async with sftp.open(hidden, "wb") as there:
            await there.write(data)
        new = self._place.there(_version(path, number))
        try:
            await sftp.rename(hidden, new)  # refused where there is one
        except self._ssh.SFTPError:
            await self._remove(sftp, hidden)
            if number not in await self._versions(sftp, path):
                raise
            return False
        versions = await self._versions(sftp, path)
        if max(versions) > number:  # it was replaced, and its file removed, before this one came
            await self._remove(sftp, new)
            return False
        for older in versions:
            if older < number:
                await self._remove(sftp, self._place.there(_version(path, older)))
        return True


def _version(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path
