"""A stream of its own for a test, with what goes into it and what is in it, by the client library alone."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import nats
from broker_moving import BrokerPlace, apart
from servers.nats import NatsServer

_numbers = itertools.count()


class Place(BrokerPlace):
    """A stream that has the subjects `NAME.>`, and a folder for runs."""

    def __init__(self, server: NatsServer, folder: Path, **config: Any) -> None:
        self.server, self.folder = server, folder
        self.stream = f"S{next(_numbers)}"
        self.make(self.stream, **config)

    def make(self, name: str, **config: Any) -> None:
        self.call(lambda js: js.add_stream(name=name, subjects=[f"{name}.>"], **config))

    def call(self, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        """What JetStream answers."""

        async def asked() -> Any:
            connection = await nats.connect(self.server.url)
            try:
                return await ask(connection.jetstream())
            finally:
                await connection.close()

        return apart(asked())

    def put(self, values: Iterable[bytes], subject: str = "a", **headers: str) -> None:
        async def publish(js: Any) -> None:
            for part in _parts(values):
                sent = [
                    await js.publish_async(
                        f"{self.stream}.{subject}", value, headers=headers or None
                    )
                    for value in part
                ]
                await asyncio.gather(*sent)

        self.call(publish)

    def numbers(self, first: int, after: int, subject: str = "a") -> None:
        self.put(
            (json.dumps({"n": n, "text": f"row {n}"}).encode() for n in range(first, after)),
            subject,
        )

    def messages(self, stream: str | None = None) -> list[Any]:
        """All that a stream has."""

        async def read(js: Any) -> list[Any]:
            name = stream or self.stream
            found, info = [], await js.stream_info(name)
            sub = await js.subscribe(f"{name}.>", stream=name, ordered_consumer=True)
            while len(found) < info.state.messages:
                found.append(await sub.next_msg(timeout=10))
            return found

        return list(self.call(read))

    def rows(self, stream: str | None = None) -> list[Any]:
        return [json.loads(each.data) for each in self.messages(stream)]

    def unacknowledged(self, durable: str) -> int:
        info = self.call(lambda js: js.consumer_info(self.stream, durable))
        return int(info.num_ack_pending + info.num_pending)

    def filled(self, workflow: str) -> str:
        return workflow.replace("STREAM", self.stream).replace("SERVER", self.server.url)


def _parts(values: Iterable[bytes]) -> Iterable[list[bytes]]:
    iterator = iter(values)
    while part := list(itertools.islice(iterator, 500)):
        yield part
