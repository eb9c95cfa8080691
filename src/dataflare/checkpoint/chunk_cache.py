"""Chunks of state on a disk of this machine, so that workers do not fetch again from a bucket what they wrote or read.

The workers of a machine share it, and it outlives them: a worker in the place of one that died finds the chunks there.

Always true:
- a chunk that is not here, or is damaged here, is fetched; what becomes of the cache costs a run only time;
- the files have about `bytes_max` bytes at most, and the one that was used least recently goes first.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path

from dataflare.checkpoint import files
from dataflare.checkpoint.chunk_content import is_content_of
from dataflare.checkpoint.snapshots import StateChunk

BYTES_MAX = 4 << 30
_LOOKS = 16
"""The sizes of the files are read once for each sixteenth of `bytes_max` that is written."""
_UNUSED_S = 86_400.0


class ChunkCache:
    """folder: of the chunks, which only this user may read. lineage: the chunks of others have other names."""

    def __init__(self, folder: Path, lineage: str, bytes_max: int = BYTES_MAX) -> None:
        self._folder, self._lineage8 = folder, lineage.replace("-", "")[:8]
        self._bytes_max = bytes_max
        self._until_look = 0
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def get(self, chunk: StateChunk) -> bytes | None:
        """The content of a chunk, if it is here and whole."""
        path = self._path(chunk)
        data = None
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            os.utime(path)
        if data is not None and not is_content_of(chunk, data):
            data = None
        if data is None:
            self.misses += 1
        else:
            self.hits += 1
        return data

    def put(self, chunk: StateChunk, data: bytes) -> None:
        """Keep a chunk, if the disk has room for it."""
        if chunk.num_bytes > self._bytes_max // 2:
            return
        path = self._path(chunk)
        temporary = path.with_name(
            f"{files.TEMPORARY}{os.getpid()}-{threading.get_ident()}-{path.name}"
        )
        # A full disk, or a folder that is gone: it is fetched when it is needed again.
        with contextlib.suppress(OSError):
            try:
                files.make_folder(self._folder)
                with files.open_private(temporary) as file:
                    file.write(data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            self._look(chunk.num_bytes)

    def _path(self, chunk: StateChunk) -> Path:
        return self._folder / f"{self._lineage8}-{chunk.name}"

    def _look(self, written: int) -> None:
        with self._lock:
            self._until_look -= written
            if self._until_look > 0:
                return
            self._until_look = self._bytes_max // _LOOKS
        found = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):
                facts = entry.stat()
                found.append((facts.st_mtime, facts.st_size, Path(entry.path)))
        # The other workers write as much until they look.
        room = self._bytes_max - self._bytes_max // _LOOKS
        oldest_s = time.time() - _UNUSED_S
        for used_s, num_bytes, path in sorted(found, reverse=True):
            room -= num_bytes
            if room < 0 or used_s < oldest_s:
                path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The one of this user on this machine."""
    return Path(tempfile.gettempdir()) / f"dataflare-chunks-{os.getuid()}"
