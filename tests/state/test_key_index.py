"""The index against a plain dict, and the set of keys against a plain set."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optional_packages import package

from dataflare.model.hashing import hash_columns
from dataflare.state import hash_pages as hash_pages_module
from dataflare.state import index as index_module
from dataflare.state import key_hashes as key_hashes_module
from dataflare.state import keyset as keyset_module
from dataflare.state import pieces as pieces_module
from dataflare.state.index import KeyIndex
from dataflare.state.keyset import KeySet
from dataflare.state.points import point_stores
from dataflare.state.tables import Tables
from dataflare.testing.processors import InMemory

pytestmark = pytest.mark.rotates(3)

BOUNDED = settings(derandomize=True, deadline=None, max_examples=60)
SOME = settings(derandomize=True, deadline=None, max_examples=25)
FEW = settings(derandomize=True, deadline=None, max_examples=6)
DENSE = st.integers(-5, 20)
SPARSE = st.sampled_from([0, 1, -1, 2**40, -(2**40), 2**63 - 1, -(2**63), 12345678901])
TEXT = st.sampled_from(["", "a", "b", "ab", "é", "a" * 50])
FLOAT = st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")])
KINDS = {
    "dense": (DENSE, pl.Int64),
    "sparse": (SPARSE, pl.Int64),
    "text": (TEXT, pl.String),
    "float": (FLOAT, pl.Float64),
}


def frame_of(rows: list[tuple[Any, ...]], dtypes: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            f"k{i}": pl.Series([row[i] for row in rows], dtype=dtype)
            for i, dtype in enumerate(dtypes)
        }
    )


def canonical(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple("nan" if value != value else value for value in row)


def firsts(rows: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], int]:
    found: dict[tuple[Any, ...], int] = {}
    for place, row in enumerate(rows):
        if None not in row:
            found.setdefault(canonical(row), place)
    return found


@st.composite
def tables(
    draw: Any, rows_min: int = 0
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[Any]]:
    """rows_min: so many different rows at least, of two columns and more and mostly without NULL."""
    columns_min = 2 if rows_min else 1
    kinds = [
        KINDS[k]
        for k in draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=columns_min, max_size=3))
    ]
    row = st.tuples(*(st.none() | values for values, _ in kinds))
    rows = draw(st.lists(row, max_size=40))
    whole = st.tuples(*(values for values, _ in kinds))
    rows += draw(st.lists(whole, min_size=rows_min, max_size=40, unique=True)) if rows_min else []
    probe = draw(st.lists(st.one_of(row, *([st.sampled_from(rows)] if rows else [])), max_size=40))
    return rows, probe, [dtype for _, dtype in kinds]


def check(rows: list[tuple[Any, ...]], probe: list[tuple[Any, ...]], dtypes: list[Any]) -> None:
    table, asked = frame_of(rows, dtypes), frame_of(probe, dtypes)
    index = KeyIndex(table, table.columns)
    found = index.rows([asked[name] for name in table.columns])
    known = firsts(rows)
    assert found.dtype == pl.UInt32
    assert found.to_list() == [known.get(canonical(row)) for row in probe]
    counts: dict[tuple[Any, ...], int] = {}
    for row in rows:
        counts[canonical(row)] = counts.get(canonical(row), 0) + 1
    many = index.has_many(found).to_list()
    for place, row, answer in zip(found, probe, many, strict=True):
        if place is not None:
            assert answer == (counts[canonical(row)] > 1)
    repeated = any(n > 1 and None not in row for row, n in counts.items())
    assert index.many_keys == repeated


@given(tables())
@BOUNDED
def test_an_index_is_a_dict(drawn):
    check(*drawn)


@given(tables(rows_min=8))
@BOUNDED
def test_an_index_is_a_dict_when_hashes_collide(drawn):
    def poor(frame: pl.LazyFrame, columns: Any, name: str, **more: Any) -> pl.LazyFrame:
        """Two bits of the hash, far apart."""
        hashed = hash_columns(frame, columns, name, **more)
        return hashed.with_columns((pl.col(name) // 2**63) * 2**63 + pl.col(name) % 2)

    with mock.patch.object(index_module, "hash_columns", poor):
        check(*drawn)


WIDTHS = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("asked", WIDTHS)
@pytest.mark.parametrize("held", WIDTHS)
def test_equal_integers_of_all_widths_match(held: Any, asked: Any, sparse: bool):
    values = [1, 2, 100]
    more = {"m": pl.Series([0, 0, 0])} if sparse else {}
    table = pl.DataFrame({"k": pl.Series(values, dtype=held), **more})
    index = KeyIndex(table, list(table.columns))
    probe = [pl.Series([100, 3, 1, None], dtype=asked)]
    probe += [pl.Series([0, 0, 0, 0])] if sparse else []
    assert index.rows(probe).to_list() == [2, None, 0, None]


@pytest.mark.parametrize("values", [[-1, 5], [-1, 5, 2**62]])
def test_a_great_unsigned_number_is_not_a_negative_one(values: list[int]):
    index = KeyIndex(pl.DataFrame({"k": values}), ["k"])
    probe = pl.Series([2**64 - 1, 5], dtype=pl.UInt64)
    assert index.rows([probe]).to_list() == [None, 1]
    unsigned = KeyIndex(pl.DataFrame({"k": pl.Series([2**64 - 1, 5], dtype=pl.UInt64)}), ["k"])
    assert unsigned.rows([pl.Series([-1, 5])]).to_list() == [None, 1]


def test_an_empty_table_finds_nothing():
    table = pl.DataFrame({"k": pl.Series([None, None], dtype=pl.String)})
    index = KeyIndex(table, ["k"])
    found = index.rows([pl.Series(["a", None])])
    assert found.to_list() == [None, None]
    assert (index.size, index.many_keys) == (0, False)
    assert index.has_many(found).len() == 2


def test_a_large_table_of_sparse_keys():
    keys = pl.int_range(50_000, eager=True) * 7_919_000_003
    index = KeyIndex(pl.DataFrame({"k": keys}), ["k"])
    assert index.rows([keys.reverse()]).to_list() == list(range(49_999, -1, -1))
    assert index.rows([keys + 1]).null_count() == 50_000


def poor(frame: pl.LazyFrame, columns: Any, name: str, **more: Any) -> pl.LazyFrame:
    """Two bits of the hash, far apart."""
    hashed = hash_columns(frame, columns, name, **more)
    return hashed.with_columns((pl.col(name) // 2**63) * 2**63 + pl.col(name) % 2)


def same(row: tuple[Any, ...]) -> str:
    """Equal for equal keys."""
    return repr(
        canonical(
            tuple(0.0 if value == 0.0 and isinstance(value, float) else value for value in row)
        )
    )


KEY_COLUMNS = {
    "one integer": [(SPARSE, pl.Int64)],
    "one text": [(TEXT, pl.String)],
    "one float": [(FLOAT, pl.Float64)],
    "two": [(DENSE, pl.Int64), (TEXT, pl.String)],
    "a list": [(st.lists(DENSE, max_size=2), pl.List(pl.Int64))],
    "a boolean": [(st.booleans(), pl.Boolean)],
}


@pytest.mark.parametrize("backend", ["memory", "collide", "sqlite", "rocksdb"])
@pytest.mark.parametrize("kind", KEY_COLUMNS)
def test_a_key_set_is_a_set_with_null_as_a_value(
    kind: str, backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In memory and on disk, also through a crash."""
    monkeypatch.setattr(keyset_module, "RESTORED_ROWS", 5)
    monkeypatch.setattr(keyset_module, "MERGED_RUNS", 2)
    monkeypatch.setattr(pieces_module, "SMALL_ROWS", 3)
    monkeypatch.setattr(hash_pages_module, "PAGE", 2)
    if backend == "rocksdb":
        package("rocksdict")
    points = point_stores(backend, tmp_path, 1 << 20)
    if backend == "collide" and kind not in (
        "one integer",
        "a boolean",
    ):  # a poor hash tells these no more
        monkeypatch.setattr(key_hashes_module, "hash_columns", poor)
        monkeypatch.setattr(pieces_module, "hash_columns", poor)
    columns = KEY_COLUMNS[kind]
    row = st.tuples(*(st.none() | values for values, _ in columns))
    events = st.lists(st.lists(row, max_size=12) | st.sampled_from(["spill", "crash"]), max_size=12)

    @given(events)
    @(SOME if points is None else FEW)
    def law(events: list[Any]) -> None:
        storage, names = InMemory(), [f"k{n}" for n in range(len(columns))]
        tables, known = Tables(storage=storage, points=points), set()
        held = tables.keys("t", names)
        for event in events:
            if event == "spill":
                tables.spill(0)
                continue
            if event == "crash":
                share = tables.store(tables.freeze())
                tables.close()
                tables = Tables(storage=storage, shares=[share], points=points)
                held = tables.keys("t", names)
                continue
            rows = list({same(each): each for each in event}.values())
            frame = frame_of(rows, [dtype for _, dtype in columns])
            contained = held.contains(frame)
            wanted = [same(each) in known for each in rows]
            assert contained.to_list() == wanted
            held.add(frame.filter(~contained))
            known |= {same(each) for each in rows}
        pieces = held.pieces() if isinstance(held, KeySet) else held.log.pieces()
        frames = [piece.frame(storage) for piece in pieces]
        tables.close()
        rows = [same(each) for frame in frames for each in frame.iter_rows()]
        assert {*rows} == known

    law()


def test_a_key_set_has_few_pieces():
    held = KeySet(("k",), (0, 127))
    held.add(pl.DataFrame({"k": pl.Series([None], dtype=pl.Int64)}))
    for start in range(0, 3000, 100):
        held.add(pl.DataFrame({"k": [*range(start, start + 100)]}))
    assert len(held.pieces()) < 10
    assert held.index_bytes > 3000
