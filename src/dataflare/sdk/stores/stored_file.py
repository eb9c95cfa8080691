"""One version of a file in a store, as the readers of formats read it: in order, with ranges fetched ahead.

Always true: at most `_AHEAD` + 2 blocks of a file that is read in order are in memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from dataflare.formats.any_file import FileBytes, StoredFile
from dataflare.sdk.stores.store import FileInfo, Store

_BLOCK = 8 << 20
_AHEAD = 2
_EDGE = 64 << 10
"""The beginning or the end of a file is read several times before its rows are read: it is fetched once."""
_SMALL = 256 << 10
_REQUESTS = 16
_FILES_AHEAD = 32

POOL = ThreadPoolExecutor(max_workers=_REQUESTS, thread_name_prefix="dataflare-fetch")
"""Makes requests of all stores of the process."""

T = TypeVar("T")


class RemoteFile(StoredFile):
    """A file of a store."""

    def __init__(self, store: Store, info: FileInfo) -> None:
        self.store, self.info = store, info
        self.name = info.path.rpartition("/")[2]
        self.size, self.etag = info.size, info.etag
        self._head = b""
        self._tail = b""
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return self.store.url(self.info.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteFile) and (self.url, self.info) == (other.url, other.info)

    def __hash__(self) -> int:
        return hash((self.url, self.info))

    @property
    def url(self) -> str:
        return self.store.url(self.info.path)

    def now(self) -> RemoteFile | None:
        """The file as it is now: this object if it is the same version, None if it is gone."""
        info = self.store.look(self.info.path)
        if info is None:
            return None
        return self if info.is_version(self.info) else RemoteFile(self.store, info)

    def head(self, size: int) -> bytes:
        """The first bytes. They are kept until `forget`."""
        with self._lock:
            if len(self._head) < min(size, self.size):
                self._head = self.store.read(self.info, 0, max(size, _EDGE))
            return self._head[:size]

    def tail(self, size: int) -> bytes:
        """The last bytes. They are kept until `forget`."""
        with self._lock:
            if len(self._tail) < min(size, self.size):
                start = max(0, self.size - max(size, _EDGE))
                self._tail = self.store.read(self.info, start, self.size)
            return self._tail[-size:]

    def forget(self) -> None:
        self._head = self._tail = b""

    def read(self, start: int, end: int) -> bytes:
        head = self._head
        if end <= len(head):
            return head[start:end]
        return self.store.read(self.info, start, end)

    def open_bytes(self) -> FileBytes:
        return _Blocks(self)


class _Blocks:
    """A file that is mostly read in order: the next blocks are fetched while one is read."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._blocks: dict[int, Future[bytes]] = {}

    def read_at(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self._file.size)
        if offset >= end:
            return b""
        if end <= _EDGE:
            return self._file.head(end)[offset:]
        first, last = offset // _BLOCK, (end - 1) // _BLOCK
        if end - offset <= _SMALL and not all(
            each in self._blocks for each in range(first, last + 1)
        ):
            return self._file.read(offset, end)
        self._want(first, last)
        parts = [self._blocks[each].result() for each in range(first, last + 1)]
        start = offset - first * _BLOCK
        if len(parts) == 1:
            return parts[0][start : start + end - offset]
        return b"".join(parts)[start : start + end - offset]

    def _want(self, first: int, last: int) -> None:
        """Ask for these blocks, and for those after them if the file is read in order; forget earlier ones."""
        in_order = first in self._blocks or first - 1 in self._blocks or not first
        count = -(-self._file.size // _BLOCK)
        until = min(last + _AHEAD, count - 1) if in_order else last
        for number in [each for each in self._blocks if each < first or each > until]:
            self._blocks.pop(number).cancel()
        for number in range(first, until + 1):
            if number not in self._blocks:
                start = number * _BLOCK
                self._blocks[number] = POOL.submit(self._file.read, start, start + _BLOCK)

    def close(self) -> None:
        for block in self._blocks.values():
            block.cancel()
        self._blocks = {}


def fetched(items: Iterable[T], file_of: Callable[[T], Any], *, tails: bool = False) -> Iterator[T]:
    """The items in their order, each when the beginning (or the end) of its file is fetched. Those of the next
    files are fetched meanwhile; they are forgotten when the next item is asked for."""
    waiting: deque[tuple[T, Future[bytes] | None]] = deque()
    rest = iter(items)
    while True:
        while len(waiting) < _FILES_AHEAD and (item := next(rest, None)) is not None:
            file = file_of(item)
            is_remote = isinstance(file, RemoteFile)
            fetch = (file.tail if tails else file.head) if is_remote else None
            waiting.append((item, POOL.submit(fetch, _EDGE) if fetch is not None else None))
        if not waiting:
            return
        item, request = waiting.popleft()
        if request is not None:
            request.result()
        yield item
        if request is not None:
            file_of(item).forget()
