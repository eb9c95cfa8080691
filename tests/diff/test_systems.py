"""`diff` between each two systems finds the differences that plain Python finds."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from servers.mariadb import MariaDbServer
from servers.postgres import PostgresServer
from tables import a_table, changed, differences, frame_of, write

from dataflare.jobs.diff import Diff, Options, diff, narrowing, sides
from dataflare.jobs.diff.partitions import Partitions

SYSTEMS = ("postgres", "sqlite", "duckdb", "parquet", "mariadb")
HASHING = ("postgres", "duckdb", "mariadb")
_numbers = itertools.count()


class Systems:
    """Places in each system. folder: of the files."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request, self.folder = request, folder

    def place(self, system: str, frame: pl.DataFrame) -> str:
        """A new table with these rows, as a side is written."""
        name = f"t{next(_numbers)}"
        type_, config, place = self._named(system, name)
        if frame.width:
            write(frame, type_, config, self.folder)
        return place

    def _named(self, system: str, name: str) -> tuple[str, dict[str, Any], str]:
        match system:
            case "parquet":
                path = str(self.folder / f"{name}.parquet")
                return "file", {"path": path}, path
            case "sqlite" | "duckdb":
                path = str(self.folder / f"data.{system}")
                return system, {"path": path, "table": name}, f"{path}#{name}"
        server = self._request.getfixturevalue(f"{system}_server")
        type_ = "mysql" if system == "mariadb" else system
        config = {"connection_string": server.dsn(), "table": name}
        return type_, config, f"{server.dsn()}#{name}"


@pytest.fixture
def systems(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systems]:
    return Systems(request, tmp_path)


def compare(left: str, right: str, **options: Any) -> Diff:
    both = sides(left, right, lambda _: pytest.fail("there is no file"))
    return diff(*both, Options(**{"key": ("id",), "limit": 10_000} | options))


def found_keys(found: Diff, kind: str) -> set[Any]:
    if not found.rows.width:
        return set()
    return set(found.rows.filter(pl.col("_diff") == kind)["id"])


@pytest.mark.rotates(5)
@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize(
    ("left", "right"), list(itertools.combinations_with_replacement(SYSTEMS, 2))
)
def test_the_differences_are_those_of_plain_sets(
    systems: Systems, left: str, right: str, floats: bool
) -> None:
    chance = random.Random(f"{left} {right} {floats}")
    ours = a_table(chance, 300, floats=floats)
    yours = changed(chance, ours, floats=floats)
    places = [
        systems.place(left, frame_of(ours, floats=floats)),
        systems.place(right, frame_of(yours, floats=floats)),
    ]
    found = compare(*places)
    only_left, only_right, different = differences(ours, yours)
    assert not found.columns
    assert (found.left_rows, found.right_rows) == (len(ours), len(yours))
    assert found_keys(found, "left") == only_left
    assert found_keys(found, "right") == only_right
    assert found_keys(found, "different") == different
    in_databases = (
        left in HASHING and right in HASHING and (not floats or left == right != "mariadb")
    )
    assert found.checksums == in_databases
    assert compare(places[0], places[0]).is_equal


@pytest.mark.parametrize("system", HASHING)
@pytest.mark.parametrize("key", ["id", "name"])
def test_rows_that_exchange_values_are_found_by_checksums(
    systems: Systems, system: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of the values of a column would be equal. Large buckets are divided, and few rows are read."""
    monkeypatch.setattr(narrowing, "_ROWS_READ", 20)
    monkeypatch.setattr(narrowing, "_BUCKETS", 16)
    read: list[int] = []
    add = Partitions.add
    monkeypatch.setattr(Partitions, "add", lambda s, f: (read.append(f.height), add(s, f))[1])
    left = pl.DataFrame(
        {"id": range(3_000), "name": [f"n{i}" for i in range(3_000)], "n": range(3_000)}
    )
    swapped = pl.when(pl.col("id") == 7).then(8).when(pl.col("id") == 8).then(7).otherwise("n")
    right = left.with_columns(swapped.alias("n").cast(pl.Int64))
    places = [systems.place(system, frame) for frame in (left, right)]
    found = compare(*places, key=(key,))
    assert found.checksums
    assert (found.different, found.only_left, found.only_right) == (2, 0, 0)
    assert dict(found.by_column) == {"n": 2}
    assert found.left_rows == 3_000
    assert sum(read) < 600
    read.clear()
    assert compare(places[0], places[0], key=(key,)).is_equal
    assert not read
    assert 0 < compare(places[0], places[0], key=(key,), sample=0.1).left_rows < 1_000


@pytest.mark.parametrize("system", HASHING)
def test_keys_that_are_null_or_there_twice(systems: Systems, system: str) -> None:
    rows = {"id": [1, 1, None, None, 2], "x": ["a", "b", "a", "a", None]}
    left = pl.DataFrame(rows)
    right = left.with_columns(pl.Series("x", ["b", "a", "a", "c", ""]))
    places = [systems.place(system, frame) for frame in (left, right)]
    found = compare(*places)
    assert found.checksums
    assert (found.different, found.only_left, found.only_right) == (2, 0, 0)
    assert set(found.rows["id"]) == {None, 2}
    assert compare(places[0], places[0]).is_equal


@pytest.mark.parametrize("left", SYSTEMS)
@pytest.mark.parametrize("right", ["sqlite", "postgres"])
def test_an_empty_table(systems: Systems, left: str, right: str) -> None:
    schema = {"id": pl.Int64, "x": pl.String}
    places = [systems.place(each, pl.DataFrame(schema=schema)) for each in (left, right)]
    full = systems.place(right, pl.DataFrame({"id": [1], "x": ["a"]}, schema=schema))
    assert compare(*places).is_equal
    assert compare(places[0], full).only_right == 1


def test_a_date_that_is_none_is_not_null(mariadb_server: MariaDbServer) -> None:
    """In MySQL `is null` is true for 0000-00-00 in a column that is not null."""
    with mariadb_server.client("test") as db, db.cursor() as cursor:
        cursor.execute("set sql_mode = ''")
        for name, day in (("zero", "'0000-00-00'"), ("none", "null")):
            cursor.execute(
                f"create or replace table {name} (id int primary key, day date {'' if name == 'none' else 'not null'})"
            )
            cursor.execute(f"insert into {name} values (1, {day})")
        db.commit()
    found = compare(*(f"{mariadb_server.dsn()}#{name}" for name in ("zero", "none")))
    assert not found.is_equal
    assert sum(each.rows for each in found.unread["left"].values()) == 1


def test_infinite_and_early_times_are_not_taken_for_others(postgres_server: PostgresServer) -> None:
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as db:
        db.execute("create table times_a (id int primary key, at timestamp, day date)")
        db.execute("create table times_b (id int primary key, at timestamp, day text)")
        db.execute("insert into times_a values (1, '0044-03-15 BC', '0044-03-15 BC')")
        db.execute(
            "create table times_c as select id, '0044-03-15'::timestamp as at, day from times_a"
        )
    dsn = postgres_server.dsn()
    assert compare(f"{dsn}#times_a", f"{dsn}#times_c").by_column == {"at": 1}
    found = compare(f"{dsn}#times_a", f"{dsn}#times_b")
    assert [each.name for each in found.columns] == ["day"]
    assert not found.is_equal


def test_differing_rows_are_read_again_until_they_are_equal(
    postgres_server: PostgresServer,
) -> None:
    dsn, reads = postgres_server.dsn(), []
    with psycopg.connect(dsn, autocommit=True) as db:
        for name in ("flight_a", "flight_b"):
            db.execute(f"create table {name} (id int primary key, x int)")
        db.execute("insert into flight_a select g, g from generate_series(1, 100) g")
        db.execute("insert into flight_b select g, g from generate_series(1, 98) g")

        def begin() -> Any:
            """At each reading one more row has arrived."""
            reads.append(1)
            if len(reads) > 1:
                db.execute("insert into flight_b select max(id) + 1, max(id) + 1 from flight_b")
            return lambda frame: None

        found = compare(f"{dsn}#flight_a", f"{dsn}#flight_b", wait_s=60.0, into=begin)
    assert found.is_equal
    assert found.reads == len(reads) == 3
