"""A source whose deletes have a key alone: what steps make of its changes is what DuckDB makes of the rows that are left."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from changelogs import applied, changelog_of, cut

from dataflare import RunOptions, run
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.operators.whole_changes import WholeChanges
from dataflare.state.tables import Tables
from dataflare.testing.scripted import Checkpoint, Crash, ScriptedSource
from dataflare.workflow.load import load_text

SCHEMA = {"id": "int64", "shop": "string", "amount": "float64"}
Row = tuple[Any, ...]


def key_changes(rng: random.Random, length: int) -> tuple[list[tuple[RowKind, Row]], list[Row]]:
    """Changes that say no more than a log by key does, and the rows that are left. A row may come as it is."""
    there: dict[int, Row] = {}
    changes: list[tuple[RowKind, Row]] = []
    while len(changes) < length:
        id_ = rng.randrange(12)
        if id_ in there and rng.random() < 0.35:
            del there[id_]
            changes.append((RowKind.DELETE, (id_, None, None)))
            continue
        amount = rng.choice((None, 0.0, float("nan"), 1.5, 2.5, 40.0))
        there[id_] = (id_, rng.choice((None, "north", "south")), amount)
        changes.append((RowKind.INSERT, there[id_]))
    return changes, [there[id_] for id_ in sorted(there)]


@pytest.mark.parametrize("seed", range(8))
def test_every_change_comes_with_the_row_that_was_there(seed: int) -> None:
    rng = random.Random(seed)
    changes, left = key_changes(rng, rng.randrange(1, 120))
    tables = Tables()
    live = WholeChanges("s--changes", ("id",), "s").open(tables)
    made: list[pl.DataFrame] = []
    there: dict[int, Row] = {}
    for batch in cut(rng, changelog_of(SCHEMA, changes)):
        for frame in live.process(0, batch):
            made.append(frame)
            for *row, kind in frame.select(*SCHEMA, KIND_COLUMN).rows():
                if kind in (RowKind.DELETE, RowKind.UPDATE_BEFORE):
                    assert repr(there.pop(row[0])) == repr(tuple(row))
                else:
                    assert row[0] not in there
                    there[row[0]] = tuple(row)
    assert repr(sorted(applied(made), key=lambda row: row[0])) == repr(left)
    assert not live.warnings()


def test_a_delete_of_a_row_that_never_came_is_counted() -> None:
    live = WholeChanges("s--changes", ("id",), "s").open(Tables())
    log = changelog_of(
        SCHEMA,
        [
            (RowKind.DELETE, (1, None, None)),
            (RowKind.INSERT, (2, "north", 1.5)),
            (RowKind.DELETE, (2, None, None)),
            (RowKind.DELETE, (2, None, None)),
        ],
    )
    [frame] = live.process(0, log)
    assert frame[KIND_COLUMN].to_list() == [RowKind.INSERT, RowKind.DELETE]
    assert frame["amount"].to_list() == [1.5, 1.5]
    [(where, rows)] = live.warnings().items()
    assert where[0] == "s"
    assert rows == 2


STEPS = {
    "filter": (
        "{type: filter, inputs: [orders], config: {condition: amount > 1}}",
        "SELECT id, shop, amount FROM t WHERE amount > 1",
        "step", "id",
    ),
    "one side of a route": (
        "{type: route, inputs: [orders], config: {routes: {north: \"shop = 'north'\"}, default: rest}}",
        "SELECT id, shop, amount FROM t WHERE shop = 'north'",
        "step.north", "id",
    ),
    "aggregate": (
        "{type: aggregate, inputs: [orders], config: {group_by: [shop], emit: updates, "
        "measures: {n: count(*), high: max(amount)}}}",
        "SELECT coalesce(shop, '-') AS shop, count(*) AS n, max(amount) AS high FROM t GROUP BY ALL",
        "named", "shop",
    ),
    "deduplicate": (
        "{type: deduplicate, inputs: [orders], config: {key: [id]}}",
        "SELECT id, shop, amount FROM t",
        "step", "id",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_gives_what_the_rows_that_are_left_give(kind: str, tmp_path: Path) -> None:
    step, query, output, key = STEPS[kind]
    rng = random.Random(kind)
    changes, left = key_changes(rng, 150)
    items: list[Any] = [
        {"_op": k.name.lower(), **dict(zip(SCHEMA, row, strict=True))} for k, row in changes
    ]
    items[100:100] = [Checkpoint(), Crash()]
    source = ScriptedSource(items, schema=SCHEMA, changelog=True, key=["id"], deletes_by_key=True)
    named = (
        "  named: {type: map, inputs: [step], config: {derive: {shop: \"coalesce(shop, '-')\"}}}\n"
    )
    text = f"""
name: whole
settings: {{parallelism: 2, restart: {{attempts: 1, delay: 1ms}}, checkpoint: {{interval: 10ms}}}}
sources: {{orders: {{type: scripted, config: {{script: {source.name}}}}}}}
transformations:
  step: {step}
{named if output == "named" else ""}
destinations:
  out: {{type: sqlite, inputs: [{output}], config: {{path: out.db, table: t, mode: mirror, key: [{key}]}}}}
  raw: {{type: sqlite, inputs: [orders], config: {{path: out.db, table: raw, mode: mirror, key: [id]}}}}
"""
    result = run(load_text(text, base=tmp_path), RunOptions(home=tmp_path / "home"))
    assert result.error is None, result.error
    t = pl.DataFrame(
        left, schema={"id": pl.Int64, "shop": pl.String, "amount": pl.Float64}, orient="row"
    )
    wanted = duckdb.sql(query).fetchall()
    assert t.height
    with closing(sqlite3.connect(tmp_path / "out.db")) as db:
        columns = ", ".join(duckdb.sql(query).columns)
        found = db.execute(f"SELECT {columns} FROM t").fetchall()
        raw = db.execute("SELECT id, shop, amount FROM raw").fetchall()
    assert sorted(map(_plain, found)) == sorted(map(_plain, wanted))
    assert sorted(map(_plain, raw)) == sorted(map(_plain, left))


def _plain(row: Row) -> str:
    """SQLite has no NaN: it is NULL there."""
    return repr([None if value != value else value for value in row])
