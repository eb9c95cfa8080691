"""A row is the same whether it is read from the table or from the log."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from binlog_kit import Follower
from mysql_kit import Database, run
from polars.testing import assert_frame_equal

from dataflare.model.batch import KIND_COLUMN, RowKind

Values = Callable[[random.Random], str]


def quoted(text: str) -> str:
    return f"_utf8mb4 x'{text.encode().hex()}'"


def whole(low: int, high: int) -> Values:
    def value(rng: random.Random) -> str:
        return str(rng.choice([low, high, 0 if low <= 0 else low, rng.randint(low, high)]))

    return value


def digits(before: int, after: int) -> Values:
    def value(rng: random.Random) -> str:
        first = "".join(rng.choices("0123456789", k=rng.randint(0, before))) or "0"
        last = "".join(rng.choices("0123456789", k=after))
        return f"{rng.choice(['', '-'])}{first}{'.' if after else ''}{last}"

    return value


def text(alphabet: str, most: int) -> Values:
    def value(rng: random.Random) -> str:
        return quoted(
            "".join(rng.choices(alphabet, k=rng.choice([0, 1, rng.randint(0, most), most])))
        )

    return value


def blob(most: int) -> Values:
    def value(rng: random.Random) -> str:
        head = rng.randbytes(rng.choice([0, rng.randint(0, most)]))
        return f"x'{(head + bytes(rng.choice([0, 0, 2])))[:most].hex()}'"

    return value


def one_of(*values: str) -> Values:
    return lambda rng: rng.choice(values)


def moment(first: int, last: int, digits: int) -> Values:
    def value(rng: random.Random) -> str:
        second = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
        tail = f".{rng.randint(0, 10**digits - 1):0{digits}}" if digits else ""
        return f"'{rng.randint(first, last):04}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02} {second}{tail}'"

    return value


def clock(digits: int) -> Values:
    def value(rng: random.Random) -> str:
        return (
            moment(2000, 2000, digits)(rng).replace("'2000-", "'")[0]
            + moment(2000, 2000, digits)(rng)[12:]
        )

    return value


def real(rng: random.Random) -> str:
    return repr(
        rng.choice(
            [
                0.0,
                -0.0,
                1.5,
                rng.uniform(-1e6, 1e6),
                rng.uniform(-1, 1) * 10.0 ** rng.randint(-30, 30),
            ]
        )
    )


LATIN, WIDE = "abcxyz äöüß€", "abc äß€中文😀"
COLUMNS: dict[str, tuple[str, Values]] = {
    "bool": ("tinyint(1)", one_of("0", "1")),
    "tiny": ("tinyint", whole(-128, 127)),
    "tinyu": ("tinyint unsigned", whole(0, 255)),
    "small": ("smallint", whole(-32768, 32767)),
    "medium": ("mediumint", whole(-(2**23), 2**23 - 1)),
    "mediumu": ("mediumint unsigned zerofill", whole(0, 2**24 - 1)),
    "plain": ("int", whole(-(2**31), 2**31 - 1)),
    "plainu": ("int unsigned", whole(0, 2**32 - 1)),
    "large": ("bigint", whole(-(2**63), 2**63 - 1)),
    "largeu": ("bigint unsigned", whole(0, 2**64 - 1)),
    "single": ("float", real),
    "twice": ("double", real),
    "fixed": ("double(10,2)", one_of("1.25", "-12345678.12")),
    "money": ("decimal(10,2)", digits(8, 2)),
    "wide": ("decimal(38,9)", digits(29, 9)),
    "wider": ("decimal(65,30)", digits(35, 30)),
    "round": ("decimal(65,0)", digits(65, 0)),
    "part": ("decimal(9,9)", digits(0, 9)),
    "positive": ("decimal(20,4) unsigned", one_of("0", "1.5", "9999999999999999.9999")),
    "bit1": ("bit(1)", one_of("0", "1")),
    "bit9": ("bit(9)", whole(0, 511)),
    "bit64": ("bit(64)", whole(0, 2**64 - 1)),
    "day": ("date", one_of("'1000-01-01'", "'9999-12-31'", "'2024-02-29'", "'1969-12-31'")),
    "at": ("datetime", moment(1000, 9999, 0)),
    "at3": ("datetime(3)", moment(1000, 9999, 3)),
    "at6": ("datetime(6)", moment(1000, 9999, 6)),
    "stamp": ("timestamp null", moment(1971, 2037, 0)),
    "stamp1": ("timestamp(1) null", moment(1971, 2037, 1)),
    "stamp6": ("timestamp(6) null", moment(1971, 2037, 6)),
    "hour": ("time", clock(0)),
    "hour2": ("time(2)", clock(2)),
    "hour3": ("time(3)", clock(3)),
    "hour6": ("time(6)", clock(6)),
    "since": ("year", one_of("1901", "2155", "0", "2026")),
    "letter": ("char(7)", text(WIDE, 7)),
    "name": ("varchar(40)", text(WIDE, 40)),
    "longer": ("varchar(300)", text(WIDE, 300)),
    "ascii": ("varchar(20) character set ascii", text("abc xyz", 20)),
    "latin": ("varchar(20) character set latin1", text(LATIN, 20)),
    "greek": ("varchar(20) character set greek", text("abcαβγ", 20)),
    "latintext": ("text character set latin1", text(LATIN, 400)),
    "old": ("varchar(20) character set utf8mb3", text("abc äß€中", 20)),
    "sorted": ("varchar(20) collate utf8mb4_bin", text(WIDE, 20)),
    "note": ("text", text(WIDE, 700)),
    "packed": ("varchar(300) compressed", text(WIDE, 300)),
    "packednote": ("mediumtext compressed", text(WIDE, 700)),
    "packedlatin": ("text compressed character set latin1", text(LATIN, 400)),
    "packedbytes": ("blob compressed", blob(2000)),
    "novel": ("longtext", text(WIDE, 3000)),
    "same": ("binary(6)", blob(6)),
    "bytes": ("varbinary(300)", blob(300)),
    "data": ("blob", blob(2000)),
    "size": ("enum('small','it''s','gr\u00f6\u00dfe')", one_of("1", "2", "3")),
    "tags": ("set('a','b','c','d','e','f','g','h','i','j')", whole(0, 1023)),
    "json": ("json", one_of("'[]'", "'{\"a\": [1, null]}'", quoted('"ä"'))),
    "virtual": ("int as (plain div 2) virtual", one_of("default")),
    "stored": ("int as (plain div 2) stored", one_of("default")),
}  # fmt: skip


def row(rng: random.Random, number: int) -> str:
    values = [
        value(rng) if declared.endswith(("virtual", "stored")) or rng.random() > 0.15 else "null"
        for declared, value in COLUMNS.values()
    ]
    return f"({number}, {', '.join(values)})"


def create(plain: Database) -> None:
    columns = ", ".join(f"`{name}` {declared}" for name, (declared, _) in COLUMNS.items())
    plain.execute(f"create table t (id int primary key, {columns}) character set utf8mb4")


@pytest.mark.parametrize("seed", range(2))
def test_a_value_of_each_type_is_the_same_from_the_table_and_from_the_log(
    plain: Database, seed: int
) -> None:
    create(plain)
    rng = random.Random(seed)

    async def check() -> None:
        follower = Follower(plain, "t", cdc={"snapshot": "never"})
        assert await follower.read() == []
        rows = ", ".join(row(rng, number) for number in range(60))
        plain.execute(f"insert into t values {rows}")
        before = await table(plain)
        assert_same(await follower_frame(follower, RowKind.INSERT), before)
        plain.execute(*(f"replace into t values {row(rng, number)}" for number in range(0, 60, 7)))
        after = await table(plain)
        changed = after.filter(pl.col("id") % 7 == 0)
        first, last = await halves(follower)
        assert_same(first, before.filter(pl.col("id") % 7 == 0))
        assert_same(last, changed)
        plain.execute("delete from t")
        assert_same(await follower_frame(follower, RowKind.DELETE), after)

    run(check())


async def table(plain: Database) -> pl.DataFrame:
    found, _ = await plain.read(table="t")
    return found.sort("id")


async def changes(follower: Follower) -> pl.DataFrame:
    source = follower.source()
    schema = (await source.schema()).to_polars()
    found = await follower.read()
    return pl.DataFrame(found, schema={KIND_COLUMN: pl.UInt8, **schema}, orient="row")


async def follower_frame(follower: Follower, kind: RowKind) -> pl.DataFrame:
    found = await changes(follower)
    assert set(found[KIND_COLUMN]) == {kind.value}
    return found.drop(KIND_COLUMN).sort("id")


async def halves(follower: Follower) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What went and what came."""
    found = await changes(follower)
    goes = found[KIND_COLUMN].is_in([RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value])
    went, came = found.filter(goes), found.filter(~goes)
    return went.drop(KIND_COLUMN).sort("id"), came.drop(KIND_COLUMN).sort("id")


def assert_same(actual: Any, expected: Any) -> None:
    assert_frame_equal(actual, expected, check_exact=True)


def test_an_update_has_the_values_of_both_halves(plain: Database) -> None:
    create(plain)
    rng = random.Random(7)

    async def check() -> None:
        follower = Follower(plain, "t")
        plain.execute(f"insert into t values {', '.join(row(rng, n) for n in range(20))}")
        await follower.read()
        before = await table(plain)
        for name, (declared, value) in COLUMNS.items():
            if not declared.endswith(("virtual", "stored")):
                plain.execute(
                    f"update t set `{name}` = {value(rng)} where id % 3 = {len(name) % 3}"
                )
        found = await follower.read()
        there = {line[0]: line for line in before.rows()}
        for first, last in zip(found[::2], found[1::2], strict=True):
            assert (first[0], last[0]) == (RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER)
            assert there[first[1]] == first[1:]
            there[first[1]] = last[1:]
        assert [there[number] for number in range(20)] == (await table(plain)).rows()

    run(check())


UNFIT = {
    "bool": ("tinyint(1)", "5"), "day": ("date", "'0000-00-00'"), "month": ("date", "'2024-00-10'"),
    "at": ("datetime(2)", "'0000-00-00 00:00:00'"), "stamp": ("timestamp null", "'0000-00-00 00:00:00'"),
    "hour": ("time(1)", "'-25:00:00.5'"), "long": ("time", "'838:59:59'"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_a_value_that_does_not_fit_is_the_row_error_of_a_full_read(
    plain: Database, name: str
) -> None:
    declared, value = UNFIT[name]
    plain.execute(f"create table t (id int primary key, v {declared})")

    async def check() -> None:
        follower = Follower(plain, "t", cdc={"snapshot": "never"})
        await follower.read()
        with plain.server.client(plain.name) as db, db.cursor() as cursor:
            cursor.execute("set sql_mode = 'ALLOW_INVALID_DATES'")
            cursor.execute(f"insert into t values (1, null), (2, {value}), (3, null)")
            cursor.execute("update t set id = 4 where id = 2")
            cursor.execute("update t set v = null where id = 4")
        full = await bad_rows(plain.source(table="t"), None)
        assert full == []
        source = follower.source()
        await source.schema()
        [split] = await source.splits(follower.carried)
        reader = await source.open(split, None)
        batch = await reader.read_batch(100)
        await reader.aclose()
        kinds, rows = batch.frame[KIND_COLUMN].to_list(), batch.frame.drop(KIND_COLUMN).rows()
        # The row that did not fit comes when it fits.
        assert [*zip(kinds, rows, strict=True)] == [(0, (1, None)), (0, (3, None)), (0, (4, None))]
        assert batch.row_numbers.to_list() == [0, 2, 4]
        assert [each.row for each in batch.bad] == [1, 3]
        with plain.server.client(plain.name) as db, db.cursor() as cursor:
            cursor.execute("set sql_mode = 'ALLOW_INVALID_DATES'")
            cursor.execute(f"update t set v = {value} where id = 4")
        [told] = await bad_rows(plain.source(table="t"), None)
        assert [each.message for each in batch.bad] == [told.message.partition(";")[0]] * 2

    run(check())


async def bad_rows(source: Any, position: Any) -> list[Any]:
    await source.schema()
    [split] = await source.splits()
    reader = await source.open(split, position)
    batch = await reader.read_batch(100)
    await reader.aclose()
    return list(batch.bad)
