"""Files on web servers (http, https): read by ranges, never listed or written.

Always true: a range counts only if the answer names the version that was listed: the same ETag, the same time and the same
size. A server without ranges sends the whole file once, which is kept on a disk of this machine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from dataflare.errors import ConfigError, DataFlareError, Retry, SystemError_
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.store import FileInfo, Store, replaced

_TIMEOUT_S = 60
_RETRIES = 2


class WebPlace(Store):
    """A web server."""

    lists = False

    def __init__(self, root: str, options: StorageOptions) -> None:
        super().__init__(root)
        try:
            import httpx
        except ImportError as error:
            raise ConfigError(
                f"{root} needs the library httpx",
                code="E0404",
                help="pip install 'dataflare[http]'",
            ) from error
        self._failures: Any = httpx.HTTPError
        user = (options.user, options.password or "") if options.user else None
        self._client: Any = httpx.Client(
            headers={**options.headers, "Accept-Encoding": "identity"},
            auth=user,
            timeout=_TIMEOUT_S,
            follow_redirects=True,
            transport=httpx.HTTPTransport(retries=_RETRIES),
        )
        self._whole: dict[FileInfo, Path] = {}
        self._lock = threading.Lock()

    def list(self, folder: str) -> Iterator[FileInfo]:
        raise SystemError_(
            f"the files of {self.url(folder)} cannot be listed",
            code="E0601",
            help="name each file in 'path'",
        )

    def look(self, path: str) -> FileInfo | None:
        answer = self._ask(path, {"Range": "bytes=0-0"}, body=False)
        if answer.status_code in (404, 410):
            return None
        if answer.status_code == 416:  # there is no first byte: the file is empty
            return FileInfo(path, 0, _mtime_ns(answer), _etag(answer))
        self._check(answer, path)
        size = _size(answer)
        if size is None:
            raise SystemError_(
                f"{self.url(path)} does not say how long it is",
                code="E0607",
                help="the server must send Content-Length or answer requests for ranges; download it first",
            )
        return FileInfo(path, size, _mtime_ns(answer), _etag(answer))

    def read(self, file: FileInfo, start: int, end: int) -> bytes:
        end = min(end, file.size)
        if start >= end:
            return b""
        if file in self._whole:
            return self._from_whole(file, start, end)
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if file.etag is not None:
            headers["If-Match"] = file.etag
        answer = self._ask(file.path, headers, body=None)
        try:
            if answer.status_code in (404, 410):
                raise replaced(self.url(file.path), "it is gone")
            if answer.status_code in (412, 416):
                raise replaced(self.url(file.path))
            self._check(answer, file.path)
            now = FileInfo(file.path, _size(answer) or 0, _mtime_ns(answer), _etag(answer))
            if not now.is_version(file) or now.size != file.size:
                raise replaced(self.url(file.path))
            if answer.status_code == 200 and (start, end) != (0, file.size):
                return self._keep(file, answer, start, end)
            data: bytes = answer.read()
        except self._failures as error:
            raise self._failed(file.path, error) from error
        finally:
            answer.close()
        if len(data) != end - start:
            raise self._failed(file.path, f"{len(data):,} of {end - start:,} bytes came")
        return data

    def _keep(self, file: FileInfo, answer: Any, start: int, end: int) -> bytes:
        """Keep the whole file, which is what the server sends."""
        from dataflare.sdk.stores.local_copy import new_path

        with self._lock:
            if file not in self._whole:
                path = new_path(file.path.rpartition("/")[2])
                with path.open("xb") as copy:
                    for part in answer.iter_bytes():
                        copy.write(part)
                if path.stat().st_size != file.size:
                    raise self._failed(file.path, f"{path.stat().st_size:,} bytes came")
                self._whole[file] = path
        return self._from_whole(file, start, end)

    def _from_whole(self, file: FileInfo, start: int, end: int) -> bytes:
        with self._whole[file].open("rb") as copy:
            copy.seek(start)
            return copy.read(end - start)

    def _ask(self, path: str, headers: dict[str, str], *, body: bool | None) -> Any:
        """An answer; its body is not read yet, unless there is none to read."""
        request = self._client.build_request("GET", self.url(path), headers=headers)
        try:
            answer = self._client.send(request, stream=True)
        except self._failures as error:
            raise self._failed(path, error) from error
        if body is False:
            answer.close()
        return answer

    def _check(self, answer: Any, path: str) -> None:
        if answer.status_code in (401, 403):
            raise SystemError_(
                f"permission denied: reading {self.url(path)}",
                code="E0602",
                notes=[f"the server answers {answer.status_code}"],
                help="give user and password, or headers, in 'storage'",
            )
        if answer.status_code not in (200, 206):
            raise self._failed(path, f"the server answers {answer.status_code}")

    def _failed(self, path: str, why: object) -> DataFlareError:
        return SystemError_(
            f"reading {self.url(path)} failed: {why or type(why).__name__}",
            code="E0607",
            retry=Retry.LATER,
            help="check that the server answers",
        )


def _size(answer: Any) -> int | None:
    """The size of the whole file."""
    if answer.status_code == 206:
        total = str(answer.headers.get("Content-Range", "")).rpartition("/")[2]
    else:
        total = str(answer.headers.get("Content-Length", ""))
    return int(total) if total.isdigit() else None


def _etag(answer: Any) -> str | None:
    """A strong ETag; a weak one may stay the same while bytes change."""
    etag = answer.headers.get("ETag")
    return None if etag is None or etag.startswith("W/") else str(etag)


def _mtime_ns(answer: Any) -> int:
    text = answer.headers.get("Last-Modified")
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000 if text else 0
    except ValueError:
        return 0
