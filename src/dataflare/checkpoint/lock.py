"""One run of a workflow at a time: a lock of the operating system on a file.

Always true:
- the kernel lets go when the process dies, however it dies: what the file says is only for people,
  and only believed while somebody holds the lock;
- the file is never deleted, or two runs could each lock one of the same name.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from dataflare.checkpoint import files
from dataflare.errors import RunError

LOCK_FILE = "lock"
_TRIES, _PAUSE_S = 50, 0.004


class LockHolder(Struct, frozen=True):
    """Who runs. started: RFC 3339, UTC."""

    run_id: str
    pid: int
    host: str
    started: str


class RunLock:
    """The lock of the workflow whose folder this is. A context manager, or `acquire`, `release`."""

    def __init__(self, folder: Path, run_id: str, started: str) -> None:
        self.folder = folder
        self.holder = LockHolder(run_id, os.getpid(), socket.gethostname(), started)
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises RunError (E0801), naming the run that has it."""
        with files.writing("the workflow's lock"):
            files.make_folder(self.folder)
            file = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(file, 0o600)
        try:
            # `holder` below takes the lock for an instant to look: that is worth another try.
            for left in reversed(range(_TRIES)):
                if _try_lock(file):
                    break
                if left == 0:
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
        """Let go. Nothing happens when it is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class LockState(Struct, frozen=True):
    """Whether somebody runs, and who; the holder is unknown for an instant after it began."""

    held: bool
    holder: LockHolder | None = None


def look(folder: Path) -> LockState:
    """Who runs the workflow of this folder now."""
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
    who = ""
    if holder is not None:
        where = f" on {holder.host}" if holder.host != socket.gethostname() else ""
        who = f": run {holder.run_id}, started {holder.started}, process {holder.pid}{where}"
    return RunError(
        f"workflow '{workflow}' is already running{who}",
        code="E0801",
        help="wait for it to end, or stop it",
    )
