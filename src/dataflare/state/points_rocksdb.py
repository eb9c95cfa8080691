"""A point store in RocksDB, in a folder of its own that is removed at its end.

RocksDB needs files with names. So the folder of a process that was killed stays until the next store is made beside it: a
folder is locked while its store lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rocksdict import (
    BlockBasedOptions,
    Cache,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from dataflare.state.points import PointStore
from dataflare.state.scratch import make_folder, not_kept

_PREFIX = "dataflare-rocksdb-"
_LOCK = "in-use"
_WRITE_BUFFERS = 2


class RocksPoints(PointStore):
    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        make_folder(folder)
        try:
            self._home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
            self._lock = (self._home / _LOCK).open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise not_kept(folder, error) from error
        try:
            self._db = Rdict(str(self._home / "db"), _options(bytes_max))
            writing = WriteOptions()
            # Nothing reads the store after a crash. A property, which the library's types call a method.
            writing.disable_wal = True  # type: ignore[method-assign, assignment]
            self._db.set_write_options(writing)
        except Exception as error:  # rocksdict has no class of its own for errors
            shutil.rmtree(self._home, ignore_errors=True)
            raise not_kept(folder, error) from error

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        try:
            found = cast("list[bytes | None]", self._db.get(list(keys)))
        except Exception as error:
            raise not_kept(self._folder, error) from error
        return found

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, value in zip(keys, values, strict=True):
            batch.put(key, value)
        try:
            self._db.write(batch)
        except Exception as error:
            raise not_kept(self._folder, error) from error

    @property
    def num_bytes(self) -> int:
        return self._bytes_max

    def close(self) -> None:
        # Nothing reads the store after this, so what its last write to disk says does not matter.
        with contextlib.suppress(Exception):
            self._db.close()
        shutil.rmtree(self._home, ignore_errors=True)
        self._lock.close()


def remove_leftovers(folder: Path) -> None:
    """Remove the stores of processes that were killed."""
    for home in folder.glob(f"{_PREFIX}*"):
        try:
            with (home / _LOCK).open("rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(home, ignore_errors=True)
        except OSError:  # in use, or made by another program
            continue


def _options(bytes_max: int) -> Options:
    """Half of the memory is for blocks that were read, half for rows that wait to be written."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(max(bytes_max // 2, 1 << 20)))
    blocks.set_bloom_filter(10, False)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_size(max(bytes_max // 2 // _WRITE_BUFFERS, 1 << 20))
    options.set_max_write_buffer_number(_WRITE_BUFFERS)
    options.increase_parallelism(2)
    return options
