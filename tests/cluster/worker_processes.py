"""Workers that are processes of this machine, without Ray."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Sequence

from dataflare.cluster.tls import Tls
from dataflare.errors import SystemError_

Address = tuple[str, int]


class WorkerProcesses:
    """They are started when they are asked for, and again when they have gone. Each is the same program that Ray starts."""

    host = "127.0.0.1"
    tls: Tls | None = None

    def __init__(self, count: int, room: int = 1000) -> None:
        """room: there may be so many."""
        self.count, self.room = count, room
        self.token = secrets.token_bytes(32)
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * count
        self.addresses: list[Address] = [("", 0)] * count
        self.left: list[subprocess.Popen[bytes]] = []
        self.starts = self.wanted = 0

    async def ready(self) -> Sequence[Address]:
        await asyncio.gather(*(self._start(number) for number in range(self.count)))
        return self.addresses[: self.count]

    async def want(self, count: int) -> None:
        self.wanted = count

    async def hold(self, count: int) -> None:
        if count > self.room:
            raise SystemError_("no room for so many workers", code="E0617", help="ask for fewer")
        more = max(0, count - len(self.processes))
        self.processes += [None] * more
        self.addresses += [("", 0)] * more
        await asyncio.gather(*(self._start(number) for number in range(count)))

    def use(self, count: int) -> None:
        self.count = count

    async def release(self) -> None:
        for process in self.processes[self.count :]:
            if process is not None:
                process.kill()
                self.left.append(process)
        del self.processes[self.count :], self.addresses[self.count :]

    async def _start(self, number: int) -> None:
        if self.processes[number] is not None:
            return
        self.starts += 1
        process = subprocess.Popen(
            self.command(number),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment(number),
        )
        self.processes[number] = process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self.token.hex().encode() + b"\n")
        process.stdin.flush()
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:  # it was killed before it could tell its address
            self.lost(number)
            await self._start(number)
            return
        host, port = json.loads(line)
        self.addresses[number] = (host, port)

    def program(self, address: str, number: int) -> list[str]:
        files = [] if self.tls is None else [self.tls.cert, self.tls.key, self.tls.ca]
        return [sys.executable, "-m", "dataflare.cluster.worker", address, f"w{number}", *files]

    def command(self, number: int) -> list[str]:
        """What starts a worker."""
        return self.program(self.host, number)

    def environment(self, number: int) -> dict[str, str] | None:
        """What it is started with; None: the environment of this process."""
        return None

    def lost(self, number: int) -> None:
        """It is left alone: a machine that was cut off lives on."""
        process, self.processes[number] = self.processes[number], None
        if process is not None:
            self.left.append(process)

    def close(self) -> None:
        for process in [*self.processes, *self.left]:
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
