"""Transactions that the server sends in pieces while they run."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from cdc_kit import source
from pieces_kit import NOISE, send_in_pieces, streamed
from postgres_kit import Database

from dataflare.connectors.postgres.cdc.uncommitted import Uncommitted
from dataflare.connectors.postgres.cdc.wire import Received, Replication, lsn_of
from dataflare.errors import SystemError_
from dataflare.model.batch import KIND_COLUMN
from dataflare.model.progress import Position
from dataflare.sdk.source import EndOfSplit
from dataflare.state import scratch

CDC = {"slot": "s", "publication": "p", "snapshot": "never", "stop": "latest", "metadata": ["ts", "lsn", "txid"]}  # fmt: skip


@pytest.fixture
def shop(logical: Database) -> Database:
    send_in_pieces(logical)
    (logical.folder / "shop").mkdir()
    logical.execute(
        "create table t (id int primary key, x text)",
        "create table u (id int primary key, y int)",
        "create publication p for table t, u",
        "select pg_create_logical_replication_slot('s', 'pgoutput')",
    )
    return logical


@pytest.fixture
def writers(shop: Database) -> Iterator[list[psycopg.Connection[Any]]]:
    """Three, each with a transaction."""
    opened = [psycopg.connect(shop.dsn) for _ in range(3)]
    yield opened
    for each in opened:
        each.close()


def write(writer: psycopg.Connection[Any], *statements: str) -> None:
    """Each in a piece of its own."""
    for statement in statements:
        writer.execute(statement)
        writer.execute(NOISE)


async def read(
    database: Database, rows_max: int = 1_000, position: Position | None = None, *,
    positions: list[Position] | None = None, **config: Any,
) -> list[Any]:  # fmt: skip
    """The batches of what is there, behind a position. positions: gets the position behind each."""
    made = source(database, **{"table": "t", "cdc": CDC} | config)
    await made.schema()
    [split] = await made.splits(None)
    reader, batches = await made.open(split, position), []
    try:
        while True:
            batch = await reader.read_batch(rows_max)
            if batch.num_rows:
                batches.append(batch)
                if positions is not None:
                    positions.append(Position(json.loads(json.dumps(reader.position().to_json()))))
    except EndOfSplit:
        return batches
    finally:
        await reader.aclose()
        await made.aclose()


def changes(database: Database, **config: Any) -> list[tuple[Any, ...]]:
    """Of `t`: kind, id and value."""
    found = []
    for batch in asyncio.run(read(database, **config)):
        found += batch.frame.select(KIND_COLUMN, "id", "x").rows()
    return found


def as_version_1(database: Database, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """What the log of the slot has, as the other version gives it."""
    with monkeypatch.context() as patch:
        patch.setattr(Replication, "can_send_pieces", False)
        return pl.concat(batch.frame for batch in asyncio.run(read(database)))


def in_pieces(database: Database) -> pl.DataFrame:
    return pl.concat(batch.frame for batch in asyncio.run(read(database)))


def test_what_was_rolled_back_gives_nothing(
    shop: Database, writers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = writers
    write(first, "insert into t values (1, 'a'), (2, 'b')", "update t set x = 'c' where id = 1")
    first.execute("savepoint one")
    write(first, "insert into t values (3, 'gone')")
    first.execute("savepoint two")
    write(first, "insert into t values (4, 'gone')")
    first.execute("release two")
    write(first, "delete from t where id = 2")
    first.execute("rollback to one")
    write(first, "insert into t values (3, 'kept')")
    first.execute("savepoint three")
    write(first, "update t set id = 5 where id = 2")
    first.execute("release three")
    write(second, "insert into t values (100, 'gone')")
    second.rollback()
    write(second, "insert into t values (101, 'second')")
    second.commit()
    first.commit()
    found = in_pieces(shop)

    assert found.select(KIND_COLUMN, "id", "x").rows() == [
        (0, 101, "second"), (0, 1, "a"), (0, 2, "b"), (2, 1, "c"), (0, 3, "kept"), (3, 2, None), (0, 5, "b"),
    ]  # fmt: skip
    assert streamed(shop)[0] >= 2
    assert found.equals(as_version_1(shop, monkeypatch))


def test_transactions_that_run_at_the_same_time_come_in_the_order_of_their_commits(
    shop: Database, writers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(30):
        for number, writer in enumerate(writers):
            write(writer, f"insert into t values ({100 * number + at}, '{number}')")
        shop.execute(f"insert into t values ({1_000 + at}, 'small')")
    for number in (2, 0, 1):
        writers[number].commit()
        shop.execute(f"update t set x = 'seen' where id = {100 * number}")
    found = in_pieces(shop)

    order = [
        "small" if x == "seen" else x for x in found["x"].rle().struct.field("value").to_list()
    ]
    assert order == ["small", "2", "small", "0", "small", "1", "small"]
    assert found.height == 30 * 4 + 3
    assert streamed(shop)[0] == 3
    assert found.equals(as_version_1(shop, monkeypatch))


def test_tables_that_are_truncated_altered_and_changed_in_a_piece(
    shop: Database, writers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = writers
    shop.execute("insert into t values (1, 'a'), (2, 'b')")
    write(
        first,
        "update t set id = 3 where id = 1",
        "truncate t",
        "alter table t add column z int",
        "insert into t values (4, 'd', 5)",
    )
    first.execute("savepoint one")
    write(first, "alter table t drop column x", "insert into t values (6, 7)")
    first.execute("rollback to one")
    write(first, "insert into t values (8, 'e', 9)")
    write(second, "insert into u values (1, 1)")
    shop.execute("insert into u values (2, 2)")
    first.commit()
    second.commit()
    shop.execute("insert into t values (10, 'f', 11)")

    assert changes(shop, cdc={**CDC, "metadata": []}) == [
        (0, 1, "a"), (0, 2, "b"), (3, 1, None), (0, 3, "a"), (4, None, None), (0, 4, "d"), (0, 8, "e"), (0, 10, "f"),
    ]  # fmt: skip
    assert streamed(shop)[0] == 2


def test_no_checkpoint_is_cut_inside_a_transaction_that_came_in_pieces(
    shop: Database, writers: list[Any]
) -> None:
    for at in range(20):
        write(writers[0], f"insert into t select n, 'x' from generate_series({10 * at}, {10 * at + 9}) n")  # fmt: skip
    writers[0].commit()
    batches = asyncio.run(read(shop, 8))

    assert sum(batch.num_rows for batch in batches) == 200
    assert all(batch.num_rows <= 8 for batch in batches)
    assert [batch.may_cut for batch in batches] == [*[False] * (len(batches) - 1), True]


def test_a_reader_goes_on_at_each_of_its_positions(shop: Database, writers: list[Any]) -> None:
    for at in range(12):
        for number, writer in enumerate(writers):
            write(writer, f"insert into t values ({100 * number + at}, '{number}')")
    for number in (2, 0, 1):
        writers[number].commit()
        shop.execute(f"insert into t values ({1_000 + number}, 'small')")
    positions: list[Position] = []
    batches = asyncio.run(read(shop, 6, positions=positions))
    all_ids = [id_ for batch in batches for id_ in batch.frame["id"]]
    assert len(all_ids) == 3 * 12 + 3

    given, cuts = 0, 0
    for batch, position in zip(batches, positions, strict=True):
        given += batch.num_rows
        if batch.may_cut:
            rest = asyncio.run(read(shop, 6, position))
            assert [id_ for each in rest for id_ in each.frame["id"]] == all_ids[given:]
            cuts += 1
    assert cuts > 1


def files_in(folder: Path) -> list[str]:
    """Those that this process has open, with or without a name."""
    found = []
    for each in os.scandir("/proc/self/fd"):
        try:
            found.append(os.readlink(each.path))
        except FileNotFoundError:  # that of this look
            continue
    return [path for path in found if path.startswith(f"{folder}/")]


def test_a_run_goes_on_at_a_checkpoint_beside_a_transaction_that_runs(
    shop: Database, writers: list[Any]
) -> None:
    running, undone, _ = writers
    live = {"table": "t", "cdc": {"slot": "s", "publication": "p", "snapshot": "never"}}
    folder = shop.folder / "shop"

    def confirmed() -> int:
        [(lsn,)] = shop.rows("select confirmed_flush_lsn::text from pg_replication_slots")
        return lsn_of(lsn)

    async def follow(position: Position | None, numbers: range) -> tuple[Position, list[int]]:
        made = source(shop, **live)
        await made.schema()
        [split] = await made.splits(None)
        reader, found = await made.open(split, position), []
        try:
            for number in numbers:
                write(running, f"insert into t values ({1_000 + number}, 'running')")
                write(undone, f"insert into t values ({2_000 + number}, 'undone')")
                shop.execute(f"insert into t values ({number}, 'small')")
                while number not in found:
                    batch = await reader.read_batch(100)
                    found += batch.frame["id"].to_list()
                    assert batch.may_cut
                before = confirmed()
                position = Position(reader.position().to_json())
                await made.committed({split.id: position})
                lsn = lsn_of(position.to_json()["lsn"])
                while confirmed() < lsn:
                    await asyncio.to_thread(reader._replication.tell)
                assert before < confirmed() == lsn
            assert len(files_in(folder)) == 2
        finally:
            await reader.aclose()
            await made.aclose()
        assert files_in(folder) == []
        assert position is not None
        return position, found

    position, first = asyncio.run(follow(None, range(1, 4)))
    position, second = asyncio.run(follow(position, range(4, 7)))
    assert first + second == [1, 2, 3, 4, 5, 6]
    undone.rollback()
    running.commit()
    shop.execute("insert into t values (7, 'last')")

    async def rest() -> list[int]:
        made = source(shop, **live)
        await made.schema()
        [split] = await made.splits(None)
        reader, found = await made.open(split, position), []
        while 7 not in found:
            found += (await reader.read_batch(100)).frame["id"].to_list()
        assert files_in(folder) == []
        await reader.aclose()
        await made.aclose()
        return found

    assert asyncio.run(rest()) == [1_001, 1_002, 1_003, 1_004, 1_005, 1_006, 7]
    assert list(folder.iterdir()) == []


MEASURED = """\
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import EndOfSplit

def peak():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

async def main(dsn, folder, rows):
    class_ = registry.source("postgres")
    cdc = {"slot": "s", "publication": "p", "snapshot": "never", "stop": "latest"}
    context = ConnectorContext("in", Path(folder), folder=Path(folder) / "shop")
    made = class_(class_.Config(connection_string=dsn, table="t", cdc=cdc), context)
    await made.schema()
    [split] = await made.splits(None)
    reader, total, number, before = await made.open(split, None), 0, 0, 0
    try:
        while True:
            batch = await reader.read_batch(2_000)
            total, number = total + int(batch.frame["id"].sum()), number + batch.num_rows
    except EndOfSplit:
        pass
    print(number, total, peak())
    await reader.aclose()
    await made.aclose()

asyncio.run(main(*sys.argv[1:4]))
"""


def test_memory_does_not_grow_with_a_transaction_that_comes_in_pieces(shop: Database) -> None:
    def measured(rows: int) -> tuple[int, int, int]:
        shop.execute(
            f"insert into t select n, rpad(n::text, 500, 'x') from generate_series(1, {rows}) n"
        )
        output = subprocess.run(
            [sys.executable, "-c", MEASURED, shop.dsn, str(shop.folder), str(rows)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        shop.execute(
            "truncate t",
            "select pg_replication_slot_advance('s', pg_current_wal_flush_lsn())",
        )
        number, total, peak = map(int, output.split())
        return number, total, peak

    few, many = 10_000, 300_000
    small, large = measured(few), measured(many)

    assert small[:2] == (few, few * (few + 1) // 2)
    assert large[:2] == (many, many * (many + 1) // 2)
    assert streamed(shop)[1] > 100
    # All messages are 160 MB and more.
    assert large[2] - small[2] < 80_000_000


def message(tag: bytes, content: bytes = b"", lsn: int = 1) -> bytes:
    return struct.pack(">cQQq", b"w", lsn, lsn, 0) + tag + content


def described(text: str, part: int | None = None) -> bytes:
    number = b"" if part is None else struct.pack(">I", part)
    return message(b"R", number + struct.pack(">I", 7) + text.encode())


def begun(number: int, *, is_first: bool = True) -> bytes:
    return message(b"S", struct.pack(">IB", number, is_first))


def committed(number: int) -> bytes:
    return message(b"c", struct.pack(">IBQQq", number, 0, 50, 60, 0))


def received(*messages: bytes) -> Received:
    found = Received()
    found.messages = list(messages)
    return found


def given(uncommitted: Uncommitted) -> list[bytes]:
    found = []
    while uncommitted.has_more:
        found += uncommitted.take()
    return [each[25:26] + each[30:] if each[25:26] == b"R" else each[25:26] for each in found]


@pytest.mark.parametrize(
    ("order", "after"),
    [
        (["general", "own"], []),
        (["own", "general"], [b"Rgeneral"]),
        (["own", "general", "own again"], []),
        (["own again", "general", "undone"], [b"Rgeneral"]),
    ],
)
def test_a_table_is_as_it_was_described_last(
    tmp_path: Path, order: list[str], after: list[bytes]
) -> None:
    uncommitted = Uncommitted(tmp_path)
    uncommitted.add(received(begun(1), message(b"E")))
    for text in order:
        if text == "general":
            uncommitted.add(received(described(text)))
        else:
            part = 2 if text == "undone" else 1
            uncommitted.add(
                received(begun(1, is_first=False), described(text, part), message(b"E"))
            )
    uncommitted.add(received(message(b"A", struct.pack(">II", 1, 2)), committed(1)))
    own = [b"R" + text.encode() for text in order if text.startswith("own")]
    assert given(uncommitted) == [
        *([b"Rgeneral"] if "general" in order else []), b"B", *own, b"C", *after,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([committed(1)], "its end without its beginning"),
        ([begun(1, is_first=False)], "a piece without its beginning"),
        ([begun(1), message(b"E"), begun(1)], "its beginning a second time"),
    ],
)
def test_what_cannot_be_is_no_row(tmp_path: Path, messages: list[bytes], what: str) -> None:
    with pytest.raises(SystemError_, match=what):
        Uncommitted(tmp_path).add(received(*messages))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, uncommitted = Path("/dev/full").open("r+b", buffering=0), Uncommitted(tmp_path)  # noqa: SIM115
    monkeypatch.setattr(scratch.tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(SystemError_, match="not committed yet cannot be kept: disk full") as raised:
        uncommitted.add(received(begun(1), described("own", 1)))
    assert raised.value.code == "E0603"
    full.close()
