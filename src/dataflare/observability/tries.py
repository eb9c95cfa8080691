"""One try to tell of an alert: how long it may take, and a program that is started for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from msgspec import Struct, field

_SAID_MAX = 4096
_PIPES_S = 0.5


class Overdue(Exception):
    """The time of a try is over, or its answer is not waited for any more."""


class Try(Struct):
    """Ends when `timeout_s` is over, or when another thread calls `give_up`."""

    timeout_s: float
    _over: threading.Event = field(default_factory=threading.Event)

    def give_up(self) -> None:
        self._over.set()

    @contextlib.contextmanager
    def limited(self, cut: Callable[[], object]) -> Iterator[None]:
        """Call `cut` when the try is over, from another thread: it makes what is waited for end. Raises Overdue in place of
        the errors that follow."""
        done = was_cut = False
        lock = threading.Lock()

        def watch() -> None:
            nonlocal was_cut
            self._over.wait(self.timeout_s)
            with lock:
                if not done:
                    was_cut = True
                    with contextlib.suppress(OSError):
                        cut()

        watching = threading.Thread(target=watch, name="dataflare-try", daemon=True)
        watching.start()
        try:
            yield
        except Exception as error:
            if was_cut:
                raise Overdue from error
            raise
        else:
            if was_cut:  # what came to its end since is not whole
                raise Overdue
        finally:
            with lock:
                done = True
            self._over.set()
            watching.join()


class Ended(Struct):
    """A program that has ended. said: the beginning of what it wrote."""

    status: int
    said: str


def run_program(
    words: Sequence[str], told: bytes, env: Mapping[str, str], base: Path, limit: Try
) -> Ended:
    """Start a program and wait for its end; what it has started ends with it. Raises Overdue, and OSError where it cannot
    be started."""
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=base, env=env, start_new_session=True,
    ) as program:  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        heard: list[list[bytes]] = [[], []]
        readers = [
            threading.Thread(target=_hear, args=(pipe, into), daemon=True)
            for pipe, into in zip((program.stdout, program.stderr), heard, strict=True)
        ]
        for reader in readers:
            reader.start()
        try:
            with limit.limited(partial(_end_group, program.pid)):
                with contextlib.suppress(OSError):
                    program.stdin.write(told)
                    program.stdin.close()
                # Not `wait`: until the status is taken, its number stands for this group and no other.
                os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
        finally:
            _end_group(program.pid)
            program.wait()
            for reader in readers:
                reader.join(_PIPES_S)
        said = b"".join(heard[1]) or b"".join(heard[0])
        return Ended(program.returncode, said.decode(errors="replace"))


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _hear(pipe: IO[bytes], into: list[bytes]) -> None:
    """Read to the end, so that the program never waits; keep the beginning."""
    size = 0
    with contextlib.suppress(OSError, ValueError):
        while piece := os.read(pipe.fileno(), 1 << 16):
            if size < _SAID_MAX:
                into.append(piece[: _SAID_MAX - size])
                size += len(piece)
