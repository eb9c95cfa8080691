"""Many requests to one Redis at once: fewer while it hangs, and a run shows how many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from servers.redis import RedisServer

from dataflare.connectors.redis.lookup import RedisLookup, RedisLookupConfig
from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.jobs.watching import Watch
from dataflare.model.types import INT64, STRING, Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.in_flight import InFlight
from dataflare.sdk.runtime import Runtime
from dataflare.workflow.load import load_text

KEYS = 12_500
FLOW = """\
name: twice
settings: {parallelism: 2}
sources:
  rows: {type: generate, config: {columns: {id: {sequence: 0}}, rows: KEYS}}
transformations:
  named:
    type: lookup
    inputs: [rows]
    config:
      source: {type: redis, connection: "URL", key_prefix: "c:", concurrency: 8, structure: json, schema: {n: int64}}
      mapping: {key: id, fields: [n]}
destinations:
  out:
    type: redis
    inputs: [named]
    config: {connection: "URL", key: id, key_prefix: "o:", structure: json, guarantee: GUARANTEE}
"""


def fill(server: RedisServer) -> None:
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        for n in range(KEYS):
            pipe.set(f"c:{n}", f'{{"n": {n * 3}}}')
        pipe.execute()


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_a_lookup_and_a_destination_of_one_server_share_its_limit(
    server: RedisServer, tmp_path: Path, guarantee: str
) -> None:
    watches: list[Watch] = []

    @contextmanager
    def observed(watch: Watch) -> Iterator[None]:
        watches.append(watch)
        yield

    fill(server)
    text = FLOW.replace("URL", server.url).replace("GUARANTEE", guarantee)
    text = text.replace("KEYS", str(KEYS))
    options = RunOptions(tmp_path / "home", observers=[observed])
    result = run(load_text(text, base=tmp_path), options)
    assert result.status == "finished", result.error
    with server.client() as client:
        found = client.mget([f"o:{n}" for n in range(KEYS)])
    assert [each is not None for each in found] == [True] * KEYS
    assert found[41] == b'{"id":41,"n":123}'
    views = watches[0].step_views()
    assert views["named"].requests_max == views["out"].requests_max
    assert 1 <= (views["out"].requests_max or 0) <= 8
    assert views["out"].requests_under_way == 0


def test_a_server_that_hangs_gets_half_as_many(server: RedisServer, tmp_path: Path) -> None:
    fill(server)
    in_flight = InFlight()
    keys = pl.DataFrame({"id": range(KEYS)})

    async def main() -> list[float]:
        config = RedisLookupConfig.model_validate(
            {
                "connection": server.url,
                "key_prefix": "c:",
                "structure": "json",
                "concurrency": 8,
                "timeout": "300ms",
            }
        )
        lookup = RedisLookup(config, ConnectorContext("named", tmp_path))
        live = await lookup.open(["id"], Schema.of({"id": INT64, "n": STRING}))
        limit = in_flight.by_step()["named"]
        seen = []
        with server.paused(), pytest.raises(DataFlareError) as raised:
            await live.ask(keys)
        assert raised.value.code == "E0608"
        seen.append(limit.limit)
        assert limit.under_way == 0
        for _ in range(10):
            rows, errors = await live.ask(keys)
            assert not errors
            assert rows.sort("id")["n"].to_list() == [str(n * 3) for n in range(KEYS)]
        await live.aclose()
        return [*seen, limit.limit]

    with Runtime(in_flight=in_flight).entered():
        low, after = asyncio.run(main())
    assert low <= 4.0
    assert after > low
