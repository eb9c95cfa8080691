"""The join of inputs that change: each change of a side changes the result at once.

Both sides are kept. A change of one side is paired with the rows of the other; a row without a match, where it
comes out, goes when its first match comes and is back when its last one goes. Inserts and deletes are weights,
so what comes out in the end does not depend on the order in which changes came (joins of weighted rows are
bilinear: Budiu et al., DBSP, VLDB 2023).

Always true: after each batch, the sum of all results is the join of the sums of both sides. With a time to live
this holds for the rows that are not older.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import polars as pl

from dataflare.model.batch import INSERTS, KIND_COLUMN, Kinds, RowKind
from dataflare.model.event_time import TIME_COLUMNS
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.units import shown_duration
from dataflare.operators import kept_rows
from dataflare.operators.base import LiveOperator, StatefulOperator
from dataflare.operators.changes import as_changes, of_kind, weighted
from dataflare.operators.join_bounded import described
from dataflare.operators.join_rows import chunks
from dataflare.operators.join_shape import KEPT, LEFT, RIGHT, JoinShape, has_null
from dataflare.state.layout import STEP, Adaptation, Held, Layout, TableLayout
from dataflare.state.tables import Tables
from dataflare.state.weighted import HASH, WEIGHT, WRITTEN, WeightedRows, cancelled

_OTHER_WEIGHT = "__dataflare_other_weight"
_BEFORE, _ADDED = "__dataflare_before", "__dataflare_added"
_TICK_S = 10.0
_SLICE_ROWS = 100_000


def now_us() -> int:
    """The processing time, in microseconds since 1970, UTC."""
    return time.time_ns() // 1000


class UpdatingJoin(StatefulOperator, StructABC, frozen=True):
    """arriving: the row kinds of each side. ttl_us: for how long a row is kept."""

    step: str
    shape: JoinShape
    keys: tuple[str, ...]
    arriving: tuple[Kinds, Kinds]
    ttl_us: int | None = None
    inputs: tuple[str, ...] = ()
    accepts = frozenset(RowKind)
    goes_on = True

    def keys_of(self, port: int) -> tuple[str, ...]:
        return self.shape.keys_of(port)

    def makes(self, arriving: Kinds) -> Kinds:
        return INSERTS if self.appends else frozenset({RowKind.INSERT, RowKind.DELETE})

    @property
    def appends(self) -> bool:
        """Whether no result is ever taken back."""
        return set(self.arriving) == {INSERTS} and self.shape.kind in ("inner", "semi")

    def open(self, tables: Tables) -> LiveOperator:
        return LiveUpdatingJoin(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        layouts = {}
        for port, name in enumerate(("left", "right")):
            columns = self.kept(port)
            keys = {key: f"{columns[key]}" for key in self.keys_of(port)}
            others = {f.name: f"{f.name}: {f.type}" for f in columns if f.name not in keys}
            own = {WEIGHT: "(how often)", HASH: "(hash of the key)"}
            own |= {} if self.ttl_us is None else {WRITTEN: "(when it was stored)"}
            layouts[name] = TableLayout(
                keys, others | own, rule=f"one side of the {self.shape.kind} join"
            )
        settings = {"ttl": self.ttl_us, "inputs": list(self.inputs)}
        return {STEP: TableLayout(settings=settings), **layouts}

    def initial(self, table: str) -> pl.DataFrame:
        """A row that is kept gets the time to live from now on."""
        columns = self.kept(LEFT if table == "left" else RIGHT)
        return kept_rows.nulls(columns).with_columns(pl.lit(now_us(), pl.Int64).alias(WRITTEN))

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        if reason := kept_rows.other_inputs({"inputs": now["inputs"], **before}, now):
            return reason
        for port, table in enumerate(("left", "right")):
            if self.arriving[port] != INSERTS and (reason := kept_rows.new_columns(held, table)):
                return reason
        if not any(held.rows.values()):
            return Adaptation()
        had_ttl = any(WRITTEN in move.former for move in held.moves.values())
        old, new = before.get("ttl"), self.ttl_us
        if had_ttl and new is None:
            return (
                "its rows were kept for a time (ttl), and are kept for ever now: of those that are forgotten, a delete "
                "could not be told from one of a row that never came"
            )
        if new is None or old == new:
            return Adaptation()
        shown = shown_duration(new)
        if not had_ttl:
            return Adaptation((f"rows that it keeps are forgotten {shown} from now on",))
        if old is not None and new > old:
            # Those that had no new matches any more must get none, because nothing says which they had.
            notes = (f"rows older than {shown_duration(old)} are forgotten already",)
            return Adaptation(notes, _Young(now_us() - old))
        return Adaptation((f"rows older than {shown} are forgotten",))

    def kept(self, port: int) -> Schema:
        """The columns of a side that are kept: of the right side of semi and anti only the keys."""
        if port == RIGHT and self.shape.kind in ("semi", "anti"):
            return self.shape.right.select(list(self.shape.right_keys))
        return self.shape.schema_of(port)

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        live = LiveUpdatingJoin(self, tables)
        return {
            name: (
                part
                for rows in side.parts()
                for part in rows.drop(HASH, WRITTEN, strict=False).iter_slices(_SLICE_ROWS)
            )
            for name, side in zip(("left", "right"), live.sides, strict=True)
        }

    def describe(self) -> str:
        kept = (
            "rows are kept for ever"
            if self.ttl_us is None
            else f"a row is kept for {shown_duration(self.ttl_us)}"
        )
        updated = "" if self.appends else ", updated with each change"
        return f"{described(self.shape)}{updated}; {kept}"


class _Young:
    """Leaves out rows that were stored before a time."""

    def __init__(self, since_us: int) -> None:
        self._since_us = since_us

    def __call__(self, table: str, frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
        if WRITTEN in frame.columns:
            frame = frame.filter(pl.col(WRITTEN) >= self._since_us)
        yield table, frame


class LiveUpdatingJoin(LiveOperator):
    """A row whose key has a NULL matches nothing, so it comes out at once, or never."""

    def __init__(self, operator: UpdatingJoin, tables: Tables) -> None:
        self._operator, self._shape = operator, operator.shape
        self._ttl_us = operator.ttl_us
        self.tick_s = None if operator.ttl_us is None else _TICK_S
        names = zip(("left", "right"), (LEFT, RIGHT), strict=True)
        self.sides = [
            WeightedRows(tables.rows(name, operator.keys_of(port)), ttl_us=operator.ttl_us)
            for name, port in names
        ]

    def process(self, port: int, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
        null = has_null(self._shape.keys_of(port))
        alone = frame.filter(null)
        if alone.height and port in KEPT[self._shape.kind]:
            yield from self._unpaired(alone, port)
        rows = frame.filter(~null)
        if not rows.height:
            return
        now = 0 if self._ttl_us is None else now_us()
        delta = weighted(rows).select(*self._operator.kept(port).names, WEIGHT)
        delta = self.sides[port].hashed(cancelled(delta))
        for result in self._changes(port, delta, now):
            if result.height:
                yield self._out(result)
        self.sides[port].add(delta, now)

    def tick(self) -> Iterator[pl.DataFrame]:
        """Forget what is too old."""
        for side in self.sides:
            side.forget(now_us())
        yield from ()

    def _unpaired(self, frame: pl.DataFrame, port: int) -> Iterator[pl.DataFrame]:
        rows = self._shape.alone(frame.drop(*TIME_COLUMNS, strict=False), port)
        if KIND_COLUMN not in frame.columns:
            yield of_kind(rows, RowKind.INSERT)
            return
        yield as_changes(rows.with_columns(weighted(frame)[WEIGHT]))

    def _out(self, result: pl.DataFrame) -> pl.DataFrame:
        changes = as_changes(result)
        return changes.drop(KIND_COLUMN) if self._operator.appends else changes

    def _changes(self, port: int, delta: pl.DataFrame, now: int) -> Iterator[pl.DataFrame]:
        """What a change of a side changes: first what goes, then what comes, so that of two results with the same
        key the later one is there. Results have WEIGHT."""
        hashes = delta[HASH].unique(maintain_order=True)
        kind, side = self._shape.kind, self._keyed(delta, port)
        others = self._keyed(self._found(1 - port, hashes, now), 1 - port)
        flips = self._flips(port, side, others, hashes, now)
        leaving, coming = side.filter(pl.col(WEIGHT) < 0), side.filter(pl.col(WEIGHT) > 0)
        if flips is not None:
            yield self._alone(flips.filter(pl.col(WEIGHT) < 0), 1 - port)
        for part in (leaving, coming):
            if kind not in ("semi", "anti"):
                yield from self._pairs(port, part, others)
            if port in KEPT[kind] or (kind == "semi" and port == LEFT):
                yield self._alone(self._undecided(part, others), port)
        if flips is not None:
            yield self._alone(flips.filter(pl.col(WEIGHT) > 0), 1 - port)

    def _found(self, port: int, hashes: pl.Series, now: int) -> pl.DataFrame:
        """The rows of a side whose keys have these hashes."""
        found = self.sides[port].having(hashes, now)
        if found is None:
            schema = self._operator.kept(port).to_polars()
            return pl.DataFrame(schema={**schema, WEIGHT: pl.Int64(), HASH: pl.UInt64()})
        rows = cancelled(found).drop(WRITTEN, strict=False)
        # A row that was deleted after it was forgotten is not there; it is not there -1 times.
        return rows if self._ttl_us is None else rows.filter(pl.col(WEIGHT) > 0)

    def _keyed(self, frame: pl.DataFrame, port: int) -> pl.DataFrame:
        return frame.with_columns(self._shape.key_columns(port))

    def _pairs(self, port: int, rows: pl.DataFrame, others: pl.DataFrame) -> Iterator[pl.DataFrame]:
        if not rows.height or not others.height:
            return
        shape, names = self._shape, self._shape.key_names
        for part in chunks(names, rows, others):
            left, right = (part, others) if port == LEFT else (others, part)
            named = right.select(*shape.right_values(), *names, pl.col(WEIGHT).alias(_OTHER_WEIGHT))
            joined = left.lazy().join(named.lazy(), on=names, how="inner")
            weight = (pl.col(WEIGHT) * pl.col(_OTHER_WEIGHT)).alias(WEIGHT)
            yield joined.select(*shape.whole(), weight).collect(engine="in-memory")

    def _undecided(self, rows: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
        """The rows that have a match (semi), or none (the other kinds)."""
        names = self._shape.key_names
        matched = _totals(others, names).filter(pl.col(WEIGHT) > 0)
        how: Literal["semi", "anti"] = "semi" if self._shape.kind == "semi" else "anti"
        return rows.join(matched, on=names, how=how, maintain_order="left")

    def _flips(
        self,
        port: int,
        side: pl.DataFrame,
        others: pl.DataFrame,
        hashes: pl.Series,
        now: int,
    ) -> pl.DataFrame | None:
        """The rows of the other side that come or go because their first match came or their last one went. None
        where such rows do not come out."""
        kind, names = self._shape.kind, self._shape.key_names
        if 1 - port not in KEPT[kind] and not (kind == "semi" and port == RIGHT):
            return None
        if not others.height:
            return others
        own = self._keyed(self._found(port, hashes, now), port)
        before = _totals(own, names).rename({WEIGHT: _BEFORE})
        keys = _totals(side, names).rename({WEIGHT: _ADDED})
        keys = keys.join(before, on=names, how="left").with_columns(pl.col(_BEFORE).fill_null(0))
        had, has = pl.col(_BEFORE) > 0, pl.col(_BEFORE) + pl.col(_ADDED) > 0
        comes, goes = (has & ~had, had & ~has) if kind == "semi" else (had & ~has, has & ~had)
        sign = pl.when(comes).then(1).when(goes).then(-1)
        keys = keys.select(*names, sign.cast(pl.Int64).alias(_ADDED)).drop_nulls(_ADDED)
        flipped = others.join(keys, on=names, how="inner", maintain_order="left")
        return flipped.with_columns((pl.col(WEIGHT) * pl.col(_ADDED)).alias(WEIGHT)).drop(_ADDED)

    def _alone(self, rows: pl.DataFrame, port: int) -> pl.DataFrame:
        return self._shape.alone(rows, port).with_columns(rows[WEIGHT])


def _totals(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """How often each key is there."""
    return rows.lazy().group_by(names).agg(pl.col(WEIGHT).sum()).collect(engine="in-memory")
