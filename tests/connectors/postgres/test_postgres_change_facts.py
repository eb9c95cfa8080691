"""When and where a change was committed, and in which transaction, as columns beside its row."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cdc_kit import Copy
from postgres_kit import Database

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

FACTS = "{metadata: [ts, lsn, txid, snapshot]}"


def log_position(database: Database) -> int:
    [(lsn,)] = database.rows("select (pg_current_wal_insert_lsn() - '0/0')::bigint")
    return int(lsn)


def written(folder: Path) -> list[dict[str, Any]]:
    lines = [
        line
        for file in sorted(folder.glob("out/*.ndjson"))
        for line in file.read_text().split("\n")
    ]
    rows = [json.loads(line) for line in lines if line]
    return sorted(rows, key=lambda row: row["_lsn"] or 0)


@pytest.fixture
def orders(logical: Database) -> Database:
    logical.execute(
        "create table orders (id int primary key, name text)",
        "insert into orders values (1, 'a'), (2, 'b'), (3, 'c')",
    )
    return logical


@pytest.mark.parametrize("identity", ["default", "full"])
def test_the_facts_are_those_of_the_server(orders: Database, tmp_path: Path, identity: str) -> None:
    orders.execute(f"alter table orders replica identity {identity}")
    copy = Copy(
        orders, tmp_path, cdc=FACTS, kind="file", into="path: out/, format: ndjson, changelog: columns",
    )  # fmt: skip
    copy.catch_up()
    none = {"_ts": None, "_lsn": None, "_txid": None, "_snapshot": True, "_op": "insert"}
    assert written(tmp_path) == [
        {"id": n, "name": name, **none} for n, name in ((1, "a"), (2, "b"), (3, "c"))
    ]
    before = log_position(orders)
    transactions = []
    statements = (
        ["insert into orders values (4, 'd')", "update orders set name = 'x' where id = 1"],
        ["delete from orders where id = 2"],
        ["update orders set id = 9 where id = 3"],
    )
    for each in statements:
        with psycopg.connect(orders.dsn) as db:
            row = db.execute("select txid_current()::text, clock_timestamp()").fetchone()
            assert row is not None
            for statement in each:
                db.execute(statement)
        transactions.append(row)
    [(end,)] = orders.rows("select clock_timestamp()")
    copy.catch_up()
    came = written(tmp_path)[3:]
    whole = identity == "full"
    expected = [
        ("insert", 4, "d", 0),
        *([("update_before", 1, "a", 0)] if whole else []),
        ("update_after", 1, "x", 0),
        ("delete", 2, "b" if whole else None, 1),
        ("delete", 3, "c" if whole else None, 2),
        ("insert", 9, "c", 2),
    ]
    assert [(r["_op"], r["id"], r["name"]) for r in came] == [each[:3] for each in expected]
    assert [r["_txid"] for r in came] == [transactions[each[3]][0] for each in expected]
    assert not any(r["_snapshot"] for r in came)
    assert before <= came[0]["_lsn"]
    assert came[-1]["_lsn"] <= log_position(orders)
    bounds = [began for _, began in transactions] + [end]
    for row, (*_, number) in zip(came, expected, strict=True):
        at = datetime.fromisoformat(row["_ts"])
        assert bounds[number] <= at <= bounds[number + 1]


def test_steps_that_take_rows_back_are_right_with_facts(orders: Database, tmp_path: Path) -> None:
    orders.execute("alter table orders replica identity full")
    text = Copy(
        orders, tmp_path, cdc=FACTS, into="path: copy.db, table: named, mode: mirror, key: [name]"
    ).text
    text = text.replace("destinations:", "transformations:\n  named: {type: aggregate, inputs: [orders], config: {group_by: "
        "[name], measures: {n: 'count(*)', last: 'max(_lsn)'}, emit: updates}}\ndestinations:").replace("inputs: [orders], config: {path", "inputs: [named], config: {path")  # fmt: skip

    def catch_up() -> list[tuple[Any, ...]]:
        result = run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
        assert result.status == "finished", result.error
        with sqlite3.connect(tmp_path / "copy.db") as db:
            return db.execute("select name, n, last is null from named order by name").fetchall()

    assert catch_up() == [("a", 1, 1), ("b", 1, 1), ("c", 1, 1)]
    orders.execute(
        "update orders set name = 'a' where id = 2", "insert into orders values (4, 'b')",
        "update orders set name = 'a' where id = 2", "delete from orders where id = 3",
    )  # fmt: skip
    assert catch_up() == [("a", 2, 0), ("b", 1, 0)]


def test_a_mirror_has_the_facts_of_the_last_change(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path, cdc="{metadata: [txid]}", more=", columns: [id]")
    copy.catch_up()
    orders.execute("update orders set name = 'x' where id = 1", "delete from orders where id = 2")
    copy.catch_up()
    (first, one), (third, two) = copy.rows()
    assert (first, third, two) == (1, 3, None)
    assert one.isdigit()


def test_columns_that_come_later_are_told_beside_facts(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path, cdc="{metadata: [lsn]}")
    copy.catch_up()
    orders.execute("alter table orders add note text", "insert into orders values (7, 'g', 'new')")
    copy.catch_up()
    copy.catch_up()
    [row] = copy.rows("select id, name, note, _lsn > 0 from orders where id = 7")
    assert row == (7, "g", "new", 1)


def test_a_column_of_that_name_is_refused(orders: Database, tmp_path: Path) -> None:
    orders.execute("alter table orders add _lsn text")
    with pytest.raises(DataFlareError) as caught:
        Copy(orders, tmp_path, cdc=FACTS).run()
    assert caught.value.code == "E0411"
    assert "leave 'lsn' out" in str(caught.value.help)


HISTORY = """\
name: shop
settings: {{mode: batch, parallelism: 1, checkpoint: {{interval: 20ms}}}}
sources:
  orders: {{type: postgres, config: {{connection_string: "{dsn}", table: orders, cdc: {{metadata: [ts]}}}}}}
transformations:
  since:
    type: map
    inputs: [orders]
    config: {{derive: {{since: "coalesce(_ts, CAST('1970-01-01T00:00:00Z' AS TIMESTAMPTZ))"}}, drop: [_ts]}}
destinations:
  versions:
    type: sqlite
    inputs: [since]
    config: {{path: copy.db, table: versions, mode: history, key: [id], sequence: since}}
"""


def test_a_history_has_each_version_with_the_time_of_its_commit(
    logical: Database, tmp_path: Path
) -> None:
    """All changes come in one batch, and the row is deleted and made again in between."""
    logical.execute(
        "create table orders (id int primary key, name text)", "insert into orders values (1, 'first')",
    )  # fmt: skip
    workflow = load_text(HISTORY.format(dsn=logical.dsn), base=tmp_path)
    assert run(workflow, RunOptions(tmp_path / "home")).status == "finished"
    logical.execute(
        "update orders set name = 'second'", "update orders set name = 'third'", "delete from orders",
        "insert into orders values (1, 'again')", "update orders set name = 'last'",
    )  # fmt: skip
    result = run(workflow, RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    read_at = datetime.now(UTC)
    with sqlite3.connect(tmp_path / "copy.db") as db:
        found = db.execute("select name, valid_from, valid_to from versions order by valid_from")
        names, starts, ends = zip(*found.fetchall(), strict=True)
    assert names == ("first", "second", "third", "again", "last")
    assert starts[0].startswith("1970-01-01")
    assert ends[:2] == starts[1:3]
    assert starts[2] < ends[2] < starts[3] < starts[4] == ends[3]
    assert ends[4] is None
    assert datetime.fromisoformat(starts[4]) < read_at
