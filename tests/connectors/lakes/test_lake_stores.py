"""Tables in an object store. Its server is a process of its own: deltalake waits for it with the interpreter's lock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from lake_kit import KINDS, Lake, Step, batch
from servers import services
from servers.aws import AwsServer
from servers.s3 import KEYS, empty

from dataflare.model.types import Schema

pytestmark = pytest.mark.rotates(2)

ROWS = pl.DataFrame({"id": [1, 2, 3], "v": ["a", "b", "c"]})
SCHEMA = Schema.from_polars(ROWS.schema)


@pytest.fixture(scope="module")
def server() -> Iterator[AwsServer]:
    for made in services.running("aws"):
        empty(made.endpoint, "lake")
        yield made


def contents(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return frame.select("id", "v").sort("id", "v").rows()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
def test_each_mode_writes_to_the_store(
    kind: str, mode: str, server: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {
        **KEYS,
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    lake = Lake(kind, tmp_path, f"s3://lake/{kind}-{mode}")
    options: dict[str, Any] = {"mode": mode, "partition_by": ["v"]}
    options |= {"key": ["id"]} if mode == "upsert" else {}
    changed = pl.DataFrame({"id": [2, 3], "v": ["new", "c"]}) if mode == "upsert" else ROWS[2:]

    async def go() -> None:
        step = await Step(lake, SCHEMA, **options).start()
        await step.epoch(1, batch(ROWS[:2]))
        made = await step.prepare(2, batch(changed), final=True)
        step.die()
        again = Step(lake, SCHEMA, attempt=2, **options)
        again.committer = await again.destination.committer(again.context)
        await again.committer.recover(2, [made])
        for _ in range(2):
            await again.commit(2, [made], final=True)
        await again.committer.aclose()

    asyncio.run(go())
    expected = [(1, "a"), (2, "new" if mode == "upsert" else "b"), (3, "c")]
    assert contents(lake.frame()) == expected
    assert contents(lake.read()) == expected
