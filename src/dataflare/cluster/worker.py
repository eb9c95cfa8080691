"""A worker: a process that listens, and runs the tasks of attempts that jobs give it.

It knows nothing of what placed it. As a program it reads its token from the first line of standard input, prints its address
as JSON, and ends with standard input:

    python -m dataflare.cluster.worker HOST NAME [CERT KEY CA]
"""

from __future__ import annotations

import asyncio
import json
import sys

from dataflare.cluster.deployment import Deployment
from dataflare.cluster.link import Link, LinkServer
from dataflare.cluster.orders import Address
from dataflare.cluster.tls import Tls
from dataflare.errors import InternalError
from dataflare.sdk.runtime import Runtime
from dataflare.sdk.threads import in_thread


class WorkerServer:
    """token: that a caller must know. name: of the worker, for messages. runtime: of the run that it belongs to; None where it
    works for any. tls: of its links.

    The other side of a link says in its name what it is for: `job ATTEMPT` or `data ATTEMPT NUMBER`.
    """

    def __init__(
        self, token: bytes, name: str, runtime: Runtime | None = None, tls: Tls | None = None
    ) -> None:
        self._token, self._name, self._runtime, self._tls = token, name, runtime, tls
        self._server: LinkServer | None = None
        self._joined: dict[tuple[str, int], asyncio.Future[Link]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, host: str) -> Address:
        """Listen on a free port of an address of this machine. Raises ConfigError (E0439) where the files of TLS are not right."""
        context = await in_thread(self._tls.server) if self._tls is not None else None
        self._server = LinkServer(self._token, self._name, self._linked, tls=context)
        return await self._server.start(host)

    async def aclose(self) -> None:
        """End all attempts, and listen no more."""
        if self._server is not None:
            await self._server.aclose()
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _linked(self, link: Link) -> None:
        kind, _, rest = link.peer.partition(" ")
        if kind == "job":
            running = asyncio.ensure_future(self._run(link, rest))
            self._running.add(running)
            running.add_done_callback(self._running.discard)
        elif kind == "data":
            attempt, _, number = rest.rpartition(" ")
            joined = self._future(attempt, int(number))
            if joined.done():
                link.fail("it has joined this attempt already")
            else:
                joined.set_result(link)
                link.lost.add_done_callback(
                    lambda lost: self._joined.pop((attempt, int(number)), None)
                )
        else:
            link.fail(f"it does not say what it is for: {link.peer!r}")

    async def _run(self, link: Link, attempt: str) -> None:
        try:
            known = self._token, self._wait_for, self._runtime, self._tls
            await Deployment(link, *known).run()
        except Exception as error:
            link.fail(InternalError(f"the worker failed: {type(error).__name__}: {error}"))
        finally:
            for key in [key for key in self._joined if key[0] == attempt]:
                joined = self._joined.pop(key)
                if joined.done() and not joined.cancelled():
                    joined.result().fail("the attempt is over")

    def _future(self, attempt: str, number: int) -> asyncio.Future[Link]:
        key = attempt, number
        if key not in self._joined:
            self._joined[key] = asyncio.get_running_loop().create_future()
        return self._joined[key]

    async def _wait_for(self, attempt: str, number: int) -> Link:
        return await asyncio.shield(self._future(attempt, number))


async def _serve(host: str, name: str, *files: str) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    token = bytes.fromhex((await reader.readline()).decode().strip())
    server = WorkerServer(token, name, tls=Tls(*files) if files else None)
    address = await server.start(host)
    print(json.dumps(address), flush=True)
    await reader.read()
    await server.aclose()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
