"""Hosts that are hosts: network namespaces with addresses of their own, whose links can be cut, delayed, throttled and made lossy.

It needs root, the command `ip`, and /dev/net/tun. The test is in the namespace of the machine. See `network.py`.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from worker_processes import WorkerProcesses

HERE = Path(__file__).parent
_LISTENS, _LOOPBACK = "0A", "0100007F:"
MACHINE = -1
"""The number of the machine's own namespace among hosts."""


def why_not() -> str | None:
    """Why there can be no such hosts here; None: there can."""
    if shutil.which("ip") is None:
        return "needs the command ip"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    name = f"df-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.decode().strip()}"
    _ip("netns", "del", name)
    return None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@functools.cache
def clock_library() -> Path | None:
    """A library that moves the clock of a process; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    made = Path(tempfile.mkdtemp(prefix="dataflare-clock-")) / "shifted_clock.so"
    words = ["-shared", "-fPIC", "-O1", "-o", str(made), str(HERE / "shifted_clock.c"), "-ldl"]
    subprocess.run([compiler, *words], check=True)
    return made


class Hosts:
    """number: of this set of hosts on the machine, 0 to 199. seed: of what the network does by chance."""

    def __init__(self, count: int, number: int, seed: int = 0) -> None:
        self.net, self.count = f"10.211.{number}", count
        self._prefix = f"df{number}"
        self.address = f"{self.net}.1"
        self.names = [f"{self._prefix}-{host}" for host in range(count)]
        self._served: set[int] = set()
        self._remove_names()
        for name in self.names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        words = [sys.executable, str(HERE / "network.py"), self._prefix, self.net, str(count), str(seed)]  # fmt: skip
        self._network = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answered(b"ready\n")

    def address_of(self, host: int) -> str:
        return f"{self.net}.{host + 10}"

    def serve(self, port: int) -> None:
        """A server on this port of the machine's loopback is reached on that of each host."""
        if port not in self._served:
            self._served.add(port)
            self._order(serve=port)

    def way(self, host: int, other: int, **faults: Any) -> None:
        """From now on packets from a host to another one go so, as fields of `network.Way`; without any, they all go at once."""
        self._order(**{"from": host + 1, "to": other + 1, "way": faults})

    def ways(self, host: int, **faults: Any) -> None:
        """All ways from a host and to it."""
        for other in range(MACHINE, self.count):
            if other != host:
                self.way(host, other, **faults)
                self.way(other, host, **faults)

    def cut(self, host: int) -> None:
        """Nothing comes from this host, and nothing goes there. No side is told."""
        self.ways(host, is_cut=True)

    def heal(self, host: int) -> None:
        self.ways(host)

    def cut_one_way(self, host: int, other: int) -> None:
        """What this host sends to the other one is lost; the other direction works."""
        self.way(host, other, is_cut=True)

    def close(self) -> None:
        self._network.communicate(timeout=30)
        self._remove_names()

    def _remove_names(self) -> None:
        for name in self.names:
            if Path(f"/var/run/netns/{name}").exists():
                _ip("netns", "del", name)

    def _order(self, **order: Any) -> None:
        assert self._network.stdin is not None
        self._network.stdin.write(json.dumps(order).encode() + b"\n")
        self._network.stdin.flush()
        self._answered(b"done\n")

    def _answered(self, answer: bytes) -> None:
        assert self._network.stdout is not None
        line = self._network.stdout.readline()
        assert line == answer, (
            f"the network says {line!r}, and has ended with {self._network.poll()}"
        )


class WorkersOnHosts(WorkerProcesses):
    """Each worker on a host of its own; one that was lost is replaced on the next host that is not cut off. clocks: by host,
    by how many seconds its clock is wrong."""

    def __init__(self, count: int, hosts: Hosts, clocks: dict[int, int] | None = None) -> None:
        super().__init__(count)
        self.hosts, self.clocks = hosts, clocks or {}
        self.host = hosts.address
        self.host_of = [*range(count)]
        self.bad: set[int] = set()

    def command(self, number: int) -> list[str]:
        host = self.host_of[number]
        program = self.program(self.hosts.address_of(host), number)
        shift, library = self.clocks.get(host, 0), clock_library()
        if shift and library is not None:
            program = ["env", f"LD_PRELOAD={library}", f"CLOCK_SHIFT_S={shift}", *program]
        return ["ip", "netns", "exec", self.hosts.names[host], *program]

    def lost(self, number: int) -> None:
        super().lost(number)
        taken = set(self.host_of) | self.bad
        free = [host for host in range(self.hosts.count) if host not in taken]
        if free:
            self.host_of[number] = free[0]

    def links_left(self) -> set[str]:
        """Where processes that were left behind still have links to, as /proc shows them: numbers in base 16."""
        found: set[str] = set()
        for process in self.left:
            if process.poll() is None:
                found |= _links(process.pid)
        return found


def _links(pid: int) -> set[str]:
    """The other ends of the connections of a process. Those to servers are on its loopback."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = os.readlink(file)
        except FileNotFoundError:
            continue  # closed meanwhile
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {
        each[2]
        for each in fields
        if each[9] in inodes and each[3] != _LISTENS and not each[2].startswith(_LOOPBACK)
    }
