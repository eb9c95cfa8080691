"""The network between hosts: a switch in a process of its own that delays, throttles, loses and repeats packets.

Each host is a network namespace with a TUN device, and the namespace of the machine has one too. Every packet between them
goes through this process, so a packet that it drops is one that TCP has lost. A server that listens on a port of the
machine's loopback is reached under the same address on the loopback of each host: connections to it go through the switch.

It reads orders as lines of JSON, and answers each with a line:

    python network.py PREFIX NET COUNT SEED
    {"serve": PORT}                                   serve a port of the machine's loopback on each host
    {"from": 1, "to": 2, "way": {"delay_s": 0.1}}     node 0 is the machine, node N the Nth host
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import msgspec

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
_AT_ONCE = 64
_QUEUE_S = 0.3
"""What would wait longer for its turn on a throttled way is dropped, as a router with a full buffer does."""
_PIECE = 65536


class Way(msgspec.Struct):
    """How packets go from one node to another one. loss and twice: the share of them that is lost, or that arrives twice.
    bytes_per_s: 0 for no bound. jitter_s: up to so much is added to the delay, so packets overtake each other."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    loss: float = 0.0
    twice: float = 0.0
    is_cut: bool = False
    free_s: float = 0.0


@contextlib.contextmanager
def inside(name: str | None) -> Iterator[None]:
    """This thread is in the network namespace of a host; None: of the machine."""
    if name is None:
        yield
        return
    home, there = (
        os.open("/proc/self/ns/net", os.O_RDONLY),
        os.open(f"/var/run/netns/{name}", os.O_RDONLY),
    )
    try:
        _enter(there)
        yield
    finally:
        _enter(home)
        os.close(home)
        os.close(there)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def device(name: str | None, link: str, address: str) -> int:
    """A new TUN device in a namespace, which goes with this process. Gives its file."""
    with inside(name):
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", link.encode(), _IFF_TUN | _IFF_NO_PI))
        for words in (["addr", "add", f"{address}/24", "dev", link], ["link", "set", link, "up"]):
            subprocess.run(["ip", *words], check=True)
    return file


class Switch:
    """names: of the hosts' namespaces. net: the first three numbers of all addresses; the machine has .1, host N .10 + N."""

    def __init__(self, prefix: str, net: str, count: int, seed: int) -> None:
        self.names: list[str | None] = [None, *(f"{prefix}-{host}" for host in range(count))]
        self.net = net
        numbers = [1, *(host + 10 for host in range(count))]
        self.nodes = {number: node for node, number in enumerate(numbers)}
        self.ways = {(a, b): Way() for a in range(count + 1) for b in range(count + 1)}
        self.chance = random.Random(seed)
        self.relaying: set[asyncio.Task[None] | None] = set()
        self.files = [
            device(name, f"{prefix}t{node}", f"{net}.{number}")
            for node, (name, number) in enumerate(zip(self.names, numbers, strict=True))
        ]
        self.loop = asyncio.get_running_loop()
        for node, file in enumerate(self.files):
            self.loop.add_reader(file, self.readable, node, file)

    def readable(self, node: int, file: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(file, _PIECE)
            except BlockingIOError:
                return
            self.forward(node, packet)

    def forward(self, node: int, packet: bytes) -> None:
        target = self.nodes.get(packet[19]) if packet[0] >> 4 == 4 else None
        if target is None:
            return
        way, now = self.ways[node, target], self.loop.time()
        if way.is_cut or self.chance.random() < way.loss:
            return
        at = now
        if way.bytes_per_s:
            at = max(now, way.free_s)
            if at - now > _QUEUE_S:
                return
            at = way.free_s = at + len(packet) / way.bytes_per_s
        at += way.delay_s + way.jitter_s * self.chance.random()
        for _ in range(2 if self.chance.random() < way.twice else 1):
            if at <= now:
                self.write(target, packet)
            else:
                self.loop.call_at(at, self.write, target, packet)

    def write(self, target: int, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # a device whose queue is full loses it
            os.write(self.files[target], packet)

    async def serve(self, port: int) -> None:
        machine = f"{self.net}.1"
        await self._relay(None, (machine, port), ("127.0.0.1", port))
        for name in self.names[1:]:
            await self._relay(name, ("127.0.0.1", port), (machine, port))

    async def _relay(self, name: str | None, at: tuple[str, int], to: tuple[str, int]) -> None:
        """Listen in a namespace, and connect each caller to an address that is reached from there."""

        async def called(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with inside(name):
                made = socket.socket()
            made.setblocking(False)
            try:
                await self.loop.sock_connect(made, to)
            except OSError:
                made.close()
                target.transport.abort()
                return
            there, back = await asyncio.open_connection(sock=made)
            me = asyncio.current_task()  # asyncio itself may forget it
            self.relaying.add(me)
            try:
                await asyncio.gather(_pump(source, back), _pump(there, target))
            finally:
                self.relaying.discard(me)
                back.close()
                target.close()

        with inside(name):
            listening = socket.create_server(at)
        await asyncio.start_server(called, sock=listening)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while piece := await source.read(_PIECE):
            target.write(piece)
            await target.drain()
        target.write_eof()
    except OSError:
        target.transport.abort()


async def main(prefix: str, net: str, count: str, seed: str) -> None:
    loop = asyncio.get_running_loop()
    switch = Switch(prefix, net, int(count), int(seed))
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print("ready", flush=True)
    while line := await orders.readline():
        order = json.loads(line)
        if "serve" in order:
            await switch.serve(order["serve"])
        else:
            switch.ways[order["from"], order["to"]] = msgspec.convert(order["way"], Way)
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
