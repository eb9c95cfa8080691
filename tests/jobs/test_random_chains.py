"""Random tables go from DuckDB through another system and back: equal, or the run is refused with a code.

The judge is DuckDB's own client: it makes the first table and compares it with the last.
"""

from __future__ import annotations

import datetime as dt
import sys
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers import postgres as servers
from servers import services

from dataflare import RunOptions, load, run

TEXT = st.sampled_from(["", " ", "NULL", "null", "007", "1e5", "true", "2024-01-31", "a,b", 'q"q', "x\ny", "\r\n", "\\N", "é€😀"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=6
)  # fmt: skip
TIMES = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31))


def _whole(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.sampled_from([low, high, 0]) | st.integers(low, high)


def _decimal(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**precision - 1
    return (st.sampled_from([most, -most, 1]) | st.integers(-most, most)).map(
        lambda digits: Decimal(f"{digits}E-{scale}")
    )


COLUMNS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "bool": ("BOOLEAN", st.booleans()),
    "int8": ("TINYINT", _whole(8)),
    "int16": ("SMALLINT", _whole(16)),
    "int32": ("INTEGER", _whole(32)),
    "int64": ("BIGINT", _whole(64)),
    "uint8": ("UTINYINT", _whole(8, signed=False)),
    "uint32": ("UINTEGER", _whole(32, signed=False)),
    "uint64": ("UBIGINT", _whole(64, signed=False)),
    "float32": ("FLOAT", st.floats(width=32, allow_nan=False, allow_infinity=False)),
    "float64": ("DOUBLE", st.floats(allow_nan=False, allow_infinity=False)),
    "decimal(9, 3)": ("DECIMAL(9, 3)", _decimal(9, 3)),
    "decimal(38, 10)": ("DECIMAL(38, 10)", _decimal(38, 10)),
    "string": ("VARCHAR", TEXT),
    "binary": ("BLOB", st.binary(max_size=6)),
    "date": ("DATE", st.dates()),
    "time": ("TIME", st.times()),
    "timestamp[us]": ("TIMESTAMP", TIMES),
    "timestamp[us, UTC]": ("TIMESTAMPTZ", TIMES.map(lambda t: t.replace(tzinfo=dt.UTC))),
    "list<int64>": ("BIGINT[]", st.lists(st.none() | _whole(64), max_size=3)),
    "list<string>": ("VARCHAR[]", st.lists(st.none() | TEXT, max_size=3)),
}  # fmt: skip
KEY = ("string", "UUID", st.uuids(version=4))
MEDIA = {
    "sqlite": "type: sqlite, config: {path: m.sqlite, table: m",
    "parquet": "type: file, config: {path: m.parquet",
    "arrow": "type: file, config: {path: m.arrow",
    "ndjson": "type: file, config: {path: m.ndjson",
    "csv": "type: file, config: {path: m.csv",
    "postgres": "type: postgres, config: {connection_string: 'DSN', table: m",
}


@pytest.fixture(scope="session")
def server() -> Iterator[servers.PostgresServer]:
    yield from services.running("postgres")


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[tuple[Any, ...]]]:
    types = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=6, unique=True))
    row = st.tuples(KEY[2], *(st.none() | COLUMNS[type_][1] for type_ in types))
    return types, draw(st.lists(row, min_size=1, max_size=5, unique_by=lambda each: each[0]))


def moved(folder: Path, name: str, source: str, schema: str, destination: str) -> str | None:
    """The code that the run was refused with."""
    text = (
        f"name: {name}\nsources:\n  s: {{{source}}}{schema}}}\n"
        f"destinations:\n  d: {{{destination}, mode: overwrite}}, inputs: [s]}}\n"
    )
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    error = run(load(folder / f"{name}.yaml"), RunOptions(home=folder / "home", fresh=True)).error
    return None if error is None else error.code


@pytest.mark.parametrize("medium", MEDIA)
def test_a_table_comes_back_as_it_was_or_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, medium: str
) -> None:
    through = MEDIA[medium]
    if medium == "postgres":
        through = through.replace("DSN", request.getfixturevalue("server").dsn("postgres"))
    refusals: list[str] = []

    @settings(
        max_examples=5, phases=[Phase.generate], deadline=None, derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip
    @given(tables())
    def law(table: tuple[list[str], list[tuple[Any, ...]]]) -> None:
        types, rows = table
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        middle = through.replace("table: m", f"table: m_{folder.name}")
        names = [f"c{number}" for number in range(len(types))]
        columns = ", ".join(f"{n} {COLUMNS[t][0]}" for n, t in zip(names, types, strict=True))
        with duckdb.connect(str(folder / "a.db")) as db:
            db.execute(f"create table t (id UUID, {columns})")
            marks = ", ".join("?" * (len(types) + 1))
            db.executemany(f"insert into t values ({marks})", rows)
        described = ", ".join(f'{n}: "{t}"' for n, t in zip(names, types, strict=True))
        schema = "" if medium in ("parquet", "arrow") else f", schema: {{id: string, {described}}}"
        duck = "type: duckdb, config: {path: %s.db, table: t"
        code = moved(folder, "there", duck % "a", "", middle) or moved(
            folder, "back", middle, schema, duck % "b"
        )
        if code is not None:
            assert code.startswith("E05"), code
            refusals.append(code)
            return
        with duckdb.connect(str(folder / "b.db")) as db:
            db.execute(f"attach '{folder / 'a.db'}' as a")
            (count,) = db.execute("select count(*) from t").fetchone() or (None,)
            assert count == len(rows)
            for name, type_ in zip(names, types, strict=True):
                wrong = db.execute(
                    f"select a.{name}, b.{name} from a.t a join t b on a.id::VARCHAR = b.id "
                    f"where a.{name} is distinct from cast(b.{name} as {COLUMNS[type_][0]})"
                ).fetchall()
                assert wrong == [], (type_, wrong)

    law()
    assert len(refusals) < 5, refusals
