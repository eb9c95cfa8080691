"""Run a segment tree over a batch: each segment one lazy query, split where the plan branches.

Always true: a row with a fault leaves the batch at the end of the query it failed in, and what
happens to it is decided by the step's `on_error`, never by the operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import polars as pl
from msgspec import Struct, field

from dataflare.engine.asked_tables import AskedTable
from dataflare.engine.metrics import JobMetrics, LeftOut, TaskMetrics
from dataflare.engine.pool import INLINE_ROWS
from dataflare.engine.row_errors import RowErrors
from dataflare.errors import DataError
from dataflare.model.batch import KIND_COLUMN
from dataflare.model.event_time import TIME_COLUMN, TIME_COLUMNS
from dataflare.model.types import Schema
from dataflare.operators.base import ERROR_COLUMN, Branch, Lowering, RowOperator
from dataflare.operators.python import PythonCall
from dataflare.operators.stamp import Stamp
from dataflare.planner.physical import Segment
from dataflare.state.index import KeyIndex

LookupTables = Mapping[str, tuple[pl.DataFrame, KeyIndex]]
ROW_COLUMN = "__dataflare_row"
"""UInt32: the row's index in the frame that entered the query, to find it again if it fails."""


class Given(Struct):
    """What enters a tree. frame: rows, or a scan that gives them. rows: how many, where known.

    original: gives the rows that entered again, for the few that failed; place: where row i stands.
    """

    frame: pl.DataFrame | pl.LazyFrame
    rows: int | None
    original: Callable[[], pl.DataFrame]
    place: Callable[[int], str] | None = None
    row_numbers: pl.Series | None = None


class Outcome(Struct):
    """What left a tree, worked out on some thread and counted only when the task lets it out.

    frames: by edge, in order. head_rows: how many rows entered, where known. counts: step, rows in,
    rows out. errors: rows that failed, by step; failed: those that become dead letters, as `FAILED` says.
    left_out: step, path and rows of fields that a source's columns lack. late: by step, rows that came too
    late for it, and those of them that no step reads. event_time_us: the greatest event time of the rows that entered.
    """

    frames: list[tuple[int, pl.DataFrame]] = field(default_factory=list)
    head_rows: int | None = None
    seconds: float = 0.0
    counts: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    failed: list[pl.DataFrame] = field(default_factory=list)
    warnings: dict[tuple[str, str], int] = field(default_factory=dict)
    left_out: list[tuple[str, str, LeftOut]] = field(default_factory=list)
    late: dict[str, tuple[int, int]] = field(default_factory=dict)
    event_time_us: int | None = None

    def count_late(self, step: str, rows: int, unread: int = 0) -> None:
        before, unread_before = self.late.get(step, (0, 0))
        self.late[step] = before + rows, unread_before + unread

    def count_errors(self, step: str, rows: int) -> None:
        self.errors[step] = self.errors.get(step, 0) + rows

    def add(self, other: Outcome) -> None:
        """Append another outcome. The caller counts its `head_rows` and `seconds`."""
        self.frames.extend(other.frames)
        self.counts.extend(other.counts)
        self.failed.extend(other.failed)
        for warning, rows in other.warnings.items():
            self.warnings[warning] = self.warnings.get(warning, 0) + rows
        self.left_out.extend(other.left_out)
        for step, rows in other.errors.items():
            self.count_errors(step, rows)
        for step, (rows, unread) in other.late.items():
            self.count_late(step, rows, unread)

    def apply(self, metrics: JobMetrics | TaskMetrics) -> None:
        """Count what left."""
        for step, rows_in, rows_out in self.counts:
            metric = metrics.step(step)
            metric.add_in(rows_in)
            metric.add_out(rows_out)
        for step, rows in self.errors.items():
            metrics.step(step).errors += rows
        for step, (rows, unread) in self.late.items():
            metrics.step(step).late += rows
            metrics.step(step).late_unread += unread
        for frame in self.failed:
            for step, rows in frame["step"].value_counts().iter_rows():
                metrics.step(step).dead_letters += rows
        for (step, warning), rows in self.warnings.items():
            warnings = metrics.step(step).warnings
            warnings[warning] = warnings.get(warning, 0) + rows
        for step, path, found in self.left_out:
            metrics.step(step).leave_out(path, found)


class SegmentRunner:
    """One tree, for one task. Called by one thread at a time per batch; holds nothing of a batch.

    stamp: what gives the rows of a source their event time. timed: the edges that carry it.

    asked: by step, the systems that lookups ask key by key. waits: a batch waits for some system.
    uncounted: steps that count their rows themselves (stateful ones, whose first expressions run
    here, ahead of the exchange)."""

    def __init__(
        self,
        segment: Segment,
        tables: LookupTables,
        errors: RowErrors,
        uncounted: frozenset[str] = frozenset(),
        asked: Mapping[str, AskedTable] | None = None,
        timed: frozenset[int] = frozenset(),
    ) -> None:
        self.segment, self.tables, self.errors = segment, tables, errors
        self.uncounted = uncounted
        self.asked = asked or {}
        self.timed = timed
        self.stamp = next((op for op in segment.operators if isinstance(op, Stamp)), None)
        self.needs = _needs(segment)

    @property
    def waits(self) -> bool:
        return bool(self.asked)

    def run(self, given: Given) -> Outcome:
        """All frames that follow from what is given."""
        started = time.perf_counter()
        outcome = Outcome(head_rows=given.rows)
        self._segment(self.segment, given, outcome, head=True)
        if self.stamp is not None and outcome.head_rows is not None:
            outcome.head_rows -= outcome.errors.get(self.stamp.step, 0)
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _segment(
        self, segment: Segment, given: Given, outcome: Outcome, *, head: bool = False
    ) -> None:
        frame, counted = self._operators(segment, given, outcome)
        if head and given.rows is None:
            outcome.head_rows = counted
        if segment.branch is not None:
            _count_broken(segment.branch, frame, outcome)
        for output, schema, segments, edges in segment.children:
            part = frame
            if segment.branch is not None:
                if not segments and not edges:
                    continue
                part = frame.filter(segment.branch.outputs[output]())
                outcome.counts.append((segment.branch.step, 0, part.height))
            part = _only(part, schema)
            for edge in edges:
                outcome.frames.append((edge, _clean(part, timed=edge in self.timed)))
            for child in segments:
                behind = Given(part, part.height, lambda part=part: part)  # type: ignore[misc]
                self._segment(child, behind, outcome)

    def _operators(
        self, segment: Segment, given: Given, outcome: Outcome
    ) -> tuple[pl.DataFrame, int | None]:
        """The rows after all operators (and the branch's tags), and how many rows entered, where
        the way through tells."""
        operators = list(segment.operators)
        entered = given.rows
        current = given
        if self.stamp is not None and self.stamp.streaming and self.stamp in operators:
            place = operators.index(self.stamp) + 1
            frame, rows = self._query(operators[:place], None, given, outcome)
            outcome.event_time_us = cast("int | None", frame[TIME_COLUMN].max())
            entered = rows if entered is None else entered
            whole = frame.height == rows
            current = Given(
                frame,
                frame.height,
                lambda frame=frame: frame,  # type: ignore[misc]
                given.place if whole else None,
                given.row_numbers if whole else None,
            )
            operators = operators[place:]
        while True:
            cut = next((i for i, op in enumerate(operators) if op.runs_alone), None)
            if cut is None:
                break
            frame, rows = self._query(operators[:cut], None, current, outcome)
            entered = rows if entered is None else entered
            call = operators[cut]
            if isinstance(call, PythonCall):
                made = self.errors.guarded(call, frame, outcome)
                outcome.counts.append((call.step, frame.height, made.height))
            else:
                given_here = Given(frame, frame.height, lambda frame=frame: frame)  # type: ignore[misc]
                tables = {call.step: self.asked[call.step].table(frame)}
                made, _ = self._query([call], None, given_here, outcome, tables)
            current = Given(made, made.height, lambda made=made: made)  # type: ignore[misc]
            operators = operators[cut + 1 :]
        frame, rows = self._query(operators, segment.branch, current, outcome)
        return frame, rows if entered is None else entered

    def _query(
        self,
        operators: Sequence[RowOperator],
        branch: Branch | None,
        given: Given,
        outcome: Outcome,
        tables: LookupTables | None = None,
    ) -> tuple[pl.DataFrame, int | None]:
        """Run operators (and a branch's tags) as one query, and take out the rows with faults."""
        if not operators and branch is None and isinstance(given.frame, pl.DataFrame):
            return given.frame, given.rows
        frame = given.frame
        columns = frame.columns if isinstance(frame, pl.DataFrame) else frame.collect_schema()
        lowering = Lowering(
            self.tables if tables is None else tables, changelog=KIND_COLUMN in columns
        )
        fallible = any(op.can_fail for op in operators) or (branch is not None and branch.can_fail)
        lazy = frame.lazy()
        if fallible:
            lazy = lazy.with_row_index(ROW_COLUMN)
        for operator in operators:
            lazy = operator.lower(lazy, lowering)
        if branch is not None:
            lazy = branch.tag(lazy, lowering)
        frame = _collected(lazy, given)
        failed: dict[str, int] = {}
        if lowering.sites:
            bad = frame[ERROR_COLUMN].is_not_null()
            if bad.any():
                failed = self.errors.take(frame.filter(bad), lowering, given, outcome)
                frame = frame.filter(~bad)
            frame = frame.drop(ERROR_COLUMN, ROW_COLUMN)
        elif fallible:
            frame = frame.drop(ROW_COLUMN)
        counts, entered = counted(operators, branch, given.rows, frame.height, failed)
        outcome.counts.extend(c for c in counts if c[0] not in self.uncounted)
        return frame, entered


_UNOPTIMISED = pl.QueryOptFlags.none()


def _collected(lazy: pl.LazyFrame, given: Given) -> pl.DataFrame:
    """The query's rows. A few rows in memory cost less than looking for a better query; a scan is
    taken by Polars' streaming engine, which keeps more threads busy."""
    if not isinstance(given.frame, pl.DataFrame):
        return lazy.collect(engine="streaming")
    if given.frame.height < INLINE_ROWS:
        return lazy.collect(engine="in-memory", optimizations=_UNOPTIMISED)
    return lazy.collect(engine="in-memory")


def counted(
    operators: Sequence[RowOperator],
    branch: Branch | None,
    entered: int | None,
    left: int,
    failed: Mapping[str, int],
) -> tuple[list[tuple[str, int | None, int | None]], int | None]:
    """Rows in and out per step, and how many rows entered. What is not known from the front is
    worked out from the back, as far as every operator keeps the number of rows."""
    counts: list[tuple[str, int | None, int | None]] = []
    front: list[int | None] = [entered]
    for operator in operators:
        front.append(front[-1] if operator.keeps_rows else None)
    back: list[int | None] = [left + sum(failed.values())]
    for operator in reversed(operators):
        back.append(back[-1] if operator.keeps_rows else None)
    known = [b if b is not None else f for f, b in zip(front, reversed(back), strict=True)]
    known[0] = entered if entered is not None else known[0]
    gone = place = 0
    while place < len(operators):
        step, end = operators[place].step, place
        while end < len(operators) and operators[end].step == step:
            end += 1
        first, last = known[place], known[end]
        arrived = None if first is None else first - gone
        gone += failed.get(step, 0)
        counts.append((step, arrived, None if last is None else last - gone))
        place = end
    if branch is not None:
        counts.append((branch.step, left + failed.get(branch.step, 0), 0))
    return counts, known[0]


def _count_broken(branch: Branch, frame: pl.DataFrame, outcome: Outcome) -> None:
    for warning, column in branch.counters.items():
        broken = int(frame[column].sum() or 0)
        if broken:
            outcome.warnings[branch.step, warning] = broken


def _needs(segment: Segment) -> frozenset[str]:
    """Reserved columns the tree wants at its head."""
    found = frozenset().union(*(operator.needs() for operator in segment.operators))
    if segment.branch is not None:
        found |= {
            name
            for name in segment.branch.reads
            if name in ("__dataflare_now", "__dataflare_rowkey")
        }
    for _, _, children, _ in segment.children:
        for child in children:
            found |= _needs(child)
    return found


def _only(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The columns of a schema, and the reserved ones that travel along."""
    travelling = [
        n
        for n in (KIND_COLUMN, "__dataflare_now", "__dataflare_rowkey", *TIME_COLUMNS)
        if n in frame.columns
    ]
    wanted = [*schema.names, *travelling]
    return frame if frame.columns == wanted else frame.select(wanted)


def _clean(frame: pl.DataFrame, *, timed: bool) -> pl.DataFrame:
    """Without reserved columns that mean something only inside the tree. timed: keep the event time."""
    inside = ("__dataflare_now", "__dataflare_rowkey", *(() if timed else TIME_COLUMNS))
    gone = [n for n in inside if n in frame.columns]
    return frame.drop(gone) if gone else frame


def broken_data(error: pl.exceptions.PolarsError, step: str) -> DataError:
    """The error for data that Polars could not read."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"step '{step}': the data cannot be read: {first}",
        code="E0505",
        step=step,
        help="fix the data, or set error_handling: {on_error: skip}",
    )
