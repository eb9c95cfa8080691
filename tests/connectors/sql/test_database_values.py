"""Values that have no place here, or none in the table: refused by name, and shown as they were."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from databases import Step, batch, execute, read, rows, run

from dataflare.errors import DataFlareError
from dataflare.model.types import Schema, parse_type
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import BadRow


def schema(**types: str) -> Schema:
    return Schema.of({name: parse_type(text) for name, text in types.items()})


async def _bad(kind: str, folder: Path, config: dict[str, Any]) -> list[BadRow]:
    class_ = registry.source(kind)
    made = class_(class_.Config(**{"path": "data.db"} | config), ConnectorContext("in", folder))
    found: list[BadRow] = []
    for split in await made.splits():
        reader: Any = await made.open(split, None)
        chunk = await reader.read_chunk()
        found += chunk.bad
        await reader.aclose()
    return found


def originals(kind: str, folder: Path, **config: Any) -> list[dict[str, Any]]:
    """The rows that could not be read, as their dead letters hold them."""
    return [json.loads(bad.raw) for bad in run(_bad(kind, folder, config))]


def write(kind: str, folder: Path, given: Schema, *values: dict[str, Any], **config: Any) -> None:
    async def written() -> None:
        step = await Step(kind, folder, given, **config).start()
        try:
            await step.epoch(1, batch(values, **given.to_polars()), final=True)
        finally:
            await step.close()

    run(written())


def refusal(kind: str, folder: Path, given: Schema, value: dict[str, Any]) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        write(kind, folder, given, value)
    return caught.value


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        ("timestamp", "'infinity'", "infinity"),
        ("timestamp", "'290000-01-01'", "290000-01-01 00:00:00"),
        ("timestamptz", "'-infinity'", "-infinity"),
        ("timestamp_s", "'infinity'", "infinity"),
        ("timestamp_ms", "'infinity'", "infinity"),
        ("timestamp_ns", "'infinity'", "infinity"),
        ("date", "'infinity'", "infinity"),
        ("date", "'300000-01-01'", "300000-01-01"),
        ("time", "'24:00:00'", "24:00:00"),
        ("interval", "interval '1 month 2 days'", "1 month 2 days"),
        ("interval", "to_days(2000000000)", "2000000000 days"),
        ("hugeint", "170141183460469231731687303715884105727", "170141183460469231731687303715884105727"),
        ("uhugeint", "340282366920938463463374607431768211455", "340282366920938463463374607431768211455"),
        ("timestamp[]", "['2024-01-01', 'infinity']", "['2024-01-01 00:00:00', infinity]"),
        ("struct(a date)", "{'a': 'infinity'}", "{'a': infinity}"),
    ],
)  # fmt: skip
def test_duckdb_values_without_a_place_here_are_row_errors(tmp_path, type_, value, text):
    execute("duckdb", tmp_path / "data.db", f"create table t (id int, v {type_})",
            f"insert into t values (1, null), (2, {value})")  # fmt: skip
    assert originals("duckdb", tmp_path, table="t") == [{"id": 2, "v": text}]
    with pytest.raises(DataFlareError) as caught:
        run(read("duckdb", tmp_path, table="t"))
    assert caught.value.code == "E0501"
    assert "column 'v'" in caught.value.message


def test_an_interval_without_months_and_one_in_a_list_are_read(tmp_path):
    execute("duckdb", tmp_path / "data.db", "create table t (v interval, l interval[])",
            "insert into t values (interval '2 days 3 hours', [interval '1 month'])")  # fmt: skip
    frame, _ = run(read("duckdb", tmp_path, table="t"))
    assert frame["v"].dt.total_hours().to_list() == [51]
    assert frame["l"].to_list() == [["1 month"]]


@pytest.mark.parametrize("library", ["columnar", "standard"])
def test_text_that_is_not_utf8_is_a_row_error(tmp_path, library):
    execute("sqlite", tmp_path / "data.db", "create table t (id integer primary key, a text, b blob)",
            "insert into t values (1, 'ok', x'00'), (2, cast(x'ff41' as text), x'fe')")  # fmt: skip
    holder = sqlite3.connect(tmp_path / "data.db") if library == "standard" else None
    if holder is not None:
        holder.execute("select 1 from t").fetchall()
    assert originals("sqlite", tmp_path, table="t") == [{"id": 2, "a": "X'FF41'", "b": "X'FE'"}]
    if holder is not None:
        holder.close()


def test_a_key_that_is_not_utf8_is_refused_by_name(tmp_path):
    execute("sqlite", tmp_path / "data.db", "create table t (a text primary key) without rowid",
            "insert into t values (cast(x'ff41' as text))")  # fmt: skip
    with pytest.raises(DataFlareError, match="key column 'a'"):
        run(read("sqlite", tmp_path, table="t"))


def test_generated_columns_are_read_and_never_written(kind, tmp_path):
    stored = ", c int generated always as (a + 1) stored" if kind == "sqlite" else ""
    execute(kind, tmp_path / "data.db",
            f"create table t (a int, b int generated always as (a * 2) {stored and 'virtual'}{stored})",
            "insert into t (a) values (1)")  # fmt: skip
    frame, _ = run(read(kind, tmp_path, table="t"))
    assert frame.row(0) == ((1, 2, 2) if stored else (1, 2))
    error = refusal(kind, tmp_path, schema(a="int64", b="int64"), {"a": 2, "b": 4})
    assert error.code == "E0511"
    assert "'b'" in error.message


@pytest.mark.parametrize(
    ("column", "type_", "value"),
    [
        ("numeric", "string", "02116"),
        ("decimal(10, 2)", "string", "x"),
        ("uuid", "string", "02116"),
        ("string", "string", "1e5"),
        ("decimal(20, 2)", "decimal(20, 2)", "123456789012345678.91"),
        ("real", "int64", 2**53 + 1),
    ],
)
def test_sqlite_refuses_what_a_column_would_change(tmp_path, column, type_, value):
    execute("sqlite", tmp_path / "data.db", f"create table t (v {column})")
    from decimal import Decimal

    given = Decimal(value) if type_.startswith("decimal") else value
    error = refusal("sqlite", tmp_path, schema(v=type_), {"v": given})
    assert (error.code, rows("sqlite", tmp_path / "data.db", "select * from t")) == ("E0511", [])


def test_sqlite_keeps_what_stays_itself(tmp_path):
    execute("sqlite", tmp_path / "data.db", "create table t (a uuid, b text, c text)")
    write("sqlite", tmp_path, schema(a="string", b="float64", c="string"),
          {"a": "2116", "b": 0.1 + 0.2, "c": "02116"})  # fmt: skip
    found = rows("sqlite", tmp_path / "data.db", "select cast(a as text), b, c from t")
    assert found == [("2116", "0.30000000000000004", "02116")]


@pytest.mark.parametrize(
    ("column", "type_", "bad", "good"),
    [
        ("decimal(10, 2)", "decimal(10, 3)", "1.005", "1.500"),
        ("decimal(10, 2)", "string", "1.005", "1.50"),
        ("integer", "string", "1.5", "7"),
        ("integer", "float64", 1.5, 2.0),
        ("float", "float64", 0.1, 0.5),
        ("date", "timestamp[us]", "2024-01-01 10:00:00", "2024-01-01 00:00:00"),
        ("timestamp", "timestamp[ns]", "2024-01-01 00:00:00.000000001", "2024-01-01 00:00:00"),
    ],
)
@pytest.mark.parametrize("sift", [False, True])
def test_duckdb_refuses_what_a_column_would_round(tmp_path, column, type_, bad, good, sift):
    import polars as pl

    execute("duckdb", tmp_path / "data.db", f"create table t (v {column})")
    given = schema(v=type_)
    texts = pl.Series("v", [str(bad), str(good)])
    dtype = given.to_polars()["v"]
    typed = (
        texts.str.to_datetime(time_unit=dtype.time_unit)
        if dtype.is_temporal()
        else texts.cast(dtype)
    )  # type: ignore[union-attr]

    async def written() -> list[Any]:
        from dataflare.model.batch import SharedDataBatch

        step = await Step("duckdb", tmp_path, given, sift=sift).start()
        try:
            await step.writer.write_batch(SharedDataBatch(typed.to_frame()))
            refused = await step.writer.settle() if sift else []
            await step.epoch(1, final=True)
            return [each.code for each in refused]
        finally:
            await step.close()

    if sift:
        assert run(written()) == ["E0511"]
        assert len(rows("duckdb", tmp_path / "data.db", "select * from t")) == 1
        return
    with pytest.raises(DataFlareError) as caught:
        run(written())
    assert caught.value.code == "E0511"


# -- what tells what is new ------------------------------------------------------------------------


def again(kind: str, folder: Path, carried: Any = None, **config: Any) -> tuple[list[Any], Any]:
    frame, carried = run(
        read(kind, folder, carried=carried, table="t", incremental={"column": "v"}, **config)
    )
    return sorted(frame["id"].to_list()), carried


@pytest.mark.parametrize(
    ("column", "first", "later"),
    [
        ("decimal(10, 5)", ["1.00001", "10.5"], ["9.9", "10.50001"]),
        ("varchar", ["a", "b"], ["B", "c"]),
        ("varchar", ["2024-01-01 10:00:00", "2024-01-01 11:00:00"], ["2024-01-01 09:00:00", "2024-01-01 12:00:00"]),
    ],
)  # fmt: skip
def test_decimals_and_text_tell_what_is_new(kind, tmp_path, column, first, later):
    path = tmp_path / "data.db"
    execute(kind, path, f"create table t (id int, v {column})",
            f"insert into t values (1, '{first[0]}'), (2, '{first[1]}')")  # fmt: skip
    found, carried = again(kind, tmp_path)
    assert found == [1, 2]
    execute(kind, path, f"insert into t values (3, '{later[0]}'), (4, '{later[1]}')")
    carried = json.loads(json.dumps(carried))
    found, carried = again(kind, tmp_path, carried)
    assert found == [4]
    assert again(kind, tmp_path, carried)[0] == []


def test_times_with_t_and_with_a_blank_are_one_order_in_sqlite_and_refused_in_duckdb(tmp_path):
    for kind in ("sqlite", "duckdb"):
        execute(kind, tmp_path / kind, "create table t (id int, v varchar)",
                "insert into t values (1, '2024-01-01T10:00:00'), (2, '2024-01-01T11:00:00')")  # fmt: skip
    _, carried = again("sqlite", tmp_path, path="sqlite")
    execute("sqlite", tmp_path / "sqlite", "insert into t values (3, '2024-01-01 12:00:00')")
    assert again("sqlite", tmp_path, carried, path="sqlite")[0] == [3]
    _, carried = again("duckdb", tmp_path, path="duckdb")
    execute("duckdb", tmp_path / "duckdb", "insert into t values (3, '2024-01-01 12:00:00')")
    with pytest.raises(DataFlareError) as caught:
        again("duckdb", tmp_path, carried, path="duckdb")
    assert caught.value.code == "E0508"
    assert "several ways" in caught.value.message


def test_numbers_among_text_are_read_in_the_order_of_their_text(tmp_path):
    execute("sqlite", tmp_path / "data.db", "create table t (id int, v)",
            "insert into t values (1, 'a'), (2, 5), (3, 'b')")  # fmt: skip
    found, carried = again("sqlite", tmp_path)
    assert found == [1, 2, 3]
    execute("sqlite", tmp_path / "data.db", "insert into t values (4, 'c'), (5, 'b')")
    assert again("sqlite", tmp_path, carried)[0] == [4, 5]


@pytest.mark.parametrize("type_", ["enum('a', 'b')", "bit", "timetz"])
def test_a_cursor_whose_order_is_not_that_of_its_text_is_refused(tmp_path, type_):
    execute("duckdb", tmp_path / "data.db", f"create table t (id int, v {type_})")
    with pytest.raises(DataFlareError) as caught:
        again("duckdb", tmp_path)
    assert caught.value.code == "E0413"


def test_rows_without_a_cursor_are_counted_in_every_run(kind, tmp_path):
    path = tmp_path / "data.db"
    execute(kind, path, "create table t (id int, v int)", "insert into t values (1, 1), (2, null)")
    (tmp_path / "w.yaml").write_text(
        f"name: nulls\nsources: {{s: {{type: {kind}, config: {{path: data.db, table: t, "
        "incremental: {column: v}}}}\ndestinations: {o: {type: stdout, inputs: [s]}}\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-m", "dataflare", "run", "w.yaml"], cwd=tmp_path,
                              env=environment, text=True, capture_output=True, timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stderr)
        execute(kind, path, "insert into t values (3, null)")
    assert "column 'v' is NULL" in said[0]
    assert "in 1 row" in said[0]
    assert "in 2 rows" in said[1]


# -- files that a killed process left --------------------------------------------------------------


def test_a_duckdb_file_of_no_bytes_counts_as_missing(tmp_path):
    (tmp_path / "data.db").touch()
    with pytest.raises(DataFlareError) as caught:
        run(read("duckdb", tmp_path, table="t"))
    assert caught.value.code == "E0601"
    write("duckdb", tmp_path, schema(v="int64"), {"v": 1})
    assert rows("duckdb", tmp_path / "data.db", "select * from t") == [(1,)]


HOT = """\
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma cache_size = 1")
db.execute("pragma cache_spill = 1")
db.execute("begin")
db.execute("update t set v = v || 'x'")
os.kill(os.getpid(), 9)
"""


def test_a_journal_that_a_killed_process_left_is_rolled_back_first(tmp_path):
    path = tmp_path / "data.db"
    execute("sqlite", path, "create table t (id integer primary key, v text)",
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) "
            "insert into t select i, hex(randomblob(50)) from n")  # fmt: skip
    before = rows("sqlite", path, "select * from t")
    subprocess.run([sys.executable, "-c", HOT, str(path)], check=False, timeout=60)
    assert (tmp_path / "data.db-journal").stat().st_size > 0
    frame, _ = run(read("sqlite", tmp_path, table="t"))
    assert frame.sort("id").rows() == before


# -- every type ------------------------------------------------------------------------------------

NESTED = {
    "hugeint[]": "[1]", "interval[]": "[interval 1 month]", "uuid[]": "['00000000-0000-0000-0000-000000000001']",
    "timetz[]": "['10:00:00+02']", "bit[]": "['1']", "int[2][3]": "[[1, 2], [1, 2], [1, 2]]",
    "struct(a int, b hugeint)": "{'a': 1, 'b': 2}", "struct(a interval)": "{'a': interval 1 day}",
    "map(varchar, int)": "map {'a': 1}", "map(varchar, int)[]": "[map {'a': 1}]", "blob[]": "['\\xFF']",
    "struct(a map(int, int))": "{'a': map {1: 2}}", "union(n int, s varchar)": "1", "json[]": "['{}']",
    "struct(a union(n int, s varchar))": "{'a': 1}", "decimal(5, 2)[][]": "[[1.5]]", "bignum": "'1'",
}  # fmt: skip


def test_every_nested_type_of_duckdb_is_read_and_written_again(tmp_path):
    names = [f"c{place}" for place in range(len(NESTED))]
    columns = ", ".join(f"{name} {type_}" for name, type_ in zip(names, NESTED, strict=True))
    execute("duckdb", tmp_path / "data.db", f"create table t ({columns})",
            f"insert into t values ({', '.join(NESTED.values())})",
            f"insert into t values ({', '.join(['null'] * len(NESTED))})")  # fmt: skip
    frame, _ = run(read("duckdb", tmp_path, table="t"))
    assert [column.null_count() for column in frame] == [1] * len(NESTED)
    given = Schema.from_polars(frame.schema)
    write("duckdb", tmp_path, given, *frame.rows(named=True), table="again")
    again, _ = run(read("duckdb", tmp_path, table="again"))
    assert again.equals(frame)


def test_bytes_inside_a_list_are_refused_where_it_becomes_json(tmp_path):
    error = refusal("sqlite", tmp_path, schema(v="list<binary>"), {"v": [b"a"]})
    assert error.code == "E0511"
    assert "list<binary>" in error.message


def test_a_list_of_json_is_json_and_not_text_in_json(tmp_path):
    write("sqlite", tmp_path, schema(v="list<json>"), {"v": ['{"a": 1}', None]})
    assert rows("sqlite", tmp_path / "data.db", "select v from t") == [('[{"a": 1},null]',)]
