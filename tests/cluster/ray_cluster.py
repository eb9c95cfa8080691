"""A Ray cluster of this machine: a head and more nodes, in a folder and on ports of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ray

HOST = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
RAY = Path(sys.executable).with_name("ray")


class RayCluster:
    """head: one with so many processors; more nodes join it with `add`. Every process of it ends with `close`."""

    def __init__(self, cpus: int = 2, *, client: bool = False) -> None:
        # The paths of Ray's sockets must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.port, self.client_port = _free_port(), _free_port() if client else 0
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.cpus = cpus
        self.start_head()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def client_address(self) -> str:
        return f"ray://{HOST}:{self.client_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Of a command for which this is the cluster `auto`."""
        return {**_environment(), "RAY_ADDRESS": self.address}

    def start_head(self) -> None:
        client = ["--ray-client-server-port", str(self.client_port)] if self.client_port else []
        self._start("--head", "--port", str(self.port), *client, cpus=self.cpus)

    def add(self, cpus: int = 1) -> None:
        """One more node."""
        self._start("--address", self.address, cpus=cpus)

    def _start(self, *options: str, cpus: int) -> None:
        command = [
            *(str(RAY), "start", "--block", "--num-cpus", str(cpus)),
            *("--disable-usage-stats", "--object-store-memory", "80000000"),
            *options,
        ]
        if "--head" in options:
            command += ["--include-dashboard", "false", "--temp-dir", str(self.folder)]
        log = (self.folder / f"start-{len(self._nodes)}.log").open("wb")
        node = subprocess.Popen(
            command, stdout=log, stderr=log, env=_environment(), start_new_session=True
        )
        self._nodes.append(node)
        until(lambda: self._has_nodes(node), 60, f"no node: see {log.name}")

    def _has_nodes(self, node: subprocess.Popen[bytes]) -> bool:
        log = self.folder / f"start-{len(self._nodes) - 1}.log"
        assert node.poll() is None, log.read_text()
        return "Ray runtime started" in log.read_text()

    def pids(self, part: str) -> list[int]:
        """The processes of the cluster whose command line has this part."""
        return [pid for pid in _of_sessions(self._nodes) if part in _command(pid)]

    def kill(self, part: str) -> None:
        """SIGKILL them."""
        for pid in self.pids(part):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill every process of every node, those too whose parents have gone."""
        until(lambda: not self._kill_all(), 20, "processes of Ray are left")
        for node in self._nodes:
            node.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill_all(self) -> list[int]:
        left = _of_sessions(self._nodes)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for node in self._nodes:
            node.poll()
        return left


@contextlib.contextmanager
def ray_cluster(cpus: int = 2, *, client: bool = False) -> Iterator[RayCluster]:
    made = RayCluster(cpus, client=client)
    try:
        yield made
    finally:
        made.close()


def until(condition: object, seconds: float, otherwise: str) -> None:
    """Wait for a condition."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)


def _environment() -> dict[str, str]:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    return {**environment, "RAY_AUTH_MODE": "disabled"}


def _of_sessions(nodes: list[subprocess.Popen[bytes]]) -> list[int]:
    """The living processes that these began, or that those began: they are of the same sessions, or name them."""
    sessions = {node.pid for node in nodes}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        state, _, _, session = stat.rpartition(")")[2].split()[:4]
        if int(session) in sessions and state != "Z":
            found.append(int(entry.name))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])
