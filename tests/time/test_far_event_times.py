"""Times from the year 1 to the year 9999 and durations as long: no arithmetic wraps, and what is further away is a row
that fails."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare import Workflow, load
from dataflare.engine.clocks import Drift, SplitClock
from dataflare.engine.segments import Outcome
from dataflare.errors import DataFlareError
from dataflare.expr import check
from dataflare.model.event_time import FIRST_US, LAST_US, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.model.progress import Watermark
from dataflare.model.types import Schema
from dataflare.model.units import DURATION_MAX_US
from dataflare.operators.base import ERROR_COLUMN, Lowering
from dataflare.operators.deduplicate_within import DeduplicateWithin
from dataflare.operators.join_interval import IntervalJoin
from dataflare.operators.join_pairs import Pairing, Reach
from dataflare.operators.join_shape import join_shape
from dataflare.operators.stamp import OUT_OF_YEARS, WITHOUT_TIME, Stamp
from dataflare.operators.window_grid import Grid
from dataflare.state.tables import Tables

EDGES = [FIRST_US, FIRST_US + 1, -1, 0, LAST_US - 1, LAST_US]
times = st.sampled_from(EDGES) | st.integers(FIRST_US, LAST_US)
spans = st.sampled_from([0, 1, DURATION_MAX_US]) | st.integers(0, DURATION_MAX_US)
PER_SECOND = {"ms": 10**3, "us": 10**6, "ns": 10**9}


def stamp(type_: str, late_us: int = 0) -> Stamp:
    time = check("at", Schema.of({"at": type_}))
    return Stamp("s", "at", time, late_us, None, None, None, True)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@settings(max_examples=60, deadline=None)
@given(
    ticks=st.lists(
        st.none() | st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-3, 3), max_size=9
    ),
    near=st.sampled_from(["none", "first", "last"]),
)
def test_a_row_has_its_exact_time_or_a_fault(unit: str, ticks: list[int | None], near: str) -> None:
    rate = PER_SECOND[unit]
    base = {"none": 0, "first": FIRST_US, "last": LAST_US}[near] * rate // 10**6
    ticks = [t if t is None or abs(t) > 3 or abs(base) > 2**62 else t + base for t in ticks]
    at = pl.Series("at", ticks, dtype=pl.Int64).cast(pl.Datetime(unit))  # type: ignore[arg-type]
    frame = stamp(f"timestamp[{unit}]").lower(pl.LazyFrame({"at": at}), Lowering()).collect()
    for tick, time, error in zip(ticks, frame[TIME_COLUMN], frame[ERROR_COLUMN], strict=True):
        exact = None if tick is None else tick * 10**6 // rate
        if exact is None:
            assert error % 256 == WITHOUT_TIME
        elif not FIRST_US <= exact <= LAST_US:
            assert error % 256 == OUT_OF_YEARS
        else:
            assert (time, error) == (exact, None)


@given(days=st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-9, 9), max_size=9))
def test_dates_of_any_year(days: list[int]) -> None:
    at = pl.Series("at", days, dtype=pl.Int32).cast(pl.Date)
    frame = stamp("date").lower(pl.LazyFrame({"at": at}), Lowering()).collect()
    for day, time, error in zip(days, frame[TIME_COLUMN], frame[ERROR_COLUMN], strict=True):
        exact = day * 86_400 * 10**6
        is_in = FIRST_US <= exact <= LAST_US
        assert (time, error) == (exact, None) if is_in else error % 256 == OUT_OF_YEARS


@given(time=times, late=spans, told=st.integers(-(2**70), 2**70))
def test_watermarks_before_and_after_all_years(time: int, late: int, told: int) -> None:
    clock = SplitClock(stamp("timestamp[us]", late), Drift(), "reader")
    clock.begin(None)
    rows = pl.DataFrame({TIME_COLUMN: [time, time], WATERMARK_COLUMN: [None, time]})
    outcome = Outcome(frames=[(0, rows.cast(pl.Int64))], event_time_us=time)
    clock.advance(clock.lift(outcome))
    first, second = outcome.frames[0][1][WATERMARK_COLUMN]
    assert first < FIRST_US - DURATION_MAX_US
    assert second == clock.watermark_us == time - late
    clock.advance(clock.at_least(time, Watermark(told)))
    clock.lift(outcome)
    assert clock.watermark_us == max(time - late, min(max(told, FIRST_US), LAST_US + 1))


@settings(max_examples=200, deadline=None)
@given(
    at=st.lists(times, min_size=1, max_size=5),
    size=st.integers(1, DURATION_MAX_US),
    parts=st.integers(1, 5),
    offset=spans,
)
def test_panes_and_windows(at: list[int], size: int, parts: int, offset: int) -> None:
    slide = max(1, size // parts)
    grid = Grid(size, slide, offset)
    panes = pl.DataFrame({"at": at}).with_columns(grid.pane_of(pl.col("at")).alias("pane"))
    ends = panes.with_columns(
        grid.first_end(pl.col("pane")).alias("first"),
        grid.last_end(pl.col("pane")).alias("last"),
        grid.next_end(pl.col("at")).alias("next"),
    )
    for time, pane, first, last, after in ends.rows():
        starts = range((time - offset - size) // slide + 1, (time - offset) // slide + 1)
        expected = [each * slide + offset + size for each in starts]
        assert pane == (time - offset) // grid.pane * grid.pane + offset
        assert (first, last) == (expected[0], expected[-1])
        assert after == grid.end_after(time) > time >= after - slide


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), before=spans, after=spans)
def test_pairs_of_a_join_by_time(seed: int, before: int, after: int) -> None:
    random, reach = Random(seed), Reach(before, after)
    left, right = ({"k": pl.Int64(), "a": pl.Int64()}, {"k": pl.Int64(), "b": pl.Int64()})
    shape = join_shape(
        "j", "full", {"k": "k"}, Schema.from_polars(left), Schema.from_polars(right), None
    )
    live = IntervalJoin("j", Pairing(shape, reach, True), ("k",)).open(Tables())
    sides: list[list[tuple[int, int, int]]] = []
    for _ in range(2):
        near = [random.choice(EDGES), random.randint(FIRST_US, LAST_US)]
        near += [t + d for t in near for d in (before, -before, after, -after)]
        near = [min(max(t + random.choice((-1, 0, 1)), FIRST_US), LAST_US) for t in near]
        sides.append([(random.randint(0, 2), n, t) for n, t in enumerate(near)])
    found: list[pl.DataFrame] = []
    for port, (rows, name) in enumerate(zip(sides, "ab", strict=True)):
        frame = pl.DataFrame(rows, schema=["k", name, TIME_COLUMN], orient="row")
        frame = frame.with_columns(pl.lit(FIRST_US - DURATION_MAX_US).alias(WATERMARK_COLUMN))
        found += live.process(port, frame)  # type: ignore[arg-type]
    for time in (FIRST_US - DURATION_MAX_US, 0, LAST_US + 1):
        found += live.watermark(time)  # type: ignore[arg-type]
    for port in (0, 1):
        found += live.end(port)  # type: ignore[arg-type]
    expected: list[tuple[Any, ...]] = [
        (k, a, b)
        for k, a, t in sides[0]
        for other, b, u in sides[1]
        if k == other and -before <= u - t <= after
    ]
    alone = [{pair[place] for pair in expected} for place in (1, 2)]
    expected += [(k, a, None) for k, a, _ in sides[0] if a not in alone[0]]
    expected += [(k, None, b) for k, b, _ in sides[1] if b not in alone[1]]
    rows_found = [row for frame in found for row in frame.select("k", "a", "b").rows()]
    assert sorted(rows_found, key=repr) == sorted(expected, key=repr)


@settings(max_examples=60, deadline=None)
@given(at=st.lists(times, min_size=1, max_size=9, unique=True), within=spans)
def test_rows_that_stay_within_a_time(at: list[int], within: int) -> None:
    operator = DeduplicateWithin("d", ("k",), within, Schema.of({"k": "int64"}), True)
    live = operator.open(Tables())
    frame = pl.DataFrame({"k": [1] * len(at), TIME_COLUMN: at})
    frame = frame.with_columns(pl.lit(FIRST_US - DURATION_MAX_US).alias(WATERMARK_COLUMN))
    found = [*live.process(0, frame), *live.watermark(0), *live.end(0)]
    staying: list[int] = []
    for time in sorted(at):
        if not staying or time > staying[-1] + within:
            staying.append(time)
    assert sorted(t for f in found for t in f[TIME_COLUMN]) == staying  # type: ignore[union-attr]


def test_rows_that_are_out_of_all_years_follow_error_handling() -> None:
    rows = [{"n": 1, "at": 0}, {"n": 2, "at": 6 * 10**14}, {"n": 3, "at": -(10**14)}]
    for policy in ("skip", "fail"):
        wf = Workflow("far", settings={"mode": "streaming"})
        source = wf.source(
            "s",
            "inline",
            rows=rows,
            event_time={"column": "epoch_ms(at)", "max_future": None},
            error_handling={"on_error": policy},
        )
        size = {"kind": "tumbling", "size": "1h", "measures": {"n": "sum(n)"}}
        source.process("w", "window", config=size).to("out", "memory")
        if policy == "skip":
            result = wf.run()
            assert result.frame("out")["n"].to_list() == [1]
            assert result.errors == {"s": 2}
        else:
            with pytest.raises(DataFlareError) as caught:
                wf.run()
            assert caught.value.code == "E0552"


def test_a_duration_that_is_too_long_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "far.yaml"
    text = (
        "name: far\nsources:\n  s:\n    type: inline\n    config: {rows: [{at: '2026-01-01T00:00:00Z'}]}\n"
        "    event_time: {column: at, out_of_orderness: 99999999d}\ndestinations:\n  out: {type: stdout, inputs: [s]}\n"
    )
    file.write_text(text)
    with pytest.raises(DataFlareError) as caught:
        load(file)
    shown = str(caught.value.render() if hasattr(caught.value, "render") else caught.value)
    assert caught.value.code == "E0105"
    assert "out_of_orderness" in shown
    assert "3652059d" in shown + str(caught.value.notes)
