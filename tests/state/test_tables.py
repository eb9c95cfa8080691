"""The laws of tables: whatever is appended, frozen, stored, spilled, lost and restored, at any
parallelism, what comes out is what a plain model says."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.state import keyset as keyset_module
from dataflare.state import log as log_module
from dataflare.state import pieces as pieces_module
from dataflare.state.log import Log
from dataflare.state.pieces import (
    Chunk,
    Groups,
    Piece,
    groups_of,
    own_rows,
    owned_groups,
    owner_of,
    split_by_range,
)
from dataflare.state.tables import Tables, TableShare
from dataflare.testing.processors import InMemory

pytestmark = pytest.mark.rotates(2)

BOUNDED = settings(derandomize=True, deadline=None, max_examples=40)
ROW = st.tuples(
    st.none() | st.integers(0, 30), st.none() | st.sampled_from(["x", "y"]), st.integers(-9, 9)
)
BATCH = st.lists(ROW, min_size=1, max_size=25)
KEYS = ("k", "j")
Row = tuple[Any, ...]


class Counting(InMemory):
    """A storage that counts its calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def write(self, frame: pl.DataFrame, key_groups: Groups | None) -> Any:
        self.calls["write"] += 1
        return super().write(frame, key_groups)

    def read(self, chunk: Chunk) -> pl.DataFrame:
        self.calls["read"] += 1
        return super().read(chunk)

    def release(self, chunk: Chunk) -> None:
        self.calls["release"] += 1


def frame_of(rows: Sequence[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"k": pl.Int64, "j": pl.String, "v": pl.Int64}, orient="row")


def partial(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    measures = [
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("v").first().alias("first"),
        pl.col("v").last().alias("last"),
        pl.col("v").alias("all") if keys else pl.col("v").implode().alias("all"),
    ]
    return frame.group_by(keys).agg(measures) if keys else frame.select(measures)


def merged(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    measures = [
        pl.col("n").sum(),
        pl.col("first").first(),
        pl.col("last").last(),
        pl.col("all").explode() if keys else pl.col("all").explode().implode(),
    ]
    return frame.group_by(keys).agg(measures) if keys else frame.select(measures)


class Aggregated:
    """Partials in a log."""

    keys: tuple[str, ...] = KEYS

    def open(self, tables: Tables) -> Any:
        return tables.log("t", self.keys, lambda frame: merged(frame, self.keys))

    def feed(self, table: Any, frame: pl.DataFrame) -> list[Row]:
        table.append(partial(frame, self.keys))
        return []

    def results(self, table: Any) -> Iterator[list[Row]]:
        return (frame.rows() for frame in table.drain(7))

    def expected(self, rows: Sequence[Row]) -> list[Row]:
        return partial(frame_of(rows), self.keys).rows()


class Alone(Aggregated):
    """One aggregate over all rows."""

    keys = ()


class Distinct:
    """Rows whose key is seen for the first time."""

    keys = KEYS

    def open(self, tables: Tables) -> Any:
        return tables.keys("t", KEYS)

    def feed(self, table: Any, frame: pl.DataFrame) -> list[Row]:
        fresh = frame.unique(subset=KEYS, keep="first", maintain_order=True)
        fresh = fresh.filter(~table.contains(fresh))
        table.add(fresh.select(KEYS))
        return fresh.rows()

    def results(self, table: Any) -> Iterator[list[Row]]:
        return iter(())

    def expected(self, rows: Sequence[Row]) -> list[Row]:
        firsts: dict[Row, Row] = {}
        for row in rows:
            firsts.setdefault(row[:2], row)
        return list(firsts.values())


class Kept:
    """All rows, as they came."""

    keys = KEYS

    def open(self, tables: Tables) -> Any:
        return tables.rows("t", KEYS)

    def feed(self, table: Any, frame: pl.DataFrame) -> list[Row]:
        table.append(frame)
        return []

    def results(self, table: Any) -> Iterator[list[Row]]:
        return (frame.rows() for frame in table.drain(7))

    def expected(self, rows: Sequence[Row]) -> list[Row]:
        return list(rows)


KINDS = {"log": Aggregated(), "log without keys": Alone(), "keys": Distinct(), "rows": Kept()}


class Run:
    """All subtasks of a table through crashes. A batch is fed again after a crash when it came after the
    checkpoint."""

    def __init__(self, kind: Any, subtasks: int) -> None:
        self.kind, self.storage = kind, Counting()
        self.out: list[Row] = []
        self.batches: list[list[Row]] = []
        self.checkpoint: tuple[list[TableShare], int, int] = ([], 0, 0)
        self.frozen: tuple[list[Any], int, int] | None = None
        self._open(subtasks)

    def _open(self, subtasks: int) -> None:
        subtasks = subtasks if self.kind.keys else 1
        self.tables = [
            Tables(n, subtasks, storage=self.storage, shares=self.checkpoint[0])
            for n in range(subtasks)
        ]
        self.live = [self.kind.open(tables) for tables in self.tables]

    def feed(self, rows: list[Row]) -> None:
        self.batches.append(rows)
        for number, table in enumerate(self.live):
            mine = own_rows(frame_of(rows), self.kind.keys, number, len(self.live))
            if mine.height:
                self.out += self.kind.feed(table, mine)

    def freeze(self, _: int) -> None:
        self.frozen = (
            [tables.freeze() for tables in self.tables],
            len(self.batches),
            len(self.out),
        )

    def store(self, _: int) -> None:
        if self.frozen is not None:
            frozen, batches, out = self.frozen
            shares = [t.store(f) for t, f in zip(self.tables, frozen, strict=True)]
            self.checkpoint, self.frozen = (shares, batches, out), None

    def spill(self, bytes_max: int) -> None:
        for tables in self.tables:
            tables.spill(bytes_max)

    def crash(self, subtasks: int) -> None:
        _, batches, out = self.checkpoint
        again, self.batches = self.batches[batches:], self.batches[:batches]
        del self.out[out:]
        self.frozen = None
        self._open(subtasks)
        for rows in again:
            self.feed(rows)

    def finish(self, crash_at: int) -> list[Row]:
        """All rows that came out, with a crash after some of the results."""
        count = 0
        for number, table in enumerate(self.live):
            for rows in self.kind.results(table):
                self.out += rows
                count += 1
                if count == crash_at:
                    self._handed_out_until(number)
                    return self.out
        return self.out

    def _handed_out_until(self, number: int) -> None:
        self.freeze(0)
        self.store(0)
        self._open(len(self.live) + 1)
        for table in self.live:
            for rows in self.kind.results(table):
                self.out += rows


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), BATCH),
        st.tuples(st.sampled_from(["freeze", "store"]), st.just(0)),
        st.tuples(st.just("spill"), st.sampled_from([0, 1_000])),
        st.tuples(st.just("crash"), st.sampled_from([1, 2, 3, 5])),
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(
    params=[(200_000, 8, 50_000), (20, 2, 5), (1, 1, 1)], ids=["small", "split", "always split"]
)
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SMALL_ROWS", request.param[0])
    monkeypatch.setattr(log_module, "LOG_PARTIALS", request.param[1])
    monkeypatch.setattr(pieces_module, "SMALL_ROWS", request.param[2])
    monkeypatch.setattr(keyset_module, "RESTORED_ROWS", request.param[2])
    monkeypatch.setattr(keyset_module, "MERGED_RUNS", request.param[1])


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("name", KINDS)
def test_a_table_is_what_the_model_says(name: str) -> None:
    kind = KINDS[name]

    @given(EVENTS, st.sampled_from([1, 2, 3]), st.integers(0, 9))
    @BOUNDED
    def law(events: list[tuple[str, Any]], subtasks: int, crash_at: int) -> None:
        run = Run(kind, subtasks)
        for event, argument in events:
            getattr(run, event)(argument)
        rows = [row for batch in run.batches for row in batch]
        expected = kind.expected(rows) if rows else []
        assert sorted(run.finish(crash_at), key=repr) == sorted(expected, key=repr)

    law()


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("name", KINDS)
def test_what_is_stored_is_not_stored_again_also_after_a_restart(name: str) -> None:
    run = Run(KINDS[name], 2)
    for start in range(20):
        run.feed([(n % 50, "x", n) for n in range(start, start + 20)])
    run.freeze(0)
    run.store(0)
    before = run.storage.calls["write"]
    assert before
    run.freeze(0)
    run.store(0)
    run.crash(2)
    run.freeze(0)
    run.store(0)
    assert run.storage.calls["write"] == before


@pytest.mark.parametrize("name", KINDS)
def test_freezing_merges_writes_and_reads_nothing(name: str) -> None:
    run = Run(KINDS[name], 1)
    for start in range(5):
        run.feed([(n, "x", n) for n in range(start, start + 20)])
    held = list(run.live[0].pieces())
    run.freeze(0)
    assert run.frozen is not None
    assert [piece for each in run.frozen[0][0].runs["t"] for piece in each] == held
    assert not run.storage.calls


def test_what_was_merged_while_it_was_stored_takes_the_place_of_its_parts() -> None:
    run = Run(KINDS["log"], 1)
    for start in range(5):
        run.feed([(n, "x", n) for n in range(start, start + 20)])
    run.freeze(0)
    run.store(0)
    assert run.storage.calls == {"write": 1}
    assert len(run.live[0].pieces()) == 1


def test_a_rescale_reads_only_its_own_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "SMALL_ROWS", 100)
    for kind in ("log", "keys", "rows"):
        run = Run(KINDS[kind], 1)
        run.feed([(n, "x", n) for n in range(5_000)])
        run.freeze(0)
        run.store(0)
        written = run.storage.calls["write"]
        assert written == 16
        run.storage.calls.clear()
        run.crash(4)
        for table in run.live:
            list(run.kind.results(table))
        assert run.storage.calls["read"] <= written


@pytest.mark.parametrize("name", ["log", "keys", "rows"])
@pytest.mark.parametrize("parallelism", [(3, 2, 3), (2, 3, 1), (5, 2, 7, 3)])
def test_two_changes_of_the_parallelism_keep_each_row(
    name: str, parallelism: tuple[int, ...]
) -> None:
    kind = KINDS[name]
    run, number = Run(kind, parallelism[0]), itertools.count()
    for subtasks in parallelism[1:]:
        for _ in range(3):
            run.feed([(n, "x", next(number)) for n in range(100)])
        run.freeze(0)
        run.store(0)
        run.crash(subtasks)
    run.feed([(n, "x", next(number)) for n in range(100)])
    rows = [row for batch in run.batches for row in batch]
    assert sorted(run.finish(99), key=repr) == sorted(kind.expected(rows), key=repr)


def test_spilled_rows_leave_memory_and_are_there_for_the_next_checkpoint() -> None:
    run = Run(KINDS["rows"], 1)
    run.feed([(n, "x", n) for n in range(5_000)])
    tables = run.tables[0]
    assert tables.num_bytes() > 50_000
    tables.spill(1_000)
    assert tables.num_bytes() <= 1_000
    assert run.storage.calls["write"] == 1
    run.freeze(0)
    run.store(0)
    assert run.storage.calls["write"] == 1


def test_a_large_log_is_split_and_handed_out_range_by_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_module, "SMALL_ROWS", 100)
    log = Log(("k",), lambda frame: merged(frame, ("k",)), (0, 127))
    rows = [(n, "x", n) for n in range(2000)]
    for start in range(0, 2000, 50):
        log.append(partial(frame_of(rows[start : start + 50]), ("k",)))
    shares = list(log.drain(10_000))
    assert len(shares) == 16
    assert max(share.height for share in shares) < 250
    assert all(share["k"].is_sorted() for share in shares)
    assert sorted(pl.concat(shares)["k"]) == [n for n, _, _ in rows]


def test_nothing_appended_nothing_comes() -> None:
    log = Log(KEYS, lambda frame: merged(frame, KEYS), (0, 127))
    log.append(partial(frame_of([]), KEYS))
    assert (log.pieces(), list(log.drain(10)), log.is_empty) == ([], [], True)


def test_a_share_without_table_names_goes_to_the_first_table() -> None:
    """As versions wrote it that did not know tables."""
    storage = InMemory()
    chunk = storage.write(partial(frame_of([(1, "x", 5)]), KEYS), None)
    share = TableShare({"": [chunk]}, {"answered": True}, legacy=True)
    tables = Tables(storage=storage, shares=[share])
    log = tables.log("groups", KEYS, lambda frame: merged(frame, KEYS))
    assert tables.value("answered", False, any).value is True
    assert tables.rows("others").frames() == []
    (frame,) = log.drain(10)
    assert frame.rows() == [(1, "x", 1, 5, 5, [5])]


def test_frames_that_wait_are_shared_out_among_subtasks() -> None:
    storage, shares = InMemory(), []
    for number in range(3):
        chunk = storage.write(frame_of([(number, "x", number)]), None)
        shares.append(TableShare({"waiting": [chunk]}))
    for subtasks in (1, 2, 4):
        rows = [
            row
            for subtask in range(subtasks)
            for frame in Tables(subtask, subtasks, storage=storage, shares=shares)
            .queue("waiting")
            .drain_pieces()
            for row in frame.rows()
        ]
        assert sorted(rows) == [(0, "x", 0), (1, "x", 1), (2, "x", 2)]


def test_partials_of_a_share_stay_in_their_order() -> None:
    """A part that holds all key groups came before parts of single ranges."""
    storage = InMemory()
    first = storage.write(partial(frame_of([(1, "x", 1)]), KEYS), (0, 127))
    later = [
        storage.write(part, groups_of(number))
        for number, part in split_by_range(partial(frame_of([(1, "x", 2)]), KEYS), KEYS)
    ]
    share = TableShare({"t": [first, *later]})
    log = Aggregated().open(Tables(storage=storage, shares=[share]))
    assert [frame.rows() for frame in log.drain(10)] == [[(1, "x", 2, 1, 2, [1, 2])]]


def test_keys_with_and_without_null_in_one_chunk_are_all_known() -> None:
    storage = InMemory()
    keys = pl.DataFrame({"k": [1, None], "j": ["x", "y"]})
    share = TableShare({"t": [storage.write(keys, None)]})
    table = Tables(storage=storage, shares=[share]).keys("t", KEYS)
    probe = pl.DataFrame({"k": [1, None, None, 2], "j": ["x", "y", "x", "x"]})
    assert table.contains(probe).to_list() == [True, True, False, False]


@pytest.mark.parametrize("subtasks", [1, 2, 3, 7, 128])
def test_each_key_group_has_one_owner_and_shares_are_even(subtasks: int) -> None:
    groups = pl.DataFrame({"g": pl.int_range(128, dtype=pl.UInt8, eager=True)})
    owners = groups.select(owner_of(pl.col("g"), subtasks).alias("o"))["o"]
    assert owners.is_sorted()
    sizes = owners.value_counts()["count"].to_list()
    assert len(sizes) == subtasks
    assert max(sizes) - min(sizes) <= 1
    for subtask in range(subtasks):
        first, last = owned_groups(subtask, subtasks)
        assert owners[first : last + 1].to_list() == [subtask] * (last - first + 1)
        assert owners.to_list().count(subtask) == last - first + 1


def test_every_row_belongs_to_exactly_one_subtask() -> None:
    frame = pl.DataFrame({"k": [None, *range(500)]})
    parts = [own_rows(frame, ("k",), number, 3) for number in range(3)]
    assert sum(part.height for part in parts) == frame.height
    assert sorted(pl.concat(parts)["k"].drop_nulls()) == list(range(500))


def test_a_piece_is_stored_once_however_often_it_is_asked() -> None:
    storage, piece = Counting(), Piece(frame_of([(1, "x", 1)]), (0, 127))
    assert piece.store(storage, KEYS) == piece.store(storage, KEYS)
    assert storage.calls["write"] == 1
