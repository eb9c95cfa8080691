"""A server of FTP (pyftpdlib) whose root is a folder, as a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import fetch
from servers.process import ProcessServer, free_port, listens, thrown_away

VERSION = "2.2.0"
_SERVE = """\
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import ThreadedFTPServer
root, port, plain = sys.argv[1:]
FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_user("me", "right", root, perm="elradfmwMT")
if plain == "yes":
    FTPHandler.proto_cmds = {n: v for n, v in FTPHandler.proto_cmds.items() if n not in ("MLSD", "MLST")}
ThreadedFTPServer(("127.0.0.1", int(port)), FTPHandler).serve_forever()
"""


class FtpServer(ProcessServer):
    """plain: without MLSD, as some servers are."""

    def __init__(self, folder: Path, plain: bool = False) -> None:
        super().__init__(folder)
        self.root, self.port, self._plain = folder / "root", free_port(), plain
        self.root.mkdir()
        self.storage = {"user": "me", "password": "right"}

    @property
    def url(self) -> str:
        return f"ftp://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        plain = "yes" if self._plain else "no"
        return [sys.executable, "-c", _SERVE, str(self.root), str(self.port), plain]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(fetch.pip("pyftpdlib", VERSION))}

    def answers(self) -> bool:
        return listens(self.port)


@contextmanager
def ftp_server(*, plain: bool = False) -> Iterator[FtpServer]:
    with thrown_away(FtpServer, "ftp", plain) as server:
        yield server
