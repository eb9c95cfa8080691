"""A real PostgreSQL server for tests: thrown away afterwards, killed and started again on demand.

Always true: it listens on a private loopback port and a socket in its own folder; fsync is on, so what
it says is committed is there after `kill` and `start`; it ends with the process that started it.

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
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.certificates import make_certificate
from servers.choice import choose
from servers.compose import Service

_START_S = 60.0
PASSWORD = "s3cret-Pass/w0rd"
_UNPRIVILEGED = "postgres"
_SMALL = "512k"


def find_binaries() -> Path | None:
    """The folder that holds initdb and postgres, of the newest version there is."""
    found = shutil.which("postgres")
    if found and shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql")
    folders = versions.glob("*/bin/postgres") if versions.is_dir() else ()
    newest = max(folders, key=lambda path: float(path.parts[-3]), default=None)
    return newest.parent if newest else None


class PostgresServer(ABC):
    """One server. `dsn()` says how to reach it. folder: on this machine, for what belongs to it. wal_level: what it writes
    to its log."""

    user = "tester"

    def __init__(self, folder: Path, wal_level: str) -> None:
        self.folder, self.wal_level = folder, wal_level
        self.port = _free_port()

    def dsn(self, database: str = "postgres", *, user: str | None = None, **more: str) -> str:
        """A URI over TCP. more: libpq parameters."""
        user = user or self.user
        extra = "&".join(f"{name}={value}" for name, value in more.items())
        password = PASSWORD.replace("/", "%2F")
        where = f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"
        return f"{where}?{extra}" if extra else where

    @abstractmethod
    def create(self, *settings: str) -> None:
        """A new cluster. settings: lines of postgresql.conf."""

    @abstractmethod
    def start(self) -> None:
        """Start, also after `kill`, and wait until it answers."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL to the server and all of its children, as when the machine dies."""

    @abstractmethod
    def stop(self) -> None:
        """The end: a fast, clean shutdown."""

    @abstractmethod
    def pause(self) -> None:
        """The server hangs: it is there, and answers nothing."""

    @abstractmethod
    def go_on(self) -> None:
        """After `pause`."""

    @abstractmethod
    def put(self, file: Path) -> None:
        """A copy of a file into the cluster's folder, for the server alone to read."""

    @abstractmethod
    def small_disk(self) -> contextlib.AbstractContextManager[str]:
        """A folder for a tablespace of 512 kB, where that can be made; else the test is skipped."""

    def restart(self) -> None:
        """As after a crash: kill, start, recover."""
        self.kill()
        self.start()

    def secure(self) -> Path:
        """Speak TLS too, from the next start with `ssl = on` on; returns the certificate."""
        certificate, key = self.folder / "server.crt", self.folder / "server.key"
        make_certificate(certificate, key, "DNS:localhost,IP:127.0.0.1")
        self.put(certificate)
        self.put(key)
        return certificate


class LocalPostgres(PostgresServer):
    """A process of this machine."""

    def __init__(self, binaries: Path, folder: Path, wal_level: str) -> None:
        super().__init__(folder, wal_level)
        self.binaries = binaries
        self.data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"

    def create(self, *settings: str) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, _UNPRIVILEGED)
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            str(self.binaries / "initdb"), "-D", str(self.data), "-U", self.user, "-E", "UTF8",
            "--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync",
        )  # fmt: skip
        secret.unlink()
        with open(self.data / "postgresql.conf", "a") as file:
            file.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\n"
                f"unix_socket_directories = '{self.folder}'\nfsync = on\n"
                "shared_buffers = 64MB\nmax_connections = 50\nlc_messages = 'C'\n"
                f"wal_level = {self.wal_level}\n"
            )
            file.writelines(f"{line}\n" for line in settings)

    def start(self) -> None:
        assert self._process is None
        log = open(self._log, "ab")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*self._as_user(), str(self.binaries / "postgres"), "-D", str(self.data)],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        log.close()
        self.wait()

    def wait(self) -> None:
        """Until it takes connections."""
        end = time.monotonic() + _START_S
        command = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(command, check=False).returncode:
            if time.monotonic() > end or (self._process and self._process.poll() is not None):
                raise RuntimeError(f"PostgreSQL does not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._wait_for_children()
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _wait_for_children(self) -> None:
        """Backends are in sessions of their own: they end by themselves when the first process is
        gone, and only then the next server may start."""
        pids = _children_of(self.data)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + _START_S
        while _children_of(self.data) and time.monotonic() < end:
            time.sleep(0.01)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                self._process = process
                self.kill()

    def pause(self) -> None:
        for pid in [*_children_of(self.data), *([self._process.pid] if self._process else [])]:
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in [*_children_of(self.data), *([self._process.pid] if self._process else [])]:
            os.kill(pid, signal.SIGCONT)

    def put(self, file: Path) -> None:
        made = self.data / file.name
        shutil.copy(file, made)
        self._give(made)
        made.chmod(0o600)

    @contextlib.contextmanager
    def small_disk(self) -> Iterator[str]:
        place = self.folder / "small"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SMALL},mode=777", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            place.rmdir()
            pytest.skip("only root may make a small disk")
        try:
            (place / "space").mkdir()
            self._give(place / "space")
            yield str(place / "space")
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
            place.rmdir()

    def _give(self, path: Path) -> None:
        owner = self.data.stat()
        os.chown(path, owner.st_uid, owner.st_gid)

    def _as_user(self) -> list[str]:
        """PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={_UNPRIVILEGED}", f"--regid={_UNPRIVILEGED}", "--init-groups"]

    def _run(self, *command: str) -> None:
        done = subprocess.run([*self._as_user(), *command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")


class ContainerPostgres(PostgresServer):
    """The service `postgres` of `compose.yaml`."""

    def __init__(self, folder: Path, wal_level: str) -> None:
        super().__init__(folder, wal_level)
        variables = {
            "POSTGRES_PORT": str(self.port),
            "POSTGRES_PASSWORD": PASSWORD,
            "POSTGRES_WAL_LEVEL": wal_level,
        }
        more = {"tmpfs": [f"/small:size={_SMALL},mode=1777"]}
        self._service = Service("postgres", folder, variables, more)

    def create(self, *settings: str) -> None:
        if settings:
            self.start()
            lines = "".join(f"{line}\n" for line in settings)
            self._service.run('cat >> "$PGDATA/postgresql.auto.conf"', lines.encode())
            self.kill()

    def start(self) -> None:
        self._service.up()

    def kill(self) -> None:
        self._service.kill()

    def stop(self) -> None:
        self._service.down()

    def pause(self) -> None:
        self._service.pause()

    def go_on(self) -> None:
        self._service.go_on()

    def put(self, file: Path) -> None:
        made = f'"$PGDATA/{file.name}"'
        self._service.run(
            f"cat > {made}; chown postgres: {made}; chmod 600 {made}", file.read_bytes()
        )

    @contextlib.contextmanager
    def small_disk(self) -> Iterator[str]:
        self._service.run("mkdir -p /small/space; chown postgres: /small/space")
        yield "/small/space"
        self._service.run("rm -r /small/space")


def _children_of(data: Path) -> list[int]:
    """Processes that use the cluster's folder, except the one that we started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(data) and int(entry.name) != os.getpid():
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(*settings: str, wal_level: str = "logical") -> Iterator[PostgresServer]:
    """A running server in a new folder, removed afterwards. Raises pytest's own outcomes."""
    binaries = choose("PostgreSQL", find_binaries, "postgresql")
    folder = Path(tempfile.mkdtemp(prefix="dataflare-postgres-"))
    made: PostgresServer
    if binaries is None:
        made = ContainerPostgres(folder, wal_level)
    else:
        made = LocalPostgres(binaries, folder, wal_level)
    atexit.register(made.stop)
    try:
        made.create(*settings)
        made.start()
        yield made
    finally:
        made.stop()
        atexit.unregister(made.stop)
        shutil.rmtree(folder, ignore_errors=True)
