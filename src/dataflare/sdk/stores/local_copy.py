"""Files of this machine that stand for stored files, for libraries that read paths: with all bytes, or with some.

Always true: a copy has a name that is never used again, so a query that outlives its copy fails and reads no other
file; copies of processes that were killed are removed by the next process.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path

from dataflare.errors import DataFlareError
from dataflare.formats.any_file import AnyFile
from dataflare.sdk.stores.stored_file import POOL, RemoteFile

_PREFIX = "dataflare-files-"
_LOCK = ".lock"
_YOUNG_S = 60
"""A folder that was made just now may have no lock yet."""
_REQUEST = 16 << 20
_numbers = itertools.count()
_lock = threading.Lock()
_folder: Path | None = None


def spool_folder() -> Path:
    """The folder of this process for copies; it is removed when the process ends."""
    global _folder
    with _lock:
        if (
            _folder is None
            or not _folder.is_dir()
            or f"{_PREFIX}{os.getpid()}-" not in _folder.name
        ):
            _remove_leftovers(Path(tempfile.gettempdir()))
            _folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
            # The lock is held until the process ends.
            fcntl.flock(
                os.open(_folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), fcntl.LOCK_EX
            )
            atexit.register(shutil.rmtree, _folder, ignore_errors=True)
        return _folder


def _remove_leftovers(folder: Path) -> None:
    """Remove the folders of processes that do not run any more: their locks are free."""
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _YOUNG_S:
                continue
            with (path / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)


def new_path(name: str) -> Path:
    """A path for a file of this process that no other file ever has."""
    return spool_folder() / f"{next(_numbers)}-{name[-80:]}"


class LocalCopy:
    """A file with the size of a stored file, in which the ranges that were fetched are filled."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.path = new_path(file.name)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, file.size)

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fill these ranges, with several requests at a time."""
        pieces = [
            (start, min(start + _REQUEST, until))
            for begin, until in ranges
            for start in range(begin, until, _REQUEST)
        ]
        if len(pieces) == 1:
            self._fill(*pieces[0])
            return
        filling = [POOL.submit(self._fill, *piece) for piece in pieces]
        try:
            for done in filling:
                done.result()
        finally:
            # Its number belongs to another file when it is closed, so no request may write any more.
            for each in filling:
                each.cancel()
            wait(filling)

    def put(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def _fill(self, start: int, end: int) -> None:
        self.put(start, self._file.store.read(self._file.info, start, end))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                self.path.unlink()

    def __del__(self) -> None:
        self.close()


@contextmanager
def on_disk(file: AnyFile) -> Iterator[Path]:
    """A path with the whole content of a file. Errors inside name the file, not its copy."""
    if isinstance(file, Path):
        yield file
        return
    assert isinstance(file, RemoteFile)
    copy = LocalCopy(file)
    try:
        copy.fetch([(0, file.size)])
        with named(copy.path, file):
            yield copy.path
    finally:
        copy.close()


@contextmanager
def named(path: Path, file: RemoteFile) -> Iterator[None]:
    """Errors inside name the stored file instead of the path that stands for it."""
    try:
        yield
    except DataFlareError as error:
        error.message = error.message.replace(str(path), str(file))
        error.args = (error.message,)
        raise
