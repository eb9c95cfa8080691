"""A source whose readers give rows of several tables in one flow: each table has its own columns, counts, dead letters
and destination, and what no step reads costs nothing."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel, ConfigDict

from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.new_fields import typed_fields
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.planner import plan
from dataflare.sdk.registry import register
from dataflare.sdk.source import (
    BadRow,
    EndOfSplit,
    Replay,
    SourceBatch,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    Stream,
)
from dataflare.sdk.streams import TableName, stream_names
from dataflare.testing import Lab
from dataflare.workflow import load_text
from dataflare.workflow.model import Workflow

TABLES = {
    TableName("orders", "public"): {"id": "int64", "total": "float64"},
    TableName("items", "public"): {"id": "int64", "name": "string", "order_id": "int64"},
    TableName("visits", "web"): {"at": "string"},
}
NAMES = list(stream_names(TABLES).values())


class Flow:
    """changes: table and number, in order. bad: numbers that cannot be read. since: from this number on, rows of
    orders have a column `extra`. changelog: rows of orders are updates by key."""

    def __init__(
        self,
        changes: Sequence[str],
        bad: Sequence[int] = (),
        since: int = 10**9,
        *,
        changelog: bool = False,
    ) -> None:
        self.changes, self.bad, self.since = changes, set(bad), since
        self.changelog = changelog
        self.before: Callable[[], None] = lambda: None
        self.read: list[str] = []
        self.told: Mapping[str, str | None] = {}

    def rows(self, table: str, *columns: str) -> list[dict[str, Any]]:
        found = [n for n, t in enumerate(self.changes) if t == table and n not in self.bad]
        return [{c: row_of(table, n)[c] for c in columns} for n in found]


def row_of(table: str, n: int) -> dict[str, Any]:
    if table == "orders":
        return {"id": n, "total": n / 2}
    return {"id": n, "name": f"n{n}", "order_id": n - 1} if table == "items" else {"at": str(n)}


FLOWS: dict[str, Flow] = {}


class FlowConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")


@register
class FlowSource(SourceConnector):
    type = "flow"
    Config = FlowConfig
    finds_new_fields = True

    @property
    def flow(self) -> Flow:
        return FLOWS["flow"]

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(Replay.EXACT, local=True)

    async def schema(self) -> Schema:
        raise AssertionError("a source with streams is not asked for one schema")

    async def streams(self) -> Sequence[Stream]:
        names = stream_names(TABLES)
        changelog = self.flow.changelog
        return [
            Stream(
                name,
                of,
                Schema.of({**TABLES[of], **self.streams_learned.get(name, {})}),
                key=() if name == "visits" else ("id",),
                changelog=changelog and name == "orders",
                deletes_by_key=changelog and name == "orders",
            )
            for of, name in names.items()
        ]

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        self.flow.told = dict.fromkeys(sorted(self.streams_read))
        return [Split("flow")]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        columns = {each.name: each.columns.names for each in await self.streams()}
        return FlowReader(self.flow, position.value["at"] if position else 0, columns)


class FlowReader(SplitReader):
    def __init__(self, flow: Flow, at: int, columns: Mapping[str, Sequence[str]]) -> None:
        self.flow, self.at, self.columns = flow, at, columns

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        self.flow.before()
        flow, n = self.flow, self.at
        if n == len(flow.changes):
            raise EndOfSplit
        table = flow.changes[n]
        self.at = n + 1
        flow.read.append(table)
        columns = self.columns[table]
        new = table == "orders" and n >= flow.since and "extra" not in columns
        row = {**row_of(table, n), **({"extra": n} if "extra" in columns else {})}
        if n < flow.since and "extra" in row:
            row["extra"] = None
        schema = dict.fromkeys(("id", "order_id", "extra"), pl.Int64) | {"total": pl.Float64}
        frame = pl.DataFrame([row], schema_overrides={k: v for k, v in schema.items() if k in row})
        if flow.changelog and table == "orders":
            kind = pl.lit(int(RowKind.INSERT), pl.UInt8)
            frame = frame.with_columns(kind.alias(KIND_COLUMN))
        bad = [BadRow(0, "E0501", "it is torn", json.dumps({"n": n}), f"change {n}")]
        is_bad = n in flow.bad
        return SourceBatch(
            frame.clear() if is_bad else frame,
            bad=bad if is_bad else (),
            row_numbers=pl.Series([] if is_bad else [0], dtype=pl.Int64),
            place=lambda row: f"change {n}",
            new_fields=typed_fields({"extra": "int64"}, [0], lambda row: "") if new else None,
            stream=table,
        )

    def position(self) -> Position:
        return Position({"at": self.at})


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    yield
    FLOWS.clear()


def changes_of(seed: int, count: int = 60) -> list[str]:
    return random.Random(seed).choices(NAMES, k=count)


def two_tables(flow: Flow, settings: str = "", options: str = "") -> Workflow:
    FLOWS["flow"] = flow
    return load_text(
        f"""\
name: two_tables
settings: {{parallelism: 1{settings}}}
sources: {{shop: {{type: flow, config: {{}}{options}}}}}
transformations:
  half: {{type: map, inputs: [shop.orders], config: {{derive: {{half: total / 2}}}}}}
destinations:
  orders: {{type: memory, inputs: [half], config: {{name: orders}}}}
  items: {{type: memory, inputs: [shop.items], config: {{name: items}}}}
"""
    )


def test_each_stream_goes_its_own_way(tmp_path: Path) -> None:
    flow = Flow(changes_of(1))
    lab = Lab(tmp_path)
    result = lab.run(two_tables(flow))
    assert result.status == "finished", result.error
    orders = [{**row, "half": row["total"] / 2} for row in flow.rows("orders", "id", "total")]
    assert lab.frame("orders").rows(named=True) == orders
    assert lab.frame("items").rows(named=True) == flow.rows("items", "id", "name", "order_id")
    assert result.steps["shop.orders"]["rows_out"] == len(orders)
    assert result.steps["shop.items"]["rows_out"] == flow.changes.count("items")
    assert "shop.visits" not in result.steps
    assert list(flow.told) == ["items", "orders"], "the source is told what is read"


def test_a_stream_is_named_in_the_plan() -> None:
    workflow = two_tables(Flow([]))
    view = plan(workflow).view()
    nodes = {node["id"]: node for node in view["nodes"]}
    assert nodes["shop.items"]["kind"] == "source"
    assert list(nodes["shop.items"]["schema"]) == ["id", "name", "order_id"]
    assert {"from": "shop.orders", "to": "half"}.items() <= view["edges"][0].items()
    assert len({nodes["shop.orders"]["stage"], nodes["shop.items"]["stage"]}) == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_loses_and_doubles_no_row_of_any_stream(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    flow = Flow(changes_of(seed, 120), bad=chance.sample(range(120), 10))
    calls = set(chance.sample(range(1, 150), 5))
    made = 0

    def before() -> None:
        nonlocal made
        made += 1
        if made in calls:
            raise SystemError_("it is away", code="E0601", retry=chance.choice([*Retry][1:]))

    flow.before = before
    lab = Lab(tmp_path)
    for _ in range(8):
        workflow = two_tables(flow, options=", error_handling: {on_error: skip}")
        result = lab.run(workflow, restarts=seed % 2)
        if result.status == "finished":
            break
    assert result.status == "finished", result.error
    assert lab.frame("orders")["id"].to_list() == [r["id"] for r in flow.rows("orders", "id")]
    assert lab.frame("items")["id"].to_list() == [r["id"] for r in flow.rows("items", "id")]


def test_rows_that_cannot_be_read_are_letters_of_their_stream(tmp_path: Path) -> None:
    flow = Flow(["orders", "items", "orders", "visits", "items"], bad=[1, 2, 3])
    letters = (
        "error_handling: {on_error: dead_letter, dead_letter: {type: memory, config: {name: bad}}}"
    )
    lab = Lab(tmp_path)
    result = lab.run(two_tables(flow, options=f", {letters}"))
    assert result.status == "finished", result.error
    told = lab.frame("bad").select("step", "position").rows()
    assert told == [("shop.items", "change 1"), ("shop.orders", "change 2")]
    assert result.steps["shop.items"]["dead_letters"] == 1
    assert result.steps["shop.items"]["errors"] == 1


def test_the_policy_of_a_source_is_that_of_its_streams(tmp_path: Path) -> None:
    result = Lab(tmp_path).run(two_tables(Flow(["items"], bad=[0])), restarts=0)
    assert result.error is not None
    assert result.error.step == "shop.items"
    flow = Flow(["items"] * 5, bad=[0, 3])
    options = ", error_handling: {on_error: skip, max_errors: 1}"
    result = Lab(tmp_path / "most").run(two_tables(flow, options=options), restarts=0)
    assert result.error is not None
    assert (result.error.code, result.error.step) == ("E0530", "shop.items")


def test_a_new_column_of_one_stream_is_a_column_of_that_one(tmp_path: Path) -> None:
    flow = Flow(["orders", "items"] * 10, since=7)
    lab = Lab(tmp_path)
    result = lab.run(two_tables(flow))
    assert result.status == "finished", result.error
    orders = lab.frame("orders")
    assert orders["extra"].to_list() == [n if n >= 7 else None for n in range(0, 20, 2)]
    assert lab.frame("items").columns == ["id", "name", "order_id"]
    assert any("'shop.orders': new fields" in warning for warning in result.warnings)


def test_one_stream_may_be_a_changelog_beside_others(tmp_path: Path) -> None:
    FLOWS["flow"] = Flow(["orders", "items", "orders"], changelog=True)
    text = """\
name: mirrored
sources: {shop: {type: flow, config: {}}}
destinations:
  orders: {type: sqlite, inputs: [shop.orders], config: {path: o.db, table: orders, OPTIONS}}
  items: {type: sqlite, inputs: [shop.items], config: {path: o.db, table: items}}
"""
    with pytest.raises(DataFlareError) as refused:
        plan(load_text(text.replace("OPTIONS", "mode: append"), base=tmp_path))
    assert refused.value.step == "orders", "only that one is a changelog"
    workflow = load_text(text.replace("OPTIONS", "mode: mirror, key: id"), base=tmp_path)
    result = Lab(tmp_path).run(workflow)
    assert result.status == "finished", result.error
    with contextlib.closing(sqlite3.connect(tmp_path / "o.db")) as db:
        assert db.execute("select id from orders order by id").fetchall() == [(0,), (2,)]
        assert db.execute("select id from items").fetchall() == [(1,)]


def test_streams_of_one_source_are_joined_and_timed(tmp_path: Path) -> None:
    FLOWS["flow"] = Flow(changes_of(3, 40))
    text = """\
name: joined
settings: {parallelism: 2}
sources:
  shop:
    type: flow
    config: {}
    event_time: {column: "CAST(make_date(2024, 1, 1) AS timestamp) + INTERVAL 1 SECOND * id", out_of_orderness: 5s}
transformations:
  both: {type: join, inputs: [shop.items, shop.orders], config: {on: {order_id: id}}}
destinations: {out: {type: memory, inputs: [both], config: {name: out}}}
"""
    lab = Lab(tmp_path)
    result = lab.run(load_text(text))
    assert result.status == "finished", result.error
    changes = FLOWS["flow"].changes
    pairs = [n for n in range(1, 40) if changes[n - 1 : n + 1] == ["orders", "items"]]
    assert sorted(lab.frame("out")["id"].to_list()) == pairs


def test_an_output_that_is_not_a_stream_is_refused_with_the_streams() -> None:
    FLOWS["flow"] = Flow([])
    text = """\
name: wrong
sources: {shop: {type: flow, config: {}}}
destinations: {out: {type: memory, inputs: [shop.order], config: {name: out}}}
"""
    with pytest.raises(DataFlareError) as refused:
        plan(load_text(text))
    assert refused.value.code == "E0108"
    assert "shop.orders, shop.items, shop.visits" in str(refused.value.notes)
