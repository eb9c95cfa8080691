"""A TCP proxy in front of a server, whose network a test makes slow, lossy or silent.

    with FaultProxy("127.0.0.1", server.port, seed=7) as proxy:
        proxy.faults = Faults(delay_s=0.05, cut_after=(1_000, 50_000))
        ...                     # the client connects to proxy.port
        proxy.reset()           # all connections end with an RST

Always true: without a fault each byte passes, in order; the same seed gives the same delays and cuts to connections
that come in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Self

from msgspec import Struct

_PIECE = 65_536
_NO_LINGER = struct.pack("ii", 1, 0)
_START_S = 10.0


class Faults(Struct, frozen=True):
    """What happens to the bytes of a connection, in both directions.

    delay_s, jitter_s: how long a piece of up to 64 KiB waits, and up to how much longer. bytes_per_s: no
    connection is faster. cut_after: a connection breaks after a number of bytes between these two; with
    `reset` by an RST, else by a FIN.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    cut_after: tuple[int, int] | None = None
    reset: bool = False


NO_FAULTS = Faults()


class FaultProxy:
    """faults: may be set at any time; `cut_after` holds for connections that come later. refuses: new
    connections are closed at once. connections: how many have come; broken: how many the proxy broke.

    Its methods may be called from any thread.
    """

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        self._target = host, port
        self._random = random.Random(seed)
        self._pairs: set[_Pair] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.faults = NO_FAULTS
        self.refuses = False
        self.connections = self.broken = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._passing, self._ended = asyncio.Event(), asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def start(self) -> None:
        """Accept connections, from now on."""
        self._thread.start()
        if not self._started.wait(_START_S):
            raise TimeoutError("the proxy did not start")

    def close(self) -> None:
        """Break all connections and accept no more."""
        loop = self._loop
        if loop is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()
        self._listener.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- faults of a moment ------------------------------------------------------------------------

    def cut(self) -> int:
        """End all connections with a FIN. Returns how many there were."""
        return self._each(lambda pair: pair.end(reset=False))

    def reset(self) -> int:
        """End all connections with an RST. Returns how many there were."""
        return self._each(lambda pair: pair.end(reset=True))

    def half_open(self) -> int:
        """End all connections towards the clients alone: the server does not notice that they are gone, as
        after a power failure. Returns how many there were."""
        return self._each(lambda pair: pair.leave())

    def hang(self) -> None:
        """Let no byte pass until `go_on`. Connections stay, and new ones are accepted."""
        self._call(self._passing.clear)

    def go_on(self) -> None:
        """After `hang`: what waited passes."""
        self._call(self._passing.set)

    # -- inside ------------------------------------------------------------------------------------

    def _each(self, act: Callable[[_Pair], None]) -> int:
        def act_on_all() -> int:
            pairs = list(self._pairs)
            for pair in pairs:
                act(pair)
            self.broken += len(pairs)
            return len(pairs)

        return int(self._call(act_on_all))

    def _call(self, function: Callable[[], Any]) -> Any:
        """The result of a function that runs on the proxy's own loop."""
        if self._loop is None:
            raise RuntimeError("the proxy is not started")

        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_START_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._passing.set()
        server = await asyncio.start_server(self._accept, sock=self._listener)
        self._started.set()
        await self._ended.wait()
        server.close()
        for pair in list(self._pairs):
            pair.end(reset=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuses:
            _abort(writer)
            return
        try:
            there = await asyncio.open_connection(*self._target)
        except OSError:
            _abort(writer)
            return
        faults = self.faults
        limit = None if faults.cut_after is None else self._random.randint(*faults.cut_after)
        pair = _Pair(writer, there[1], limit)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pump(pair, reader, there[1]), self._pump(pair, there[0], writer)
            )
        except asyncio.CancelledError:
            # asyncio tells of a connection's task that ends so, with a traceback.
            if not self._ended.is_set():
                raise
        finally:
            self._pairs.discard(pair)

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                await self._passing.wait()
                await self._wait(len(data))
                pair.passed += len(data)
                if pair.limit is not None and pair.passed > pair.limit:
                    self.broken += 1
                    pair.end(reset=self.faults.reset)
                    return
                if pair.is_left:
                    return
                writer.write(data)
                await writer.drain()
        if not pair.is_left:
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()

    async def _wait(self, num_bytes: int) -> None:
        faults = self.faults
        wait_s = faults.delay_s
        if faults.jitter_s:
            wait_s += self._random.uniform(0, faults.jitter_s)
        if faults.bytes_per_s:
            wait_s += num_bytes / faults.bytes_per_s
        if wait_s:
            await asyncio.sleep(wait_s)


class _Pair:
    """A client's connection and its other half. limit: of bytes, after which it breaks."""

    def __init__(
        self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, limit: int | None
    ) -> None:
        self._client, self._server, self.limit = client, server, limit
        self.passed = 0
        self.is_left = False

    def end(self, *, reset: bool) -> None:
        for writer in (self._client, self._server):
            if reset:
                _abort(writer)
            else:
                writer.close()

    def leave(self) -> None:
        """The client is gone. The server's half stays open, and nothing more comes through it."""
        self.is_left = True
        _abort(self._client)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with an RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
