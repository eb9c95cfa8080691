"""Run a segment tree over a batch: each segment one lazy query, split where the plan branches.

Always true: a row with a fault leaves the batch at the end of the query it failed in, and what
happens to it is decided by the step's `on_error`, never by the operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import polars as pl
from msgspec import Struct, field

from dataflare.engine.asked_tables import AskedTable
from dataflare.engine.failed_changes import without_answers
from dataflare.engine.metrics import JobMetrics, LeftOut, TaskMetrics
from dataflare.engine.queries import LookupTables, Query, columns_of
from dataflare.engine.row_errors import RowErrors
from dataflare.errors import DataError
from dataflare.formats.neighbours import Texts
from dataflare.model.batch import KIND_COLUMN, is_truncation, truncation
from dataflare.model.event_time import TIME_COLUMN, TIME_COLUMNS
from dataflare.model.types import Schema
from dataflare.model.unchanged import UNCHANGED
from dataflare.observability.times import RuleCount
from dataflare.operators.base import Branch, Lowering, RowOperator
from dataflare.operators.primitives import kept
from dataflare.operators.python import PythonCall
from dataflare.operators.stamp import Stamp
from dataflare.planner.physical import Segment


class Given(Struct):
    """What enters a tree. frame: rows, or a scan that gives them. rows: how many, where known.

    original: gives the rows that entered again, for the few that failed; place: where row i stands.
    source: the source's step, for a chunk; texts: gives rows as they stand in the chunk; originals: as
    dead letters hold them.
    """

    frame: pl.DataFrame | pl.LazyFrame
    rows: int | None
    original: Callable[[], pl.DataFrame]
    place: Callable[[int], str] | None = None
    row_numbers: pl.Series | None = None
    source: str | None = None
    texts: Texts | None = None
    originals: Callable[[Sequence[int]], Sequence[str]] | None = None


class Outcome(Struct):
    """What left a tree, worked out on some thread and counted only when the task lets it out.

    frames: by edge, in order. head_rows: how many rows entered, where known. counts: step, rows in,
    rows out. errors: rows that failed, by step; failed: those that become dead letters, as `FAILED` says.
    left_out: step, path and rows of fields that a source's columns lack. late: by step and
    output, rows that came too late for it, and those of them that no step reads. late_in_part: by step, rows that came too
    late for some of their windows. event_time_us: the greatest event time of the rows that entered.
    """

    frames: list[tuple[int, pl.DataFrame]] = field(default_factory=list)
    head_rows: int | None = None
    seconds: float = 0.0
    counts: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    failed: list[pl.DataFrame] = field(default_factory=list)
    warnings: dict[tuple[str, str], int] = field(default_factory=dict)
    shares: dict[tuple[str, str], RuleCount] = field(default_factory=dict)
    left_out: list[tuple[str, str, LeftOut]] = field(default_factory=list)
    late: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    late_in_part: dict[str, int] = field(default_factory=dict)
    degraded: dict[str, int] = field(default_factory=dict)
    event_time_us: int | None = None

    def count_late(self, step: str, output: str, rows: int, unread: int) -> None:
        before, unread_before = self.late.get((step, output), (0, 0))
        self.late[step, output] = before + rows, unread_before + unread

    def count_late_in_part(self, step: str, rows: int) -> None:
        self.late_in_part[step] = self.late_in_part.get(step, 0) + rows

    def count_degraded(self, step: str, rows: int) -> None:
        self.degraded[step] = self.degraded.get(step, 0) + rows

    def count_errors(self, step: str, rows: int) -> None:
        self.errors[step] = self.errors.get(step, 0) + rows

    @property
    def rows_at_least(self) -> int:
        """How many rows entered; where that is not known, how many leave."""
        return self.head_rows or sum(frame.height for _, frame in self.frames)

    def add(self, other: Outcome) -> None:
        """Append another outcome. The caller counts its `head_rows` and `seconds`."""
        self.frames.extend(other.frames)
        self.counts.extend(other.counts)
        self.failed.extend(other.failed)
        for warning, rows in other.warnings.items():
            self.warnings[warning] = self.warnings.get(warning, 0) + rows
        for rule, count in other.shares.items():
            self.shares.setdefault(rule, RuleCount()).add(count.rows, count.broken)
        self.left_out.extend(other.left_out)
        for step, rows in other.errors.items():
            self.count_errors(step, rows)
        for (step, output), (rows, unread) in other.late.items():
            self.count_late(step, output, rows, unread)
        for step, rows in other.late_in_part.items():
            self.count_late_in_part(step, rows)
        for step, rows in other.degraded.items():
            self.count_degraded(step, rows)

    def apply(self, metrics: JobMetrics | TaskMetrics) -> None:
        """Count what left."""
        for step, rows_in, rows_out in self.counts:
            metrics.step(step).add_rows(rows_in, rows_out)
        for step, rows in self.errors.items():
            metrics.step(step).errors += rows
        for (step, output), (rows, unread) in self.late.items():
            metric = metrics.step(step)
            metric.late += rows
            if unread:
                metric.late_unread[output] = metric.late_unread.get(output, 0) + unread
        for step, rows in self.late_in_part.items():
            metrics.step(step).late_in_part += rows
        for step, rows in self.degraded.items():
            metrics.step(step).degraded += rows
        for frame in self.failed:
            for step, rows in frame["step"].value_counts().iter_rows():
                metrics.step(step).dead_letters += rows
        for (step, warning), rows in self.warnings.items():
            warnings = metrics.step(step).warnings
            warnings[warning] = warnings.get(warning, 0) + rows
        for (step, rule), count in self.shares.items():
            metrics.step(step).add_share(rule, count)
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
        self.by_key = segment.by_key
        self.uncounted = uncounted
        self.asked = asked or {}
        self.timed = timed
        self.stamp = next((op for op in segment.operators if isinstance(op, Stamp)), None)
        self.needs = _needs(segment)
        self._parts: dict[int, list[Query | RowOperator]] = {}
        self._stamping: Query | None = None
        self._picks: dict[tuple[int, int | None], tuple[list[str], list[str] | None]] = {}
        self._compile(segment)

    @property
    def calls_out(self) -> bool:
        """Whether its rows pass through functions of the user, or other systems are asked for them."""
        return any(not isinstance(part, Query) for parts in self._parts.values() for part in parts)

    @property
    def waits(self) -> bool:
        return bool(self.asked)

    def run(self, given: Given) -> Outcome:
        """All frames that follow from what is given."""
        started = time.perf_counter()
        if isinstance(given.frame, pl.DataFrame) and is_truncation(given.frame):
            return self._truncated(given.frame)
        outcome = Outcome(head_rows=given.rows)
        self._segment(self.segment, given, outcome, head=True)
        if self.stamp is not None and outcome.head_rows is not None:
            outcome.head_rows -= outcome.errors.get(self.stamp.step, 0)
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _truncated(self, frame: pl.DataFrame) -> Outcome:
        """A TRUNCATE passes all operators, whatever they ask of rows, and goes to every output."""
        outcome = self.run(_rows(frame.clear()))
        outcome.frames = [(edge, truncation(each.schema)) for edge, each in outcome.frames]
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
                part = _of_output(frame, segment.branch.outputs[output]())
                outcome.counts.append((segment.branch.step, 0, part.height))
            part = self._picked(part, (id(schema), None), lambda names: _only(names, schema))  # noqa: B023
            for edge in edges:
                timed = edge in self.timed
                clean = partial(_clean, timed=timed)
                outcome.frames.append((edge, self._picked(part, (id(schema), edge), clean)))
            for child in segments:
                self._segment(child, _rows(part), outcome)

    def _operators(
        self, segment: Segment, given: Given, outcome: Outcome
    ) -> tuple[pl.DataFrame, int | None]:
        """The rows after all operators (and the branch's tags), and how many rows entered, where
        the way through tells."""
        entered = given.rows
        current = given
        for part in self._parts[id(segment)]:
            if type(part) is not Query:
                current = self._alone(cast("RowOperator", part), current, outcome)
                continue
            frame, rows = self._query(part, current, outcome)
            entered = rows if entered is None else entered
            if part is self._stamping:
                outcome.event_time_us = cast("int | None", frame[TIME_COLUMN].max())
                whole = frame.height == rows
                current = Given(
                    frame,
                    frame.height,
                    lambda frame=frame: frame,  # type: ignore[misc]
                    given.place if whole else None,
                    given.row_numbers if whole else None,
                )
            else:
                current = _rows(frame)
        assert isinstance(current.frame, pl.DataFrame)
        return current.frame, entered

    def _alone(self, operator: RowOperator, given: Given, outcome: Outcome) -> Given:
        """The rows after an operator that is not part of a query."""
        frame = given.frame
        assert isinstance(frame, pl.DataFrame)
        if isinstance(operator, PythonCall):
            made = self.errors.guarded(operator, frame, outcome)
            outcome.counts.append((operator.step, frame.height, made.height))
        else:
            answers = self.asked[operator.step].answers(frame)
            if answers.stale:
                told = (
                    operator.step,
                    "answers older than the cache's ttl were used while its system was held back,",
                )
                outcome.warnings[told] = outcome.warnings.get(told, 0) + answers.stale
            if answers.lacking:
                outcome.count_degraded(operator.step, answers.lacking)
            for refused in answers.refused:
                self.errors.refused(operator.step, refused, outcome)
                if not self.by_key:  # a change by key goes on, as a delete
                    outcome.counts.append((operator.step, refused.rows.height, 0))
            if answers.is_refused is not None:
                given = _rows(without_answers(frame, answers.is_refused, by_key=self.by_key))
            tables = {operator.step: (answers.table, answers.index)}
            query = Query([operator], None, tables, by_key=self.by_key)
            made, _ = self._query(query, given, outcome)
        return _rows(made)

    def _query(
        self, query: Query, given: Given, outcome: Outcome
    ) -> tuple[pl.DataFrame, int | None]:
        """Run a query, and take out the rows with faults."""
        if query.is_empty and isinstance(given.frame, pl.DataFrame):
            return given.frame, given.rows
        made = query.run(given.frame)
        failed: dict[str, int] = {}
        if made.bad is not None:
            taken = self.errors.take(made.bad, made.lowering, given, outcome)
            # A change by key goes on, as a delete.
            failed = {} if self.by_key else taken
        counts, entered = query.counts(given.rows, made.frame.height, failed)
        if self.uncounted:
            counts = [each for each in counts if each[0] not in self.uncounted]
        outcome.counts += counts
        return made.frame, entered

    def _picked(
        self,
        frame: pl.DataFrame,
        place: tuple[int, int | None],
        pick: Callable[[list[str]], list[str]],
    ) -> pl.DataFrame:
        """The columns that `pick` chooses, which it does once for frames with the same columns. place: in
        the tree, of the schema behind which it is."""
        columns = frame.columns
        known = self._picks.get(place)
        if known is None or known[0] != columns:
            wanted = pick(columns)
            known = self._picks[place] = (columns, None if wanted == columns else wanted)
        return frame if known[1] is None else columns_of(frame, known[1])

    def _compile(self, segment: Segment) -> None:
        """Cut the operators of a tree into queries, and the operators that are not part of one."""
        parts: list[Query | RowOperator] = []
        operators = list(segment.operators)
        if self.stamp is not None and self.stamp.streaming and self.stamp in operators:
            place = operators.index(self.stamp) + 1
            self._stamping = Query(operators[:place], None, self.tables, by_key=self.by_key)
            parts.append(self._stamping)
            operators = operators[place:]
        while (
            cut := next((i for i, op in enumerate(operators) if op.runs_alone), None)
        ) is not None:
            parts += [
                Query(operators[:cut], None, self.tables, by_key=self.by_key),
                operators[cut],
            ]
            operators = operators[cut + 1 :]
        parts.append(Query(operators, segment.branch, self.tables, by_key=self.by_key))
        self._parts[id(segment)] = parts
        for _, _, children, _ in segment.children:
            for child in children:
                self._compile(child)


def _rows(frame: pl.DataFrame) -> Given:
    """A frame whose rows are their own origin."""
    return Given(frame, frame.height, lambda: frame)


def _of_output(frame: pl.DataFrame, condition: pl.Expr) -> pl.DataFrame:
    """The rows for an output of a branch. Halves of an update that part there are a delete and an insert."""
    if KIND_COLUMN not in frame.columns:
        return frame.filter(condition)
    rows = kept(frame.lazy(), condition, Lowering(changelog=True))
    return rows.collect(engine="in-memory")


def _count_broken(branch: Branch, frame: pl.DataFrame, outcome: Outcome) -> None:
    for warning, column in branch.counters.items():
        broken = int(frame[column].sum() or 0)
        if broken:
            outcome.warnings[branch.step, warning] = broken
    for rule, column in branch.shares.items():
        outcome.shares[branch.step, rule] = RuleCount(frame.height, int(frame[column].sum() or 0))


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


def _only(columns: list[str], schema: Schema) -> list[str]:
    """The columns of a schema, and the reserved ones that travel along."""
    along = (KIND_COLUMN, UNCHANGED, "__dataflare_now", "__dataflare_rowkey", *TIME_COLUMNS)
    return [*schema.names, *(name for name in along if name in columns)]


def _clean(columns: list[str], *, timed: bool) -> list[str]:
    """Without reserved columns that mean something only inside the tree. timed: keep the event time."""
    inside = ("__dataflare_now", "__dataflare_rowkey", *(() if timed else TIME_COLUMNS))
    return [name for name in columns if name not in inside]


def broken_data(error: pl.exceptions.PolarsError, step: str) -> DataError:
    """The error for data that Polars could not read."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"step '{step}': the data cannot be read: {first}",
        code="E0505",
        step=step,
        help="fix the data, or set error_handling: {on_error: skip}",
    )
