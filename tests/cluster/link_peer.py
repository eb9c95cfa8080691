"""A process with a server of links, for tests. Rows and marks of a channel N come back by the channel N + 1000, messages as
messages. It ends when its standard input does."""

from __future__ import annotations

import asyncio
import json
import sys

from dataflare.cluster.channels import Entry, RemoteChannel
from dataflare.cluster.link import Link, LinkServer
from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.channel import Inbox, MemoryBudget
from dataflare.engine.gate import Cut, Ended, Rows, Time
from dataflare.engine.pool import ThreadPool
from dataflare.model.progress import END, Watermark


async def echo(link: Link, number: int) -> None:
    controller = BackpressureController(initial_credits=1_000, max_credits=1_000)
    inbox = Inbox(f"echo {number}", controller, MemoryBudget(1 << 40, controller))
    Entry(link, number, inbox.channel())
    back = RemoteChannel(link, number + 1000)
    while not inbox.gate.ended:
        match await inbox.next():
            case Rows() as rows:
                await back.send(rows.batch)
                inbox.done(rows, 0.0)
            case Time(event_time_us):
                back.put(Watermark(event_time_us))
            case Cut(barrier):
                back.put(barrier)
            case Ended():
                back.put(END)


async def main(token: bytes) -> None:
    running: set[asyncio.Task[None]] = set()

    def on_link(link: Link) -> None:
        def on_message(message: bytes) -> None:
            if message.startswith(b"echo "):
                running.add(asyncio.ensure_future(echo(link, json.loads(message[5:]))))
            else:
                link.send_message(message)

        link.on_message = on_message

    server = LinkServer(token, "peer", on_link, pool=ThreadPool(2))
    _, port = await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].encode()))
