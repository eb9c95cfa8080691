"""Requests of several entries: fewer at once where the service takes no more, each entry once, keys in their order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare.model.types import INT64, STRING, Schema
from dataflare.sdk.aws.sending import Entry, NotTaken, RequestWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.in_flight import InFlight
from dataflare.sdk.runtime import Runtime


class Service(RequestWriter):
    """Takes requests of one task, `most` at a time; the others get the answer that it takes no more."""

    entries_max = 5
    busy_help = names = ""

    def __init__(self, most: int, concurrency: int, folder: Path) -> None:
        schema = Schema.of({"key": STRING, "n": INT64})
        context = DestinationContext("out", "0f8fad5b", 1, schema, folder)
        super().__init__(
            None,  # type: ignore[arg-type]
            context,
            "service",
            request_bytes=1 << 20,
            timeout=60,
            concurrency=concurrency,
        )
        self.most, self.lock = most, threading.Lock()
        self.calls = self.under_way = self.greatest = self.put_off = 0
        self.taken: list[tuple[bytes, int]] = []
        self.begun = threading.Barrier(concurrency)

    def entries(self, messages: pl.DataFrame) -> Iterator[Entry]:
        for key, n in messages.iter_rows():
            yield Entry(key.encode(), 1, {"key": key.encode(), "n": n})

    def request(self, values: Sequence[dict[str, Any]]) -> Sequence[NotTaken]:
        with self.lock:
            self.under_way += 1
            self.greatest = max(self.greatest, self.under_way)
            self.calls += 1
            is_of_first_round = self.calls <= self.begun.parties
        if is_of_first_round:
            self.begun.wait(30)  # it is as wide as it may be
        with self.lock:
            if self.under_way > self.most:
                self.put_off += 1
                answer = [NotTaken(at, "Throttling", "", True) for at in range(len(values))]
            else:
                self.taken += [(each["key"], each["n"]) for each in values]
                answer = []
            self.under_way -= 1
        return answer

    def close(self) -> None:
        """It holds nothing."""


@pytest.mark.parametrize("most", [1, 3])
def test_a_service_that_takes_few_requests_at_once_gets_fewer(tmp_path: Path, most: int) -> None:
    in_flight = InFlight()
    keys = [f"k{n % 40}" for n in range(800)]

    async def main() -> Service:
        with Runtime(in_flight=in_flight).entered():
            service = Service(most, 6, tmp_path)
            await service.send(pl.DataFrame({"key": keys, "n": range(800)}))
            return service

    service = asyncio.run(main())
    assert sorted(n for _, n in service.taken) == list(range(800))
    for key in {*keys}:
        of_key = [n for each, n in service.taken if each == key.encode()]
        assert of_key == sorted(of_key)
    assert service.greatest == 6
    assert service.put_off
    (limit,) = in_flight.by_step().values()
    assert (limit.most, limit.under_way) == (6, 0)
