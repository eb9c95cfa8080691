"""Which keys a system is asked for, and how long its answers are remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel

from dataflare.engine.asked_tables import AskedTable
from dataflare.errors import Retry, SystemError_
from dataflare.model.types import Schema
from dataflare.operators.base import LookupTable
from dataflare.operators.lookup import Cache, Lookup
from dataflare.resilience.policy import RetryPolicy
from dataflare.resilience.retry import Retrying
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.lookup import KeyedLookup, LookupConnector
from dataflare.testing.clock import VirtualClock

SCHEMA = Schema.of({"id": "int64", "name": "string"})


class Squares(LookupConnector, KeyedLookup):
    """Knows the even numbers; notes what it was asked."""

    type = "squares"
    Config = BaseModel

    def __init__(self) -> None:
        super().__init__(None, ConnectorContext("named"))
        self.asked: list[list[int]] = []
        self.failures = 0

    def schema(self, keys: Schema, fields: Sequence[str] | None) -> Schema:
        return SCHEMA

    async def open(self, keys: Sequence[str], schema: Schema) -> KeyedLookup:
        return self

    async def get(self, keys: pl.DataFrame) -> pl.DataFrame:
        if self.failures:
            self.failures -= 1
            raise SystemError_("gone", code="E0607", retry=Retry.LATER)
        self.asked.append(keys["id"].to_list())
        even = keys.filter(pl.col("id") % 2 == 0)
        return even.with_columns(name=(pl.col("id") ** 2).cast(pl.String))


class Asking:
    """A lookup with its clock, asked batch by batch."""

    def __init__(self, cache: Cache | None, batches: Sequence[Sequence[int | None]], **more: Any):
        self.system, self.clock = Squares(), VirtualClock()
        self.system.failures = more.get("failures", 0)
        self.steps_s = more.get("steps_s", 0.0)
        self.found: list[dict[int, str]] = []
        asyncio.run(self._run(cache, batches))

    async def _run(self, cache: Cache | None, batches: Sequence[Sequence[int | None]]) -> None:
        table = LookupTable("named", self.system, SCHEMA, "squares")
        lookup = Lookup("named", table, ("n",), ("id",), (("name", "name"),), "null", "fail", cache)
        policy = RetryPolicy.model_validate({"initial_backoff": "0s"})
        asked = AskedTable(lookup, self.system, Retrying("named", policy), self.clock)
        for batch in batches:
            frame = pl.DataFrame({"n": batch}, schema={"n": pl.Int32})
            rows = (await asyncio.to_thread(asked.answers, frame)).table
            self.found.append(dict(rows.sort("id").iter_rows()))
            self.clock.advance(self.steps_s)


def test_a_batch_asks_for_each_of_its_keys_once_and_never_for_null() -> None:
    asking = Asking(None, [[4, None, 1, 4, 2], [4]])
    assert asking.system.asked == [[4, 1, 2], [4]]
    assert asking.found == [{2: "4", 4: "16"}, {4: "16"}]


def test_a_batch_without_keys_asks_nothing() -> None:
    asking = Asking(None, [[None], []])
    assert asking.system.asked == []
    assert asking.found == [{}, {}]


def test_answers_are_remembered_also_that_there_was_none() -> None:
    asking = Asking(Cache(), [[4, 1], [1, 4, 6], [6, 4]])
    assert asking.system.asked == [[4, 1], [6]]
    assert asking.found == [{4: "16"}, {4: "16", 6: "36"}, {4: "16", 6: "36"}]


def test_answers_grow_old() -> None:
    asking = Asking(Cache(ttl="10s"), [[2], [2, 4], [2], [4], [2]], steps_s=6.0)  # type: ignore[arg-type]
    assert asking.system.asked == [[2], [4], [2], [4], [2]][: len(asking.system.asked)]
    assert asking.system.asked[:3] == [[2], [4], [2]]
    assert asking.found == [{2: "4"}, {2: "4", 4: "16"}, {2: "4"}, {4: "16"}, {2: "4"}]


def test_the_oldest_go_first_when_there_are_too_many() -> None:
    asking = Asking(Cache(size=2), [[2, 4], [6], [4, 6], [2]])
    assert asking.system.asked == [[2, 4], [6], [2]]
    assert asking.found[2] == {4: "16", 6: "36"}
    assert asking.found[3] == {2: "4"}


def test_what_was_used_last_stays() -> None:
    asking = Asking(Cache(size=2), [[2, 1], [2], [6], [2], [1]])
    assert asking.system.asked == [[2, 1], [6], [1]]
    assert asking.found == [{2: "4"}, {2: "4"}, {6: "36"}, {2: "4"}, {}]


def test_use_does_not_make_an_answer_younger() -> None:
    asking = Asking(Cache(ttl="10s"), [[2], [2], [2]], steps_s=6.0)  # type: ignore[arg-type]
    assert asking.system.asked == [[2], [2]]


def test_a_failed_call_is_made_again() -> None:
    asking = Asking(None, [[2]], failures=2)
    assert asking.found == [{2: "4"}]
