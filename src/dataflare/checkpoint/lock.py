"""Allow one run of a workflow at a time, by a lock of the operating system on a file.

Always true:
- the kernel releases the lock when the process dies, for any reason; the content of the file is shown
  to users and trusted only while the lock is held;
- the file is never deleted, because two runs could then lock two files of the same name.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from dataflare.checkpoint import files
from dataflare.errors import RunError

LOCK_FILE = "lock"
_TRIES, _PAUSE_S = 50, 0.004


class LockHolder(Struct, frozen=True):
    """The run that holds the lock. started: RFC 3339, UTC."""

    run_id: str
    pid: int
    host: str
    started: str


class RunLock:
    """The lock of a workflow, by its folder. Use it as a context manager, or call `acquire` and `release`."""

    def __init__(self, folder: Path, run_id: str, started: str) -> None:
        self.folder = folder
        self.holder = LockHolder(run_id, os.getpid(), _host(), started)
        self._file: int | None = None

    @classmethod
    @contextmanager
    def later(cls, folder: Path, run_id: str, started: str) -> Iterator[RunLock]:
        """A lock that is acquired inside of the `with`, if at all, such as on a thread. It is released at the end."""
        lock = cls(folder, run_id, started)
        try:
            yield lock
        finally:
            lock.release()

    def acquire(self) -> None:
        """Take the lock. Raises RunError (E0801), naming the run that has it."""
        with files.writing("the workflow's lock"):
            files.make_folder(self.folder)
            file = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(file, 0o600)
        try:
            # `lock_state` takes the lock for a moment, to test it. So one failed attempt means nothing.
            for attempts_left in reversed(range(_TRIES)):
                if _try_lock(file):
                    break
                if attempts_left == 0:
                    raise _already_running(self.folder.name, _read(file))
                time.sleep(_PAUSE_S)
            with files.writing("the workflow's lock"):
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(asdict(self.holder)).encode(), 0)
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@lru_cache(maxsize=1)
def _host() -> str:
    return socket.gethostname()


class LockState(Struct, frozen=True):
    """Whether a run holds the lock, and which. The holder is None for a moment after the run began."""

    held: bool
    holder: LockHolder | None = None


def lock_state(folder: Path) -> LockState:
    """Whether a run of this folder's workflow is active now, and which."""
    try:
        file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return LockState(False)
    try:
        if _try_lock(file):
            return LockState(False)
        return LockState(True, _read(file))
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> LockHolder | None:
    try:
        value = json.loads(os.pread(file, 4096, 0))
        return LockHolder(
            str(value["run_id"]), int(value["pid"]), str(value["host"]), str(value["started"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _already_running(workflow: str, holder: LockHolder | None) -> RunError:
    holder_text = ""
    if holder is not None:
        host_text = f" on {holder.host}" if holder.host != socket.gethostname() else ""
        holder_text = (
            f": run {holder.run_id}, started {holder.started}, process {holder.pid}{host_text}"
        )
    return RunError(
        f"workflow '{workflow}' is already running{holder_text}",
        code="E0801",
        help="wait for it to end, or stop it",
    )
