"""A stream of its own for a test, with what goes into it and what is in it, by the client library alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import redis as client
from broker_moving import BrokerPlace
from servers.redis import RedisServer

_numbers = itertools.count()


class Place(BrokerPlace):
    """A key, and a folder for runs."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.key = f"k{next(_numbers)}"
        self.redis = client.Redis.from_url(server.url, protocol=2)

    def put(self, rows: Iterable[Mapping[str, Any]], key: str | None = None) -> list[str]:
        """Entries with these fields; gives their ids."""
        with self.redis.pipeline(transaction=False) as pipe:
            for row in rows:
                pipe.xadd(key or self.key, dict(row))
            return [each.decode() for each in pipe.execute()]

    def numbers(self, first: int, after: int) -> list[str]:
        return self.put({"n": n, "text": f"row {n}"} for n in range(first, after))

    def entries(self, key: str | None = None) -> list[dict[str, str]]:
        """The fields of the entries of a stream."""
        return [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in self.redis.xrange(key or self.key)
        ]

    def filled(self, workflow: str) -> str:
        return workflow.replace("KEY", self.key).replace("SERVER", self.server.url)

    def close(self) -> None:
        self.redis.close()
