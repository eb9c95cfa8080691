"""A run's door for other programs on its machine: a Unix socket in its workflow's folder.

A caller sends one line of JSON, `{"ask": "view"}`, and gets lines of JSON until the answer or the run has ended. The last
line of an answer that failed is `{"error": …}`. Who may open the socket may ask.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from dataflare.errors import Blame, DataFlareError, RunError, SystemError_

DOOR = "door"
_PATH_MAX = 100
_LINE_MAX = 64 << 10

_UNKNOWN = SystemError_(
    "the run does not know this question", code="E0607", help="ask with its own version"
)

Answer = Callable[[Mapping[str, Any]], Generator[Mapping[str, Any]]]
"""Answers one kind of question, line by line. Called on a thread of its own."""


class NotRunning(Exception):
    """No run of the workflow has its door open."""


@contextlib.contextmanager
def open_door(folder: Path, answers: Mapping[str, Answer]) -> Iterator[None]:
    """Answer until the end of the `with`. folder: of the workflow; its lock is held. Raises OSError where there can be no
    socket, such as on a file system that has none."""
    with _short(folder) as place:
        path = f"{place}/{DOOR}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a run that was killed
        server = _Server(path, _Handler)
    server.answers = answers
    try:
        os.chmod(folder / DOOR, 0o600)
    except OSError:
        server.server_close()
        raise
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / DOOR)


def ask(
    folder: Path, what: str, *, patience_s: float = 15.0, **more: Any
) -> Iterator[dict[str, Any]]:
    """The lines of an answer. patience_s: how long to wait for each. Raises NotRunning, RunError with what the run says of a
    question that it cannot answer, and TimeoutError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience_s)
        with _short(folder) as place:
            try:
                connection.connect(f"{place}/{DOOR}")
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise NotRunning from error
            except BlockingIOError as error:  # too many wait at the door
                raise TimeoutError("the run does not open its door") from error
        connection.sendall(json.dumps({"ask": what, **more}).encode() + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # the run was killed while it answered
                answer = json.loads(line)
                if "error" in answer:
                    facts = answer["error"]
                    raise RunError(**{**facts, "blame": Blame(facts["blame"])})
                yield answer


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path of the folder that fits into the address of a socket."""
    if len(os.fsencode(folder)) < _PATH_MAX - len(DOOR):
        yield str(folder)
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    answers: Mapping[str, Answer]


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    timeout = 10

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the caller has gone
            try:
                try:
                    asked = json.loads(self.rfile.readline(_LINE_MAX))
                    answer = self.server.answers[asked["ask"]]
                except (ValueError, KeyError, TypeError, RecursionError):
                    self._refuse(_UNKNOWN)
                    return
                with contextlib.closing(answer(asked)) as lines:
                    for line in lines:
                        self._write(line)
            except DataFlareError as error:
                self._refuse(error)
            except TimeoutError:
                help = "see what its process does"
                self._refuse(SystemError_("the run does not answer", code="E0607", help=help))
            except (ValueError, KeyError, TypeError, RecursionError):
                self._refuse(_UNKNOWN)
            except RuntimeError:
                help = "see dataflare runs"
                self._refuse(SystemError_("the run has ended", code="E0607", help=help))
            except OSError:
                raise
            except Exception as error:  # only the caller can be told
                message = f"the run cannot answer this question: {type(error).__name__}"
                self._refuse(SystemError_(message, code="E0607", help="see dataflare logs"))

    def _refuse(self, error: DataFlareError) -> None:
        facts = {"message": error.message, "code": error.code, "help": error.help}
        self._write({"error": {**facts, "blame": error.blame.value}})

    def _write(self, line: Mapping[str, Any]) -> None:
        self.wfile.write(json.dumps(line).encode() + b"\n")
