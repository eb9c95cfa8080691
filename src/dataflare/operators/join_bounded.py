"""The join of two inputs that end: everything is known, then part by part is joined.

Always true: between two results the tables hold what was not given yet. A part is moved to the `ready`
tables at once, together with the results of its unmatched rows of the right side; what is left in
`ready` then needs no row of the other parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.operators import kept_rows
from dataflare.operators.base import LiveOperator, StatefulOperator
from dataflare.operators.join_parts import Parts
from dataflare.operators.join_rows import CHUNK_ROWS, chunks, matched, prepared, unmatched
from dataflare.operators.join_shape import KEPT, LEFT, RIGHT, JoinShape, has_null
from dataflare.state.layout import STEP, Adaptation, Held, Layout, TableLayout
from dataflare.state.rows import RowsTable
from dataflare.state.tables import Tables

_SLICE_ROWS = 65_536


class BoundedJoin(StatefulOperator, StructABC, frozen=True):
    step: str
    shape: JoinShape
    keys: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    bounded_only = True

    def keys_of(self, port: int) -> tuple[str, ...]:
        return self.shape.keys_of(port)

    def open(self, tables: Tables) -> LiveOperator:
        return LiveBoundedJoin(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        shape = self.shape
        settings = {
            "form": "at the end of its inputs",
            "kind": shape.kind,
            "within": None,
            "inputs": list(self.inputs),
        }
        sides = {
            name: kept_rows.layout_of(shape.of_table(name), shape.keys_of(port))
            for port, names in enumerate((("left", "ready_left"), ("right", "ready_right")))
            for name in names
        }
        results = kept_rows.layout_of(shape.output)
        return {STEP: TableLayout(settings=settings), **sides, "results": results}

    def initial(self, table: str) -> pl.DataFrame:
        return kept_rows.nulls(self.shape.of_table(table))

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        return kept_rows.adapted_join(before, now, held)

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The rows of both sides."""
        names = {"left": self.shape.left_keys, "right": self.shape.right_keys}
        return kept_rows.shown(tables, {name: (name, keys) for name, keys in names.items()})

    def describe(self) -> str:
        return described(self.shape)


def described(shape: JoinShape) -> str:
    pairs = zip(shape.left_keys, shape.right_keys, strict=True)
    on = ", ".join(own if own == other else f"{own} = {other}" for own, other in pairs)
    return f"{shape.kind} join on {on}"


class LiveBoundedJoin(LiveOperator):
    """A row whose key has a NULL matches nothing, so it comes out at once, or never."""

    def __init__(self, operator: BoundedJoin, tables: Tables) -> None:
        self._shape = operator.shape
        self._rows = [_rows(tables, self._shape, name) for name in ("left", "right")]
        self._ready = [_rows(tables, self._shape, name) for name in ("ready_left", "ready_right")]
        self._results = tables.queue("results")
        self._parts = Parts(tables, self._rows, self._shape.empty)
        self._ended: set[int] = set()

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        shape = self._shape
        null = has_null(shape.keys_of(port))
        alone, rows = frame.filter(null), frame.filter(~null)
        if rows.height:
            self._rows[port].append(rows)
        if alone.height and port in KEPT[shape.kind]:
            return (shape.alone(alone, port),)
        return ()

    def end(self, port: int) -> Iterator[pl.DataFrame]:
        self._ended.add(port)
        if len(self._ended) < 2:
            return
        yield from self._join_ready()
        yield from self._parts.cut()
        while (part := self._parts.take()) is not None:
            self._make_ready(part)
            self._parts.done()
            yield from self._join_ready()

    def _make_ready(self, part: list[pl.DataFrame | None]) -> None:
        """Move a part to `ready`; the rows of the right side without a match are results already, in a
        full join."""
        shape = self._shape
        left, right = (self._or_none(rows, port) for port, rows in enumerate(part))
        if shape.kind == "full":
            other = prepared(shape, left, LEFT)
            marked = right.with_columns(shape.key_columns(RIGHT))
            alone = unmatched(shape, marked, other)
            if alone.height:
                self._results.put(shape.alone(alone, RIGHT))
        for table, rows in zip(self._ready, (left, right), strict=True):
            if rows.height:
                table.append(rows)

    def _join_ready(self) -> Iterator[pl.DataFrame]:
        yield from self._results.drain(_SLICE_ROWS)
        shape = self._shape
        port = RIGHT if shape.kind == "right" else LEFT
        rows = self._ready[port].frames()
        if rows:
            others = self._ready[1 - port].frames()
            other = self._or_none(pl.concat(others) if others else None, 1 - port)
            build = prepared(shape, other, 1 - port)
            probe = pl.concat(rows)
            keyed = probe.with_columns(shape.key_columns(port))
            parts = self._chunks(keyed, build)
            waiting = [self._ready[port].piece_of(part.select(probe.columns)) for part in parts]
            for place, part in enumerate(parts):
                chunk = part if port == LEFT else prepared(shape, part, RIGHT)
                results = matched(shape, chunk, build)
                self._ready[port].set(waiting[place + 1 :])
                if results.height:
                    self._results.put(results)
                yield from self._results.drain(_SLICE_ROWS)
        for table in self._ready:
            table.set([])

    def _chunks(self, probe: pl.DataFrame, build: pl.DataFrame) -> list[pl.DataFrame]:
        if self._shape.kind in ("semi", "anti"):
            return list(probe.iter_slices(CHUNK_ROWS))
        return list(chunks(self._shape.key_names, probe, build))

    def _or_none(self, rows: pl.DataFrame | None, port: int) -> pl.DataFrame:
        """The rows, or a frame without rows."""
        if rows is not None:
            return rows
        return pl.DataFrame(schema=self._shape.schema_of(port).to_polars())


def _rows(tables: Tables, shape: JoinShape, name: str) -> RowsTable:
    return tables.rows(name, shape.keys_of(RIGHT if name.endswith("right") else LEFT))
