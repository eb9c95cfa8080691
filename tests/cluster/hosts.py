"""Hosts that are hosts: network namespaces with addresses of their own, joined by a bridge, whose links can be cut.

It needs root and the command `ip`. The bridge and the test are in the namespace of the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from worker_processes import WorkerProcesses


def why_not() -> str | None:
    """Why there can be no such hosts here; None: there can."""
    if shutil.which("ip") is None:
        return "needs the command ip"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    made = subprocess.run(["ip", "netns", "add", "df-try"], capture_output=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.decode().strip()}"
    _ip("netns", "del", "df-try")
    return None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """number: of this set of hosts on the machine, 0 to 199."""

    def __init__(self, count: int, number: int) -> None:
        self._net, self.count = f"10.211.{number}", count
        self._bridge, self._prefix = f"dfb{number}", f"df{number}"
        self.address = f"{self._net}.1"
        self.names = [f"{self._prefix}-{host}" for host in range(count)]
        self.close()
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for host, name in enumerate(self.names):
            outer, inner = f"{self._prefix}o{host}", f"{self._prefix}i{host}"
            _ip("netns", "add", name)
            _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
            _ip("link", "set", outer, "master", self._bridge, "up")
            _ip("-n", name, "addr", "add", f"{self.address_of(host)}/24", "dev", inner)
            _ip("-n", name, "link", "set", inner, "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def address_of(self, host: int) -> str:
        return f"{self._net}.{host + 10}"

    def cut(self, host: int) -> None:
        """Nothing comes from this host, and nothing goes there. No side is told."""
        _ip("link", "set", f"{self._prefix}o{host}", "down")

    def heal(self, host: int) -> None:
        _ip("link", "set", f"{self._prefix}o{host}", "up")
        subprocess.run(
            ["ip", "-n", self.names[host], "neigh", "flush", "all"],
            capture_output=True,
            check=False,
        )

    def cut_one_way(self, host: int, other: int) -> None:
        """What this host sends to the other one is lost; the other direction works."""
        to = self.address_of(other)
        inner = f"{self._prefix}i{host}"
        _ip("-n", self.names[host], "neigh", "replace", to, "lladdr", "02:00:00:00:00:99", "dev", inner, "nud", "permanent")  # fmt: skip

    def heal_one_way(self, host: int, other: int) -> None:
        inner = f"{self._prefix}i{host}"
        _ip("-n", self.names[host], "neigh", "del", self.address_of(other), "dev", inner)

    def close(self) -> None:
        for name in self.names:
            if Path(f"/var/run/netns/{name}").exists():
                _ip("netns", "del", name)
        if Path(f"/sys/class/net/{self._bridge}").exists():
            _ip("link", "del", self._bridge)


class WorkersOnHosts(WorkerProcesses):
    """Each worker on a host of its own; one that was lost is replaced on the next host that is not cut off."""

    def __init__(self, count: int, hosts: Hosts) -> None:
        super().__init__(count)
        self.hosts = hosts
        self.host = hosts.address
        self.host_of = [*range(count)]
        self.bad: set[int] = set()

    def command(self, number: int) -> list[str]:
        host = self.host_of[number]
        address = self.hosts.address_of(host)
        return ["ip", "netns", "exec", self.hosts.names[host], *self.program(address, number)]

    def lost(self, number: int) -> None:
        super().lost(number)
        taken = set(self.host_of) | self.bad
        free = [host for host in range(self.hosts.count) if host not in taken]
        if free:
            self.host_of[number] = free[0]
