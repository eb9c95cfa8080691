"""Columns of a table that are too narrow for a value, under `schema_change: evolve`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from server_databases import ServerDatabase, batch, run

from dataflare import Workflow
from dataflare.model.types import Schema

FLOAT = {"postgres": "real", "mysql": "float"}
"""The narrow one of each server."""
FIRST = pl.DataFrame(
    {"id": [1, 2], "n": [5, 2**31 - 1], "f": [0.5, 0.25], "d": ["1.5", "99.9"], "t": ["abc", "x"]}
)
NEXT = pl.DataFrame(
    {"id": [2, 3, 2**40], "n": [6, 2**40, -1], "f": [0.1, 1e300, 0.5],
     "d": ["1.25", "12345.6", "0"], "t": ["abcd", "y" * 40, ""]}
)  # fmt: skip


def load(
    database: ServerDatabase, folder: Path, rows: pl.DataFrame, change: str, **config: Any
) -> Any:
    settings: dict[str, Any] = {"checkpoint": {"interval": "50ms"}}
    if change:
        settings["schema_change"] = change
    wf = Workflow("grow", settings=settings)
    typed = rows.with_columns(pl.col("d").cast(pl.Decimal(12, 2)))
    config = {"mode": "upsert", "key": ["id"], **config}
    wf.frame("rows", typed).to(
        "out", database.kind, connection_string=database.dsn, table="grown", **config
    )
    return wf.run(home=folder)


def create(database: ServerDatabase) -> None:
    database.execute(
        f"create table grown (id int primary key, n int not null, f {FLOAT[database.kind]}, "
        "d decimal(3, 1), t varchar(3))"
    )


@pytest.mark.parametrize("mode", ["upsert", "mirror", "append"])
def test_they_become_wider_over_two_runs(
    database: ServerDatabase, tmp_path: Path, mode: str
) -> None:
    create(database)
    config: dict[str, Any] = {"mode": mode, "key": [] if mode == "append" else ["id"]}
    if mode == "mirror":
        config["delete_max"] = "100%"
    load(database, tmp_path, FIRST, "evolve", **config)
    rows = NEXT if mode != "append" else NEXT.with_columns(pl.col("id") + 10)
    load(database, tmp_path, rows, "evolve", **config)
    found = {row[0]: row[1:] for row in database.rows("select * from grown order by id")}
    for row in rows.iter_rows():
        number, n, f, d, t = row
        assert found[number] == (n, f, Decimal(d), t), number
    kept = {1: (5, 0.5, Decimal("1.5"), "abc")}
    if mode == "append":
        kept[2] = (2**31 - 1, 0.25, Decimal("99.9"), "x")
    if mode != "mirror":
        assert {number: found[number] for number in kept} == kept
    assert len(found) == {"append": 5, "upsert": 4, "mirror": 3}[mode]


@pytest.mark.parametrize("change", ["", "ignore"])
def test_they_stay_unless_the_workflow_says_so(
    database: ServerDatabase, tmp_path: Path, change: str
) -> None:
    create(database)
    with pytest.raises(Exception, match=r"refuses a row|would round|would change|out of range"):
        load(database, tmp_path, NEXT, change)
    assert database.rows("select count(*) from grown") == [(0,)]


@pytest.mark.parametrize("dies", [False, True])
def test_an_epoch_that_needs_them_is_committed_after_a_crash(
    database: ServerDatabase, dies: bool
) -> None:
    database.execute("create table grown (id int primary key, t varchar(2))")
    schema = Schema.of({"id": "int64", "t": "string"})
    config: dict[str, Any] = {"table": "grown", "mode": "upsert", "key": ["id"]}

    async def go() -> None:
        step = database.step(schema, **config)
        step.destination.widens = True
        await step.start()
        await step.epoch(1, batch([{"id": 1, "t": "a"}]))
        made = await step.prepare(
            2, batch([{"id": 2, "t": "b"}]), batch([{"id": 2**40, "t": "long"}])
        )
        if dies:
            step.die()
            step = database.step(schema, attempt=2, **config)
            step.destination.widens = True
            await step.start(2, [made])
        await step.commit(2, [made])
        await step.epoch(3, batch([{"id": 4, "t": "c"}]), final=True)
        await step.close()

    run(go())
    assert database.rows("select id, t from grown order by id") == [
        (1, "a"), (2, "b"), (4, "c"), (2**40, "long"),
    ]  # fmt: skip
