"""Queries of a chain: written down once, then made again for each batch.

Operators describe what they do on a Polars LazyFrame. To do that for each batch costs more than a small
batch itself: most of 390 Python calls built the same expressions again. So the first batch is given to the
operators as a frame that notes each call which arrives at Polars' core, and the next batches make the noted
calls at once.

Always true:
- a noted query is the query that the operators describe: the same calls of Polars' core in the same order,
  with the same expressions;
- it is used only for frames with the columns of the first one; another frame gets a query of its own;
- what cannot be noted (an operator that looks at rows, or gives Polars' core several frames in a list) is
  described anew for each batch.

The noted calls are not Polars' public interface, so `pyproject.toml` allows one minor version of Polars, and
the tests compare both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import polars as pl
from msgspec import Struct, field

from dataflare.engine.failed_changes import parted, parted_by_key
from dataflare.engine.pool import INLINE_ROWS
from dataflare.model.batch import KIND_COLUMN
from dataflare.operators.base import ERROR_COLUMN, Branch, Lowering, RowOperator
from dataflare.operators.stamp import TIME_FAULTS
from dataflare.state.index import KeyIndex

LookupTables = Mapping[str, tuple[pl.DataFrame, KeyIndex]]
ROW_COLUMN = "__dataflare_row"
"""UInt32: the row's index in the frame that entered the query, to find it again if it fails."""

_UNOPTIMISED = pl.QueryOptFlags.none()
_CORE_UNOPTIMISED: Any = _UNOPTIMISED._pyoptflags
_CoreFrame: Any = type(pl.LazyFrame()._ldf)
_CoreGroups: Any = type(pl.LazyFrame({"a": [1]}).group_by("a").lgb)


def columns_of(frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """The columns of these names. `frame.select` makes a query, with 25 Python calls."""
    core: Any = frame._df
    return pl.DataFrame._from_pydf(core.select(names))


class Made(Struct):
    """The rows of a query. bad: those with a fault, or None; lowering: says what their faults mean."""

    frame: pl.DataFrame
    bad: pl.DataFrame | None
    lowering: Lowering


class Query:
    """Operators, and the tags of a branch behind them. by_key: changes have the key of the row that they replace, and not
    the row. Called by several threads."""

    def __init__(
        self, operators: Sequence[RowOperator], branch: Branch | None, tables: LookupTables, *,
        by_key: bool = False,
    ) -> None:  # fmt: skip
        self.operators, self.branch, self.tables = tuple(operators), branch, tables
        self._by_key = by_key
        self.is_empty = not operators and branch is None
        self._can_fail = any(op.can_fail for op in operators) or bool(branch and branch.can_fail)
        self._noted: _Noted | None = None
        self._known = _known_counts(self.operators)

    def run(self, frame: pl.DataFrame | pl.LazyFrame) -> Made:
        """The rows that follow from a frame. A few rows in memory cost less than looking for a better query;
        a scan is taken by Polars' streaming engine, which keeps more threads busy."""
        if not isinstance(frame, pl.DataFrame):
            lazy, lowering = self._described(frame, frame.collect_schema().names())
            return self._sifted(lazy.collect(engine="streaming"), lowering)
        core: Any = frame._df
        columns: list[str] = core.columns()
        noted = self._noted
        if noted is None or noted.columns != columns:
            noted = self._noted = self._note(frame, columns)
        if noted.calls is None:
            lazy, lowering = self._described(frame.lazy(), columns)
            few = frame.height < INLINE_ROWS
            rows = (
                lazy.collect(engine="in-memory", optimizations=_UNOPTIMISED)
                if few
                else lazy.collect(engine="in-memory")
            )
            return self._sifted(rows, lowering)
        query = core.lazy()
        if core.height() >= INLINE_ROWS:
            for method, args, kwargs in noted.calls:
                query = method(query, *args, **kwargs)
            rows = pl.LazyFrame._from_pyldf(query).collect(engine="in-memory")
            return self._sifted(rows, noted.lowering)
        for method, args, kwargs in noted.few_calls:
            query = method(query, *args, **kwargs)
        result = query.with_optimizations(_CORE_UNOPTIMISED).collect("in-memory", None)
        has_sites = bool(noted.lowering.sites)
        if has_sites and result.get_column(ERROR_COLUMN).null_count() != result.height():
            return self._sifted(pl.DataFrame._from_pydf(result), noted.lowering)
        if self._can_fail:
            if noted.kept is None:
                noted.kept = [n for n in result.columns() if n not in (ERROR_COLUMN, ROW_COLUMN)]
            result = result.select(noted.kept)
        return Made(pl.DataFrame._from_pydf(result), None, noted.lowering)

    def counts(
        self, entered: int | None, left: int, failed: Mapping[str, int]
    ) -> tuple[list[tuple[str, int | None, int | None]], int | None]:
        """As `counted`, of this query."""
        if failed or entered is None:
            return counted(self.operators, self.branch, entered, left, failed)
        values = (None, entered, left)
        counts = [(step, values[first], values[last]) for step, first, last in self._known]
        if self.branch is not None:
            counts.append((self.branch.step, left, 0))
        return counts, entered

    def _described(
        self, lazy: pl.LazyFrame, columns: Sequence[str]
    ) -> tuple[pl.LazyFrame, Lowering]:
        lowering = Lowering(self.tables, changelog=KIND_COLUMN in columns)
        if self._can_fail:
            lazy = lazy.with_row_index(ROW_COLUMN)
        for operator in self.operators:
            lazy = operator.lower(lazy, lowering)
        if self.branch is not None:
            lazy = self.branch.tag(lazy, lowering)
        return lazy, lowering

    def _note(self, frame: pl.DataFrame, columns: list[str]) -> _Noted:
        start: Any = _Note(frame.clear().lazy()._ldf)
        try:
            lazy, lowering = self._described(pl.LazyFrame._from_pyldf(start), columns)
            end: Any = lazy._ldf
            return _Noted(columns, _calls_of(end) if end is not start else [], lowering)
        except (_NotNotable, TypeError, AttributeError):
            return _Noted(columns, None, Lowering())

    def _sifted(self, frame: pl.DataFrame, lowering: Lowering) -> Made:
        """The rows without reserved columns of the query, and those with a fault apart."""
        bad = None
        if lowering.sites:
            is_bad = frame[ERROR_COLUMN].is_not_null()
            if is_bad.any():
                bad, frame = self._parted(frame, is_bad)
            frame = frame.drop(ERROR_COLUMN, ROW_COLUMN)
        elif self._can_fail:
            frame = frame.drop(ROW_COLUMN)
        return Made(frame, bad, lowering)

    def _parted(
        self, frame: pl.DataFrame, is_bad: pl.Series
    ) -> tuple[pl.DataFrame | None, pl.DataFrame]:
        if not self._by_key or KIND_COLUMN not in frame.columns:
            return parted(frame, is_bad)
        # A delete without a time would go to steps that work by it.
        is_untimed = (frame[ERROR_COLUMN] % 256).is_in(TIME_FAULTS).fill_null(False)
        return parted_by_key(frame, is_bad, is_untimed)


_Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


_IN_SEQUENCE: Mapping[str, Callable[..., Any]] = {
    "with_columns": _CoreFrame.with_columns_seq,
    "select": _CoreFrame.select_seq,
}
"""Expressions of few rows are worked out one after the other, on the thread that asks. To wake Polars' threads for
two of them takes as long again as the query: 162 instead of 86 microseconds of CPU for one row through a filter and
two derived columns, and 980 instead of 275 until the result is there on a busy machine."""


class _Noted(Struct):
    """calls: what is done with the lazy frame of a batch with these columns; None if that cannot be noted. few_calls:
    the same for few rows. kept: the columns of the result without those that only the query needs, once known."""

    columns: list[str]
    calls: list[_Call] | None
    lowering: Lowering
    kept: list[str] | None = None
    few_calls: list[_Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        for method, args, kwargs in self.calls or ():
            self.few_calls.append((_IN_SEQUENCE.get(method.__name__, method), args, kwargs))


class _NotNotable(Exception):
    """An operator asked for something that depends on rows."""


class _Note:
    """Stands for a lazy frame of Polars' core, notes the calls, and makes them on a frame without rows."""

    def __init__(self, core: Any, before: _Note | None = None, call: _Call | None = None) -> None:
        self.core, self.before, self.call = core, before, call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = attrgetter(name)(type(self.core))

        def noted(*args: Any, **kwargs: Any) -> Any:
            plain_args = [each.core if isinstance(each, _Note) else each for each in args]
            plain_kwargs = {k: v.core if isinstance(v, _Note) else v for k, v in kwargs.items()}
            result = method(self.core, *plain_args, **plain_kwargs)
            if isinstance(result, _CoreFrame | _CoreGroups):
                return _Note(result, self, (method, args, kwargs))
            if name != "collect_schema":
                raise _NotNotable(name)
            return result

        return noted


def _calls_of(note: _Note) -> list[_Call]:
    """The calls from the batch to here, in order. Raises _NotNotable if a call has several frames."""
    calls: list[_Call] = []
    while note.before is not None and note.call is not None:
        _, args, kwargs = note.call
        if any(isinstance(each, _Note) for each in (*args, *kwargs.values())):
            raise _NotNotable
        calls.append(note.call)
        note = note.before
    return calls[::-1]


def _known_counts(operators: Sequence[RowOperator]) -> list[tuple[str, int, int]]:
    """Step, and where its numbers of rows in and out come from if no row fails: 0 not known, 1 those that
    entered, 2 those that left."""
    number = len(operators)
    places = []
    for place in range(number + 1):
        if place == 0:
            places.append(1)
        elif all(op.keeps_rows for op in operators[place:]):
            places.append(2)
        else:
            places.append(1 if all(op.keeps_rows for op in operators[:place]) else 0)
    known, place = [], 0
    while place < number:
        step, end = operators[place].step, place
        while end < number and operators[end].step == step:
            end += 1
        known.append((step, places[place], places[end]))
        place = end
    return known


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
