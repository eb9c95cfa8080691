"""A real MariaDB server for tests: thrown away afterwards, killed and started again on demand.

Always true: it listens on a private loopback port and a socket in its own folder; each commit is on disk before
it is answered, so what it says is committed is there after `kill` and `start`; it ends with the process that
started it.

Tests get one from `servers.services.running`. Where it comes from, and what happens without one:
`servers.choice`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from servers.certificates import make_certificate
from servers.choice import choose
from servers.compose import Service

_START_S = 60.0
PASSWORD = "s3cret-Pass/w0rd@"
_UNPRIVILEGED = "mysql"
_SETTINGS = [
    "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=1", "--skip-name-resolve",
    "--character-set-server=latin1", "--max-connections=80", "--log-bin=log", "--binlog-format=ROW", "--server-id=7",
]  # fmt: skip
"""latin1, as Debian's default once was: what DataFlare makes does not depend on it."""


def find_binaries() -> Path | None:
    """The folder that holds mariadbd."""
    for name in ("mariadbd", "/usr/sbin/mariadbd", "/usr/libexec/mariadbd"):
        found = shutil.which(name)
        if found and shutil.which("mariadb-install-db"):
            return Path(found).resolve().parent
    return None


class MariaDbServer(ABC):
    """One server. `dsn()` says how to reach it. folder: on this machine, for what belongs to it."""

    user = "tester"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def dsn(
        self,
        database: str = "test",
        *,
        user: str | None = None,
        password: str = PASSWORD,
        host: str = "127.0.0.1",
        port: int | None = None,
        **options: str,
    ) -> str:
        """A connection string. options: after the question mark."""
        tail = "&".join(f"{name}={value}" for name, value in options.items())
        where = f"mysql://{user or self.user}:{quote(password, safe='')}@{host}:{port or self.port}/{database}"
        return f"{where}?{tail}" if tail else where

    def client(self, database: str | None = None, **options: Any) -> Any:
        """A plain client's connection, in autocommit."""
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user=self.user, password=PASSWORD.encode(),
            database=database, charset="utf8mb4", autocommit=True, **options,
        )  # fmt: skip

    @abstractmethod
    def start(self) -> None:
        """Start, also after `kill`, and wait until it answers."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL, as when the machine dies."""

    @abstractmethod
    def stop(self) -> None:
        """The end."""

    @abstractmethod
    def pause(self) -> None:
        """The server hangs: it is there, and answers nothing."""

    @abstractmethod
    def go_on(self) -> None:
        """After `pause`."""

    def restart(self) -> None:
        """As after a crash: kill, start, recover."""
        self.kill()
        self.start()

    def wait(self) -> None:
        """Until it takes connections."""
        import pymysql

        end = time.monotonic() + _START_S
        while True:
            try:
                self.client(connect_timeout=5).close()
                return
            except pymysql.MySQLError:
                if time.monotonic() > end or self.has_ended():
                    raise
                time.sleep(0.05)

    def has_ended(self) -> bool:
        return False


class LocalMariaDb(MariaDbServer):
    """A process of this machine. settings: more arguments of the server."""

    def __init__(self, binaries: Path, folder: Path, settings: Sequence[str]) -> None:
        super().__init__(folder)
        self._binaries, self._settings = binaries, settings
        self.data = folder / "data"
        self.certificate, self._key = folder / "server.crt", folder / "server.key"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"
        self._created = False

    def create(self) -> None:
        make_certificate(self.certificate, self._key, "DNS:localhost,IP:127.0.0.1")
        if os.geteuid() == 0:
            for path in (self.folder, self.certificate, self._key):
                shutil.chown(path, _UNPRIVILEGED)
        # What Debian's package would have made the server run at its start.
        begin = self.folder / "begin.sql"
        begin.write_text(
            f"create user if not exists '{self.user}'@'127.0.0.1' identified by '{PASSWORD}';\n"
            f"grant all on *.* to '{self.user}'@'127.0.0.1' with grant option;\n"
            "create database if not exists test;\n"
        )
        begin.chmod(0o644)
        self._run(
            "mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--skip-test-db",
            "--auth-root-authentication-method=normal", "--skip-log-bin",
        )  # fmt: skip

    def start(self) -> None:
        assert self._process is None
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user(), str(self._binaries / "mariadbd"), "--no-defaults",
                 f"--datadir={self.data}", f"--port={self.port}", "--bind-address=127.0.0.1",
                 f"--socket={self.folder / 's'}", f"--pid-file={self.folder / 'pid'}",
                 f"--ssl-cert={self.certificate}", f"--ssl-key={self._key}",
                 f"--init-file={self.folder / 'begin.sql'}", *_SETTINGS, *self._settings],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.wait()

    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        self.kill()

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def _as_user(self) -> list[str]:
        """MariaDB refuses to run as root."""
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={_UNPRIVILEGED}", f"--regid={_UNPRIVILEGED}", "--init-groups"]

    def _run(self, *command: str) -> None:
        done = subprocess.run([*self._as_user(), *command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")


class ContainerMariaDb(MariaDbServer):
    """The service `mariadb` of `compose.yaml`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        variables = {"MARIADB_PORT": str(self.port), "MARIADB_PASSWORD": PASSWORD}
        self._service = Service("mariadb", folder, variables, {})

    def start(self) -> None:
        self._service.up()
        self.wait()

    def kill(self) -> None:
        self._service.kill()

    def stop(self) -> None:
        self._service.down()

    def pause(self) -> None:
        self._service.pause()

    def go_on(self) -> None:
        self._service.go_on()


@contextlib.contextmanager
def server(*settings: str) -> Iterator[MariaDbServer]:
    """A running server in a new folder, removed afterwards. settings: more arguments of the server. Raises
    pytest's own outcomes."""
    binaries = choose("MariaDB", find_binaries, "mariadb-server")
    folder = Path(tempfile.mkdtemp(prefix="dataflare-mariadb-"))
    folder.chmod(0o755)
    made: MariaDbServer
    if binaries is None:
        made = ContainerMariaDb(folder)
    else:
        made = LocalMariaDb(binaries, folder, settings)
    atexit.register(made.stop)
    try:
        if isinstance(made, LocalMariaDb):
            made.create()
        made.start()
        yield made
    finally:
        made.stop()
        atexit.unregister(made.stop)
        shutil.rmtree(folder, ignore_errors=True)
