"""The newest row of each key against a plain dict: in memory, spilled, through crashes and changes of parallelism."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optional_packages import package

from dataflare.errors import SystemError_
from dataflare.state import compaction
from dataflare.state import log as log_module
from dataflare.state import pieces as pieces_module
from dataflare.state.compaction import credit_after, merges
from dataflare.state.pieces import own_rows
from dataflare.state.points import PointStores, point_stores, rows_as_bytes, rows_of_bytes
from dataflare.state.tables import Tables
from dataflare.testing.processors import InMemory

pytestmark = pytest.mark.rotates(2)

BOUNDED = settings(derandomize=True, deadline=None, max_examples=40)
FEW = settings(derandomize=True, deadline=None, max_examples=8)
KEY = st.tuples(st.none() | st.integers(0, 20), st.none() | st.sampled_from(["x", "y"]))
SCHEMA = {"k": pl.Int64, "j": pl.String, "v": pl.Int64, "f": pl.Float64}
EVENT = st.lists(KEY, min_size=1, max_size=15, unique=True) | st.sampled_from(
    ["store", "spill", 1, 2, 3]
)


def rows_of(keys: list[Any], first: int) -> pl.DataFrame:
    rows = [(*key, first + n, -0.0 if n % 2 else 0.5) for n, key in enumerate(keys)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


@pytest.fixture(
    params=[(200_000, 8, 50_000), (10, 2, 3), (1, 1, 1)], ids=["small", "split", "each"]
)
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SMALL_ROWS", request.param[0])
    monkeypatch.setattr(log_module, "LOG_PARTIALS", request.param[1])
    monkeypatch.setattr(log_module, "LARGE_ROWS", request.param[0])
    monkeypatch.setattr(pieces_module, "SMALL_ROWS", request.param[2])
    monkeypatch.setattr(compaction, "TIER", max(2, request.param[1]))


def stores_of(backend: str, folder: Path) -> PointStores | None:
    if backend == "rocksdb":
        package("rocksdict")
    return point_stores(backend, folder, 1 << 20)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("backend", ["memory", "sqlite", "rocksdb"])
def test_the_newest_row_of_each_key_is_found(backend: str, tmp_path: Path) -> None:
    points = stores_of(backend, tmp_path)

    @given(st.lists(EVENT, max_size=25))
    @(BOUNDED if backend == "memory" else FEW)
    def law(events: list[Any]) -> None:
        storage, known, number = InMemory(), {}, 0
        tables = [Tables(storage=storage, points=points)]
        live = [each.newest("t", ("k", "j")) for each in tables]
        for event in events:
            if event == "spill":
                for each in tables:
                    each.spill(0)
            elif not isinstance(event, list):
                shares = [each.store(each.freeze()) for each in tables]
                if event == "store":
                    continue
                for each in tables:
                    each.close()
                tables = [
                    Tables(n, event, storage=storage, shares=shares, points=points)
                    for n in range(event)
                ]
                live = [each.newest("t", ("k", "j")) for each in tables]
            else:
                rows = rows_of(event, number)
                number += len(event)
                for n, each in enumerate(live):
                    mine = own_rows(rows, ("k", "j"), n, len(live))
                    if not mine.height:
                        continue
                    found = each.find(mine.select("k", "j"))
                    wanted = {k: known[k] for k in mine.select("k", "j").rows() if k in known}
                    got = [] if found is None else found.rows()
                    assert len(got) == len(wanted)
                    assert {row[:2]: repr(row[2:]) for row in got} == wanted
                    each.put(mine)
                known |= {row[:2]: repr(row[2:]) for row in rows.rows()}
        for each in tables:
            each.close()
        assert not list(tmp_path.iterdir())

    law()


VALUES = {
    "i": (pl.Int64, [2**63 - 1, -(2**63), None]),
    "u": (pl.UInt64, [2**64 - 1, 0, None]),
    "wide": (pl.Int128, [2**100, -1, None]),
    "f": (pl.Float64, [-0.0, float("inf"), 5e-324]),
    "g": (pl.Float32, [0.1, None, -0.0]),
    "d": (pl.Decimal(38, 9), [Decimal("1.000000001"), Decimal("-12345678901234567890.5"), None]),
    "s": (pl.String, ["", "é\U0001f600", None]),
    "b": (pl.Binary, [b"", b"\x00\xff", None]),
    "t": (pl.Datetime("us"), [datetime(1, 1, 1), datetime(9999, 12, 31), None]),
    "day": (pl.Date, [date(1, 1, 1), date(9999, 12, 31), None]),
    "clock": (pl.Time, [time(23, 59, 59, 999999), time(0), None]),
    "span": (pl.Duration("us"), [timedelta(microseconds=-1), timedelta(days=99999), None]),
    "flag": (pl.Boolean, [True, False, None]),
    "kind": (pl.Enum(["x", "y"]), ["x", None, "y"]),
    "l": (pl.List(pl.Decimal(20, 2)), [[Decimal("0.10"), None], [], None]),
    "n": (
        pl.Struct({"a": pl.Int64, "b": pl.List(pl.Float64)}),
        [{"a": 1, "b": [-0.0, None]}, {"a": None, "b": None}, None],
    ),
}


def test_rows_come_back_from_their_bytes_exactly() -> None:
    frame = pl.DataFrame([pl.Series(n, values, dtype=t) for n, (t, values) in VALUES.items()])
    frame = frame.with_columns(zoned=pl.col("t").dt.replace_time_zone("UTC"))
    back = rows_of_bytes(rows_as_bytes(frame), frame.schema)
    assert back.schema == frame.schema
    assert repr(back.rows()) == repr(frame.rows())


@pytest.mark.parametrize("backend", ["sqlite", "rocksdb"])
def test_a_folder_that_cannot_be_written_is_named(backend: str, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("not a folder")
    stores = stores_of(backend, place)
    assert stores is not None
    with pytest.raises(SystemError_, match=f"state cannot be kept in {place}") as caught:
        stores()
    assert caught.value.help is not None
    assert "settings.state.path" in caught.value.help
    assert place.read_text() == "not a folder"


def test_stores_of_a_process_that_was_killed_are_removed_and_others_stay(tmp_path: Path) -> None:
    stores = stores_of("rocksdb", tmp_path)
    assert stores is not None
    living = stores()
    code = (
        "import os, sys, pathlib; from dataflare.state.points import point_stores;"
        "store = point_stores('rocksdb', pathlib.Path(sys.argv[1]), 1 << 20)();"
        "store.put([b'k'], [b'v']); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (tmp_path / "dataflare-rocksdb-of-a-user").mkdir()
    assert len(list(tmp_path.iterdir())) == 3
    stores_of("rocksdb", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    living.put([b"k"], [b"w"])
    assert living.get([b"k", b"l"]) == [b"w", None]
    living.close()
    assert [path.name for path in tmp_path.iterdir()] == ["dataflare-rocksdb-of-a-user"]


def test_a_damaged_store_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    stores = stores_of("rocksdb", tmp_path)
    assert stores is not None
    store = stores()
    keys = [b"%08d" % number for number in range(200_000)]
    for start in range(0, len(keys), 20_000):
        store.put(keys[start : start + 20_000], [b"value" * 20] * 20_000)
    tables = [*tmp_path.glob("*/db/*.sst")]
    assert tables, "RocksDB writes a table file when its buffers are full"
    for path in tables:
        path.write_bytes(b"damaged" * 1000)
    with pytest.raises(SystemError_, match=str(tmp_path)):
        store.get(keys)
    store.close()


@given(
    st.dictionaries(st.integers(0, 15), st.lists(st.integers(1, 100), max_size=40)),
    st.floats(0, 5_000),
)
@BOUNDED
def test_merges_are_paid_from_the_credit(rows: dict[int, list[int]], credit: float) -> None:
    chosen = merges(rows, credit)
    assert sum(each.rows for each in chosen) <= credit
    assert len({each.range for each in chosen}) == len(chosen)
    for each in chosen:
        assert len(rows[each.range]) - each.first >= 2


def test_with_a_hundredth_changed_few_rows_are_written_at_each_checkpoint() -> None:
    """16 ranges of a million rows; between two checkpoints each gets ten thousand."""
    rows = {number: [1_000_000] for number in range(16)}
    credit, written, longest = 0.0, [], 0
    for _ in range(400):
        for each in rows.values():
            each.append(10_000)
        credit = credit_after(credit, 160_000, rows)
        wrote = 160_000
        for merge in merges(rows, credit):
            credit -= merge.rows
            merged = rows[merge.range][merge.first :]
            whole = merge.first == 0
            rows[merge.range][merge.first :] = [1_000_000 if whole else sum(merged)]
            wrote += rows[merge.range][-1]
        written.append(wrote / 16_000_000)
        longest = max(longest, *map(len, rows.values()))
    assert sorted(written)[200] <= 0.03
    assert max(written) <= 0.1
    assert longest < 80
