"""What is DuckDB's own: its types, its files in one process, its rowids."""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "sql"))

from databases import Step, batch, execute, read, run

from dataflare.connectors.duckdb.source import DuckdbSource
from dataflare.connectors.duckdb.types import declared, type_of_declaration
from dataflare.errors import CheckpointError, DataFlareError
from dataflare.model.progress import Position
from dataflare.model.types import Schema, parse_type
from dataflare.sdk.context import ConnectorContext, Policy

SCHEMA = Schema.of({"id": "int64"})


@pytest.mark.parametrize(
    "type_",
    ["bool", "int8", "uint64", "float32", "decimal(38, 5)", "string", "binary", "json", "date", "time",
     "timestamp[ns]", "timestamp[us, UTC]", "list<list<int32>>",
     "struct<a: struct<b: list<string>, c: decimal(5, 2)>, d: timestamp[us]>"],
)  # fmt: skip
def test_a_declaration_means_the_type_it_was_made_from(type_):
    assert type_of_declaration(declared(parse_type(type_))) == parse_type(type_)


def test_types_that_we_lack_are_read_as_text(tmp_path):
    execute(
        "duckdb", tmp_path / "data.db",
        "create table t as select 1::hugeint as h, interval 90 minutes as i, '0e1d'::varchar::blob as b, "
        "'a'::enum('a', 'b') as e, map {'k': 1} as m, array_value(1, 2) as f, '101'::bit as bits, "
        "uuid_nil as u from (select '00000000-0000-0000-0000-000000000000'::uuid as uuid_nil)",
    )  # fmt: skip
    found, _ = run(read("duckdb", tmp_path, table="t"))
    row = found.row(0, named=True)
    assert Schema.from_polars(found.schema).to_json()["h"] == "decimal(38, 0)"
    assert row["i"].total_seconds() == 5400
    assert (row["e"], row["m"], row["f"], row["bits"]) == ("a", '{"k":1}', [1, 2], "101")
    assert row["u"] == "00000000-0000-0000-0000-000000000000"


def test_a_rewritten_table_is_noticed_when_reading_goes_on(tmp_path):
    path = tmp_path / "data.db"
    execute("duckdb", path, "create table t as select i as id from range(10) r(i)")

    async def go():
        one = DuckdbSource(
            DuckdbSource.Config(path="data.db", table="t"), ConnectorContext("in", tmp_path)
        )
        (split,) = await one.splits()
        reader = await one.open(split, None)
        await reader.read_batch(4)
        position = reader.position()
        await reader.aclose()
        again = await one.open(split, Position(position.to_json()))
        assert (await again.read_batch(99)).frame["id"].to_list() == list(range(4, 10))
        await again.aclose()
        execute(
            "duckdb", path, "create or replace table t as select i + 1 as id from range(10) r(i)"
        )
        changed = await one.open(split, position)
        with pytest.raises(CheckpointError) as caught:
            await changed.read_batch(99)
        assert caught.value.code == "E0704"
        await changed.aclose()

    run(go())


def test_others_may_read_between_epochs_and_not_from_prepare_to_commit(tmp_path):
    path = tmp_path / "data.db"
    other = f"import duckdb; duckdb.connect({str(path)!r}, read_only=True).sql('from t').fetchall()"

    def look() -> int:
        import subprocess

        return subprocess.run(
            [sys.executable, "-c", other], capture_output=True, check=False
        ).returncode

    async def go():
        step = await Step("duckdb", tmp_path, SCHEMA).start()
        await step.epoch(1, batch([{"id": 1}]))
        assert look() == 0
        made = await step.prepare(2, batch([{"id": 2}]))
        assert look() != 0
        await step.commit(2, [made])
        assert look() == 0
        await step.close()

    run(go())


def test_a_connection_of_the_users_own_is_joined(tmp_path):
    path = tmp_path / "data.db"
    with duckdb.connect(str(path)) as own:
        own.execute("create table t (id bigint)")

        async def go():
            step = await Step("duckdb", tmp_path, SCHEMA, busy_timeout=0).start()
            await step.epoch(1, batch([{"id": 1}]), final=True)
            await step.close()
            found, _ = await read("duckdb", tmp_path, table="t")
            assert found["id"].to_list() == [1]

        run(go())
        assert own.execute("select count(*) from t").fetchone() == (1,)


def test_a_workflow_of_others_reaches_no_other_file(tmp_path):
    execute("duckdb", tmp_path / "data.db", "create table t (id bigint)")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    context = ConnectorContext("in", tmp_path, Policy(folders=(tmp_path,)))
    query = f"select * from read_csv('{tmp_path}/secret.csv')"
    one = DuckdbSource(DuckdbSource.Config(path="data.db", query=query), context)
    with pytest.raises(DataFlareError):
        run(one.schema())
    free = DuckdbSource(
        DuckdbSource.Config(path="data.db", query=query), ConnectorContext("in", tmp_path)
    )
    assert run(free.schema()).names == ("a",)


def test_a_query_does_not_see_variables_of_ours(tmp_path):
    execute("duckdb", tmp_path / "data.db", "create table t (id bigint)")
    frame = object()
    assert frame is not None
    with pytest.raises(DataFlareError) as caught:
        run(read("duckdb", tmp_path, query="select * from relation"))
    assert caught.value.code == "E0604"


def test_a_table_in_another_schema(tmp_path):
    async def go():
        step = await Step("duckdb", tmp_path, SCHEMA, table="lake.orders", mode="overwrite").start()
        await step.epoch(1, batch([{"id": 1}]))
        await step.epoch(2, batch([{"id": 2}]), final=True)
        await step.close()
        found, _ = await read("duckdb", tmp_path, table="lake.orders")
        assert found["id"].to_list() == [1, 2]

    run(go())


def test_writing_waits_for_readers_of_this_process_only_so_long(tmp_path):
    execute("duckdb", tmp_path / "data.db", "create table origin as select 1::bigint as id")

    async def go():
        one = DuckdbSource(
            DuckdbSource.Config(path="data.db", table="origin"), ConnectorContext("in", tmp_path)
        )
        (split,) = await one.splits()
        reader = await one.open(split, None)
        step = Step("duckdb", tmp_path, SCHEMA, busy_timeout=0)
        with pytest.raises(DataFlareError) as caught:
            await step.start()
        assert caught.value.code == "E0605"
        await reader.aclose()
        await step.start()
        await step.epoch(1, batch([{"id": 1}]), final=True)
        await step.close()

    run(go())
