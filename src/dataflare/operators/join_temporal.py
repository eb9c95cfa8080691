"""The join of a stream with a table that changes: each row of the stream gets the version that was valid at
its event time.

A row of the stream waits until the watermark has passed it, so that every version up to its time is there.
A row that comes after the watermark is late and gets no version at all; neither is a late version used,
because some rows that should have it may have been given already.

The table may be a changelog: an insert, or the second half of an update, begins a version at its event time, and a
delete ends the version of its key. The first half of an update says nothing that the second one does not.

Always true: the versions that are kept are the latest of each key below the settled time; no row that
still comes can need an earlier one. A delete is kept like a version, until no version is older.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import polars as pl
from msgspec.structs import replace

from dataflare.model.batch import INSERTS, KIND_COLUMN, Kinds, RowKind
from dataflare.model.event_time import NEVER, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.operators import kept_rows
from dataflare.operators.base import LiveOperator, Result, StatefulOperator
from dataflare.operators.changes import op_text, parted
from dataflare.operators.join_bounded import described
from dataflare.operators.join_parts import Parts
from dataflare.operators.join_shape import LEFT, RIGHT, JoinShape
from dataflare.operators.results import Results
from dataflare.operators.timed_rows import TimedRows, joining
from dataflare.operators.versions import Versions, of_each_time
from dataflare.state.layout import STEP, Adaptation, Held, Layout, TableLayout
from dataflare.state.tables import Tables

_ID = "__dataflare_key_id"
_VERSION_TIME = "__dataflare_version_time"


class TemporalJoin(StatefulOperator, StructABC, frozen=True):
    """max_age_us: how long a version is valid. watermarks: whether results have WATERMARK_COLUMN. changes: whether
    the table is a changelog."""

    step: str
    shape: JoinShape
    keys: tuple[str, ...]
    max_age_us: int | None
    watermarks: bool
    inputs: tuple[str, ...] = ()
    changes: bool = False
    accepts: Kinds = INSERTS
    timed = True
    keeps_time = True
    no_changes: ClassVar[str] = (
        ": the rows of its first input may not change, and those of the second one may"
    )

    def keys_of(self, port: int) -> tuple[str, ...]:
        return self.shape.keys_of(port)

    def open(self, tables: Tables) -> LiveOperator:
        return LiveTemporalJoin(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        shape = self.shape
        settings = {
            "form": "as of the event time",
            "kind": shape.kind,
            "within": None,
            "max_age": self.max_age_us,
            "inputs": list(self.inputs),
        }
        if self.changes:
            settings["changes"] = True
        table = kept_rows.layout_of(shape.right, shape.right_keys)
        if self.changes:
            kind = {KIND_COLUMN: "(whether it is deleted)"}
            table = replace(table, columns={**table.columns, **kind})
        return {
            STEP: TableLayout(settings=settings),
            "waiting_0": kept_rows.layout_of(shape.left, shape.left_keys),
            "waiting_1": table,
            "versions": table,
            "results": kept_rows.layout_of(shape.output),
        }

    def initial(self, table: str) -> pl.DataFrame:
        return kept_rows.nulls(self.shape.of_table(table))

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        was, is_now = (
            "a changelog" if each.get("changes") else "inserts only" for each in (before, now)
        )
        if was != is_now and any(held.rows.values()):
            return f"its second input was {was}, and is {is_now}"
        return kept_rows.adapted_join(before, now, held)

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The rows that wait for the watermark, and the latest version of each key."""
        names = {
            "waiting_left": ("waiting_0", self.shape.left_keys),
            "waiting_right": ("waiting_1", self.shape.right_keys),
        }
        versions = Versions(
            tables.rows("versions", self.shape.right_keys), self.shape, self.max_age_us
        )
        return {**kept_rows.shown(tables, names), "versions": map(kept_rows.plain, versions.all())}

    def describe(self) -> str:
        changes = ", of a table that changes" if self.changes else ""
        return f"{described(self.shape)} as of the event time{changes}"


class LiveTemporalJoin(LiveOperator):
    """The first input is the stream, the second one the table."""

    def __init__(self, operator: TemporalJoin, tables: Tables) -> None:
        self._operator, self._shape = operator, operator.shape
        keys = self._shape.keys_of
        waiting = [tables.rows(f"waiting_{n}", keys(n)) for n in (LEFT, RIGHT)]
        versions = tables.rows("versions", keys(RIGHT))
        self._results = Results(tables)
        empty = self._marked(self._shape.empty.with_columns(pl.lit(0, pl.Int64).alias(TIME_COLUMN)))
        self._parts = Parts(tables, [*waiting, versions], empty)
        self._time = tables.value("time", NEVER, max)
        self._waiting = [TimedRows(each, moves=operator.watermarks) for each in waiting]
        self._versions = Versions(versions, self._shape, operator.max_age_us)
        self._ended: set[int] = set()

    def process(self, port: int, frame: pl.DataFrame) -> Iterator[Result]:
        keeps = port == LEFT and self._shape.keeps_left
        alone = (lambda rows: self._marked(self._shape.alone(rows, LEFT))) if keeps else None
        late = None
        if port == RIGHT and self._operator.changes:
            frame, late = _begun_or_ended(frame), op_text
        keys = self._shape.keys_of(port)
        rows = yield from joining(frame, port, self._time.value, keys, alone, late)
        self._waiting[port].add(rows)

    def watermark(self, event_time_us: int) -> Iterable[Result]:
        if event_time_us <= self._time.value:
            return ()
        self._time.value = event_time_us
        rows = self._waiting[LEFT].take(event_time_us)
        versions = self._counting(self._waiting[RIGHT].take(event_time_us))
        results = [] if rows is None else self._joined(rows, self._candidates(rows, versions))
        if versions is not None:
            in_order = versions.sort(TIME_COLUMN, maintain_order=True)
            self._versions.add(in_order, event_time_us)
        return results

    def end(self, port: int) -> Iterator[pl.DataFrame]:
        self._ended.add(port)
        if len(self._ended) < 2:
            return
        self._versions.stop()
        yield from self._results.drain()
        yield from self._parts.cut()
        while (part := self._parts.take()) is not None:
            rows, new, old = part
            if rows is not None:
                for frame in self._joined(rows, _both(old, self._counting(new))):
                    self._results.put(frame)
            self._parts.done()
            yield from self._results.drain()

    def _counting(self, versions: pl.DataFrame | None) -> pl.DataFrame | None:
        if versions is None or not self._operator.changes:
            return versions
        return of_each_time(versions, self._shape.right_keys)

    def _candidates(self, rows: pl.DataFrame, versions: pl.DataFrame | None) -> pl.DataFrame | None:
        """The versions that may be valid for some of the rows."""
        return _both(
            self._versions.latest(rows.select(self._shape.key_columns(LEFT)).unique()), versions
        )

    def _joined(self, rows: pl.DataFrame, versions: pl.DataFrame | None) -> list[pl.DataFrame]:
        shape = self._shape
        if versions is None:
            found = shape.alone(rows, LEFT) if shape.keeps_left else None
        else:
            found = self._as_of(rows, versions)
        return [self._marked(found)] if found is not None and found.height else []

    def _as_of(self, rows: pl.DataFrame, versions: pl.DataFrame) -> pl.DataFrame:
        """The rows with the last version that is not later than they are. Of versions with the same time the
        last one counts."""
        shape, names = self._shape, self._shape.key_names
        version_time = pl.col(TIME_COLUMN).alias(_VERSION_TIME)
        kind = [KIND_COLUMN] if self._operator.changes else []
        table = versions.select(
            *shape.right_values(), *shape.key_columns(RIGHT), version_time, *kind
        )
        ids = table.select(names).unique().with_row_index(_ID)
        numbered = [
            frame.join(ids, on=names, how="left", maintain_order="left").drop(names)
            for frame in (rows.with_columns(shape.key_columns(LEFT)), table)
        ]
        joined = (
            numbered[0]
            .sort(TIME_COLUMN, maintain_order=True)
            .join_asof(
                numbered[1].sort(_VERSION_TIME, maintain_order=True),
                left_on=TIME_COLUMN,
                right_on=_VERSION_TIME,
                by=_ID,
                strategy="backward",
                tolerance=self._operator.max_age_us,
                coalesce=False,
                check_sortedness=False,
            )
        )
        found = pl.col(_VERSION_TIME).is_not_null()
        if kind:
            is_there = pl.col(KIND_COLUMN).ne_missing(RowKind.DELETE.value)
            found &= is_there
            # Behind a delete a row has no version, so its columns are NULL.
            joined = joined.with_columns(
                pl.when(is_there).then(pl.col(name)).alias(name)
                for name in shape.right_names.values()
            )
        if not shape.keeps_left:
            joined = joined.filter(found)
        return joined.select(*shape.whole(), TIME_COLUMN)

    def _marked(self, results: pl.DataFrame) -> pl.DataFrame:
        """Results with the watermark by which they are not late in a later step."""
        if not self._operator.watermarks:
            return results
        return results.with_columns(pl.col(TIME_COLUMN).alias(WATERMARK_COLUMN))


def _begun_or_ended(frame: pl.DataFrame) -> pl.DataFrame:
    """The changes that begin or end a version, as inserts and deletes."""
    return parted(frame.filter(pl.col(KIND_COLUMN) != RowKind.UPDATE_BEFORE))


def _both(one: pl.DataFrame | None, other: pl.DataFrame | None) -> pl.DataFrame | None:
    frames = [frame for frame in (one, other) if frame is not None]
    return pl.concat(frames) if frames else None
