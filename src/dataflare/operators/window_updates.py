"""What a window step has given, so that the next result of a window takes back the one before (`emit: updates`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.event_time import WATERMARK_COLUMN
from dataflare.operators.window_rows import END, FIRST, LAST
from dataflare.operators.window_session_merge import sessions
from dataflare.state.slices import Slices
from dataflare.state.tables import Tables
from dataflare.state.weighted import WEIGHT

_ORDER, _END = "__dataflare_order", "__dataflare_order_end"


def inserts(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows that take nothing back."""
    return _of_kind(frame, RowKind.INSERT)


class GivenWindows:
    """Of tumbling and sliding windows: by key and end, what was given last."""

    def __init__(self, tables: Tables, keys: Sequence[str], width: int) -> None:
        self._by = [*keys, END]
        self._table = Slices(tables, "given", keys, self._last, END, width)

    def changes(self, windows: pl.DataFrame) -> pl.DataFrame:
        """The windows, and before each what it replaces."""
        low, high = int(windows[END].min()), int(windows[END].max())  # type: ignore[arg-type]
        by = windows.select(self._by)
        parts = [
            frame.join(by, on=self._by, how="semi", nulls_equal=True)
            for frame in self._table.frames(low, high + 1)
        ]
        before = _there(pl.concat([*parts, windows.drop(WATERMARK_COLUMN, strict=False).clear()]))
        self._table.append(windows.drop(WATERMARK_COLUMN, strict=False))
        if not before.height:
            return inserts(_there(windows))
        replacing = windows.join(before, on=self._by, how="semi", nulls_equal=True)
        others = windows.join(before, on=self._by, how="anti", nulls_equal=True)
        if WATERMARK_COLUMN in windows.columns:
            marks = windows.select(*self._by, WATERMARK_COLUMN)
            before = before.join(marks, on=self._by, nulls_equal=True)
        before = before.select(windows.columns)
        gone = before.clear()
        if WEIGHT in windows.columns:
            empty = windows.filter(pl.col(WEIGHT) <= 0)
            gone = before.join(empty, on=self._by, how="semi", nulls_equal=True)
            before = before.join(empty, on=self._by, how="anti", nulls_equal=True)
        rows = [
            _of_kind(gone, RowKind.DELETE),
            _of_kind(before, RowKind.UPDATE_BEFORE),
            _of_kind(_there(replacing), RowKind.UPDATE_AFTER),
            inserts(_there(others)),
        ]
        return pl.concat(rows).sort(END, *self._by, KIND_COLUMN, nulls_last=True)

    def drop(self, end: int) -> None:
        """Forget the windows that end before a place: they do not change any more."""
        self._table.drop(end)

    def _last(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.unique(self._by, keep="last", maintain_order=True)


class GivenSessions:
    """Of sessions: those that were given last. A session that grows takes in the given ones that it covers."""

    def __init__(self, tables: Tables, keys: Sequence[str]) -> None:
        self._keys = list(keys)
        self._log = tables.log("given", keys, self._last)

    def changes(self, closed: pl.DataFrame) -> pl.DataFrame:
        """The sessions, and before each the ones that it replaces."""
        parts = [_there(self._covered(frame, closed)) for frame in self._log.frames()]
        self._log.append(closed)
        replaced = pl.concat(parts) if parts else None
        if replaced is None or not replaced.height:
            return inserts(_there(closed))
        # The first one and the new session are an update; those that it takes in as well are deleted.
        is_first = pl.int_range(pl.len()).over(*self._keys, _ORDER) == 0
        kind = (
            pl.when(is_first)
            .then(pl.lit(RowKind.UPDATE_BEFORE, pl.UInt8))
            .otherwise(pl.lit(RowKind.DELETE, pl.UInt8))
        )
        replaced = replaced.with_columns(kind.alias(KIND_COLUMN))
        new = closed.with_columns(pl.col(FIRST).alias(_ORDER))
        if WEIGHT in new.columns:
            by, empty = [*self._keys, _ORDER], new.filter(pl.col(WEIGHT) <= 0)
            gone = replaced.join(empty, on=by, how="semi", nulls_equal=True)
            replaced = replaced.join(empty, on=by, how="anti", nulls_equal=True)
            replaced, new = pl.concat([_of_kind(gone, RowKind.DELETE), replaced]), _there(new)
        has_before = new.join(replaced, on=[*self._keys, _ORDER], how="semi", nulls_equal=True)
        others = new.join(replaced, on=[*self._keys, _ORDER], how="anti", nulls_equal=True)
        rows = pl.concat([replaced, _of_kind(has_before, RowKind.UPDATE_AFTER), inserts(others)])
        is_half = pl.col(KIND_COLUMN).is_between(RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER)
        return rows.sort(_ORDER, *self._keys, is_half, KIND_COLUMN, nulls_last=True).drop(_ORDER)

    def drop(self, condition: pl.Expr, open_sessions: Iterable[pl.DataFrame]) -> None:
        """Forget the sessions for which a condition is true. They do not change any more, unless an open session
        has them."""
        dropped = [*self._log.take(condition)]
        if not dropped:
            return
        frame = pl.concat(dropped)
        for each in open_sessions:
            covered = self._covered(frame, each).select(frame.columns)
            if covered.height:
                self._log.append(covered)

    def _covered(self, frame: pl.DataFrame, by: pl.DataFrame) -> pl.DataFrame:
        """The sessions that lie within others, with the start of those."""
        spans = by.select(*self._keys, pl.col(FIRST).alias(_ORDER), pl.col(LAST).alias(_END))
        if self._keys:
            pairs = frame.join(spans, on=self._keys, nulls_equal=True)
        else:
            pairs = frame.join(spans, how="cross")
        within = (pl.col(FIRST) >= pl.col(_ORDER)) & (pl.col(LAST) <= pl.col(_END))
        return pairs.filter(within).drop(_END)

    def _last(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The sessions that no later one covers."""
        others = [name for name in frame.columns if name not in (*self._keys, FIRST, LAST)]
        length = pl.col(LAST) - pl.col(FIRST)
        widest = [pl.col(name).sort_by(length, maintain_order=True).last() for name in others]
        return sessions(frame, self._keys, 0, widest, changes=False).select(frame.columns)


def _there(windows: pl.DataFrame) -> pl.DataFrame:
    """The windows that have rows. Over a changelog the rows of others may have been deleted."""
    return windows.filter(pl.col(WEIGHT) > 0) if WEIGHT in windows.columns else windows


def _of_kind(frame: pl.DataFrame, kind: RowKind) -> pl.DataFrame:
    return frame.with_columns(pl.lit(kind, pl.UInt8).alias(KIND_COLUMN))
