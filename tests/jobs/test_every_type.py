"""Each Polars type through sources, steps and destinations: exact at the end, or refused by name."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
from collections.abc import Callable, Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from every_type import COLUMNS

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers import services

from dataflare import Workflow
from dataflare.connectors import memory
from dataflare.errors import DataFlareError
from dataflare.model.foreign import to_held_types

FRAME = pl.DataFrame({"id": [1, 2, 3], **{name: values for name, (values, _) in COLUMNS.items()}})
HELD = to_held_types(FRAME)


@pytest.fixture(autouse=True)
def _no_rows_of_other_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DATAFLARE_HOME", str(tmp_path / "home"))
    memory.clear()
    yield
    memory.clear()


def run(workflow: Workflow) -> None:
    error = workflow.run().error
    if error is not None:
        raise error


def write(folder: Path, type_: str, *, without: Collection[str] = (), **config: Any) -> list[str]:
    """Write all types but some; the columns written."""
    frame = FRAME.drop(without)
    workflow = Workflow("types", base=folder)
    workflow.frame("rows", frame).to("out", type_, **config)
    run(workflow)
    return frame.columns[1:]


def same(found: pl.Series, expected: pl.Series) -> bool:
    """Equal in value and type; text, for what another library has as a dictionary, is text."""
    return found.dtype == expected.dtype and found.equals(expected, null_equal=True)


def test_what_sources_give_is_what_was_put_in(tmp_path):
    FRAME.write_parquet(tmp_path / "in.parquet")
    FRAME.write_ipc(tmp_path / "in.arrow")
    memory.put("put", FRAME)
    workflow = Workflow("types", base=tmp_path)
    workflow.frame("frame", FRAME).to("of_frame", "memory")
    workflow.source("put", "memory").to("of_memory", "memory")
    workflow.source("parquet", "file", path="in.parquet").to("of_parquet", "memory")
    workflow.source("arrow", "file", path="in.arrow").to("of_arrow", "memory")
    run(workflow)
    for name in ("of_frame", "of_memory", "of_parquet", "of_arrow"):
        got = memory.committed(name)
        wrong = [c for c in HELD.columns if c != "null" and not same(got[c], HELD[c])]
        assert (name, wrong) == (name, [])


KEYS = [name for name, dtype in HELD.schema.items() if not dtype.is_nested() and name != "id"]
TEXTS = (
    "bool",
    "int8",
    "int64",
    "uint64",
    "int128",
    "wide_decimal",
    "fraction",
    "date",
    "string",
    "enum",
)


def test_steps_keep_every_type(tmp_path):
    workflow = Workflow("types", base=tmp_path)
    rows = workflow.frame("rows", FRAME)
    kept = rows.filter("kept", "id > 0")
    kept.to("all", "memory")
    kept.map("texts", cast=dict.fromkeys(TEXTS, "string")).to("as_text", "memory")
    for name in KEYS:
        kept.deduplicate(f"one_{name}", key=[name]).to(f"first_{name}", "memory")
        kept.aggregate(f"n_{name}", group_by=[name], measures={"n": "count(*)"}).to(
            f"count_{name}", "memory"
        )
    run(workflow)
    assert [c for c in HELD.columns if not same(memory.committed("all")[c], HELD[c])] == [
        "null"
    ] or (memory.committed("all").equals(HELD))
    texts = memory.committed("as_text")
    for name in TEXTS:
        expected = [
            None if v is None else v if isinstance(v, str) else json.dumps(v)
            for v in COLUMNS[name][1]
        ]
        assert (name, texts[name].to_list()) == (name, expected)
    for name in KEYS:
        distinct = HELD[name].n_unique()
        assert (name, memory.committed(f"count_{name}").height) == (name, distinct)
        assert memory.committed(f"count_{name}")["n"].sum() == 3
        assert (name, memory.committed(f"first_{name}").height) == (name, distinct)


def test_ndjson_and_json(tmp_path):
    names = write(tmp_path, "file", path="out.ndjson")
    write(tmp_path, "file", path="out.json")
    for rows in (
        [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()],
        json.loads((tmp_path / "out.json").read_text()),
    ):
        for name in names:
            assert (name, [row[name] for row in rows]) == (name, COLUMNS[name][1])


def test_standard_output(tmp_path, capsys):
    names = write(tmp_path, "stdout", format="ndjson")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for name in names:
        assert (name, [row[name] for row in rows]) == (name, COLUMNS[name][1])
    write(tmp_path, "stdout", format="table")
    assert "+294247-01-10T04:00:54.775807" in capsys.readouterr().out


def test_csv(tmp_path):
    names = write(tmp_path, "file", path="out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in names:
        for row, value in zip(rows, COLUMNS[name][1], strict=True):
            text = row[name]
            match value:
                case None:
                    assert text in ("", "-inf")  # CSV has a word for infinity, JSON has none
                case str():
                    assert text == value
                case float():
                    assert float(text) == value
                case _:
                    assert json.loads(text) == value


def from_arrow(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def test_parquet(tmp_path):
    names = write(tmp_path, "file", path="out.parquet")
    got = from_arrow(pa.parquet.read_table(tmp_path / "out.parquet"))
    assert [name for name in names if name != "null" and not same(got[name], HELD[name])] == []
    counted = ", ".join(f'count("{name}")' for name in names)
    counts = duckdb.connect().execute(f"SELECT {counted} FROM '{tmp_path}/out.parquet'")
    assert list(counts.fetchall()[0]) == [3 - HELD[name].null_count() for name in names]


def test_arrow(tmp_path):
    names = write(tmp_path, "file", path="out.arrow")
    got = from_arrow(pa.ipc.open_file(tmp_path / "out.arrow").read_all())
    assert [name for name in names if name != "null" and not same(got[name], HELD[name])] == []


LITE_TEXT: dict[str, Callable[[Any], Any]] = {
    "bool": lambda v: None if v is None else int(v),
    "float64": lambda v: v,
    "span_us": lambda v: {"-PT0.000001S": -1, "P999999D": 999_999 * 86_400_000_000}.get(v),
    "span_ns": lambda v: None if v is None else (2**63 - 1) * (-1 if v[0] == "-" else 1),
    "binary": lambda v: {"AP8=": b"\x00\xff", "": b""}.get(v),
    "uint64": lambda v: v if v is None or v < 2**63 else str(v),
    "stamp_zone": lambda v: {
        "2024-03-31T03:00:00+02:00": "2024-03-31T01:00:00+00:00",
        "2024-10-27T02:00:00+01:00": "2024-10-27T01:00:00+00:00",
    }.get(v),
    "stamp_utc": lambda v: v and v.replace("Z", "+00:00"),
}


def lite(name: str, value: Any) -> Any:
    """A value as SQLite gives it, in the spelling of our JSON text."""
    if value is None or not isinstance(value, str):
        return value
    if name.startswith(("stamp", "far_stamp", "time")):
        text = value.replace(" ", "T")
        clock, plus, zone = text.partition("+") if text[0] != "+" else (text, "", "")
        if "." in clock:
            clock = clock.rstrip("0").rstrip(".")
        return clock + plus + zone
    return value


def test_sqlite(tmp_path):
    names = write(tmp_path, "sqlite", path="out.db", table="t")
    with sqlite3.connect(tmp_path / "out.db") as base:
        for name in names:
            found = [
                lite(name, value) for (value,) in base.execute(f"SELECT {name} FROM t ORDER BY id")
            ]
            if FRAME[name].dtype.is_nested():
                found = [None if value is None else json.loads(value) for value in found]
            expected = [LITE_TEXT.get(name, lambda v: v)(value) for value in COLUMNS[name][1]]
            if name in ("float32", "float64"):
                expected = [
                    None if v is None or v != v else v
                    for v in HELD[name].cast(pl.Float64).to_list()
                ]
            assert (name, found) == (name, expected)


DUCK_REFUSES = ("time_ns", "span_ns", "far_date", "far_stamp")


def test_duckdb(tmp_path):
    names = write(tmp_path, "duckdb", path="out.duckdb", table="t", without=DUCK_REFUSES)
    with duckdb.connect(str(tmp_path / "out.duckdb")) as base:
        rows = base.execute("SELECT * EXCLUDE (span_us) FROM t ORDER BY id")
        got = from_arrow(rows.to_arrow_table())
        spans = base.execute("SELECT epoch_us(span_us) FROM t ORDER BY id").fetchall()
    assert [us for (us,) in spans] == HELD["span_us"].to_physical().to_list()
    for name in names:
        if name not in ("null", "span_us"):
            assert (
                name,
                to_held_types(got.select(name))[name].cast(HELD[name].dtype).to_list(),
            ) == (
                (name, HELD[name].to_list())
                if name != "float32"
                else (name, pytest.approx(HELD[name].to_list(), nan_ok=True))
            )


@pytest.mark.parametrize("name", DUCK_REFUSES)
@pytest.mark.parametrize("policy", ["fail", "dead_letter"])
def test_what_duckdb_would_change_is_refused_by_name(tmp_path, name, policy):
    handling = {"error_handling": {"on_error": policy}}
    workflow = Workflow("types", base=tmp_path, settings=handling)
    workflow.frame("rows", FRAME.select("id", name)).to("out", "duckdb", path="o.duckdb", table="t")
    if policy == "fail":
        with pytest.raises(DataFlareError, match=name) as caught:
            run(workflow)
        assert caught.value.code == "E0511"
        return
    result = workflow.run()
    assert result.error is None
    refused = result.dead_letters["out"]
    with duckdb.connect(str(tmp_path / "o.duckdb")) as base:
        [(kept,)] = base.execute("SELECT count(*) FROM t").fetchall()
    assert refused >= 1
    assert kept + refused == 3


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    yield from services.running("postgres")


NUMBER: dict[str, Any] = dict.fromkeys(("decimal", "fraction"), Decimal)
PG_REFUSES = ("time_ns", "stamp_ns", "span_ns", "far_date", "far_stamp")


def test_postgres(tmp_path, server):
    config = {"connection_string": server.dsn(), "table": "t"}
    names = write(tmp_path, "postgres", without=PG_REFUSES, **config)
    with psycopg.connect(server.dsn()) as base:
        for name in names:
            rows = base.execute(f'SELECT to_json("{name}")::text FROM t ORDER BY id').fetchall()
            found = [
                None if v is None else json.loads(v, parse_float=NUMBER.get(name)) for (v,) in rows
            ]
            assert (name, found) == (
                name,
                [PG.get(name, lambda v: v)(v) for v in postgres_json(name)],
            )


@pytest.mark.parametrize("name", PG_REFUSES)
def test_what_postgres_has_no_place_for_is_refused_by_name(tmp_path, server, name):
    config = {"connection_string": server.dsn(), "table": name}
    with pytest.raises(DataFlareError, match=name) as caught:
        write(tmp_path, "postgres", without=[n for n in COLUMNS if n != name], **config)
    assert caught.value.code == "E0511"


PG: dict[str, Callable[[Any], Any]] = {
    "binary": lambda v: {"AP8=": "\\x00ff", "": "\\x"}.get(v),
    "stamp_utc": lambda v: v and v.replace("Z", "+00:00"),
    "stamp_zone": LITE_TEXT["stamp_zone"],
    "span_us": lambda v: {"-PT0.000001S": "-00:00:00.000001", "P999999D": "23999976:00:00"}.get(v),
    "float64": lambda v: "-Infinity" if v is None else v,
}


def postgres_json(name: str) -> list[Any]:
    """The values as to_json shows them: numbers are numbers, and NaN is text."""
    if FRAME[name].dtype.is_decimal() or "int128" in name:
        return [None if v is None else Decimal(v) for v in COLUMNS[name][1]]
    if name == "float32":
        return [3.4028235e38, "NaN", None]
    return COLUMNS[name][1]
