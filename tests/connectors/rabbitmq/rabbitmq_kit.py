"""A queue of its own for a test, with what goes into it and what is in it, by the client library alone."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import aiormq
from aiormq import spec
from broker_moving import BrokerPlace, apart
from servers.rabbitmq import RabbitmqServer

_numbers = itertools.count()


class Place(BrokerPlace):
    """A queue, and a folder for runs. kind: of the queue: quorum, classic, stream."""

    def __init__(self, server: RabbitmqServer, folder: Path, kind: str = "quorum") -> None:
        self.server, self.folder = server, folder
        self.queue = f"q{next(_numbers)}"
        self.make(self.queue, kind)

    def make(self, name: str, kind: str = "quorum") -> None:
        arguments = {"x-queue-type": kind}
        self.call(lambda ch: ch.queue_declare(name, durable=True, arguments=arguments))

    def call(self, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        """What the server answers over a channel."""

        async def asked() -> Any:
            connection = await aiormq.connect(self.server.url)
            try:
                return await ask(await connection.channel())
            finally:
                await connection.close()

        return apart(asked())

    def put(
        self, values: Iterable[tuple[bytes, str | None]], headers: dict[str, Any] | None = None
    ) -> None:
        """values: bodies with their message_ids."""

        async def publish(channel: Any) -> None:
            iterator = iter(values)
            while part := list(itertools.islice(iterator, 500)):
                sent = [
                    channel.basic_publish(
                        value,
                        routing_key=self.queue,
                        properties=spec.Basic.Properties(
                            delivery_mode=2, message_id=id_, headers=headers
                        ),
                    )
                    for value, id_ in part
                ]
                await asyncio.gather(*sent)

        self.call(publish)

    def numbers(self, first: int, after: int) -> None:
        self.put(
            (json.dumps({"n": n, "text": f"row {n}"}).encode(), f"m{n}")
            for n in range(first, after)
        )

    def waiting(self, queue: str | None = None) -> int:
        """How many messages the queue has that no consumer was given."""
        name = queue or self.queue
        return int(self.call(lambda ch: ch.queue_declare(name, passive=True)).message_count)

    def taken(self, queue: str | None = None) -> list[Any]:
        """All messages that the queue has, taken out."""
        name = queue or self.queue

        async def take(channel: Any) -> list[Any]:
            found = []
            while (got := await channel.basic_get(name, no_ack=True)).body is not None:
                if got.delivery_tag is None:
                    break
                found.append(got)
            return found

        return list(self.call(take))

    def filled(self, workflow: str) -> str:
        return workflow.replace("QUEUE", self.queue).replace("SERVER", self.server.url)
