"""A step over inputs that end, behind a changelog: the changes are applied first, and the step gets the rows that
are left.

Always true: until its input ends a row is in the tables of this part, from then on in those of the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl

from dataflare.model.batch import CHANGES, INSERTS, Kinds
from dataflare.model.record import StructABC
from dataflare.operators.base import LiveOperator, Result, StatefulOperator
from dataflare.operators.changes import repeated, weighted
from dataflare.state.tables import Tables
from dataflare.state.weighted import HASH, WeightedRows, cancelled

_SLICE_ROWS = 65_536


class AppliedFirst(StatefulOperator, StructABC, frozen=True):
    """inner: the step. inputs: how many inputs it has."""

    step: str
    keys: tuple[str, ...]
    inner: StatefulOperator
    inputs: int
    accepts = CHANGES
    bounded_only = True

    def keys_of(self, port: int) -> tuple[str, ...]:
        return self.inner.keys_of(port)

    def makes(self, arriving: Kinds) -> Kinds:
        return self.inner.makes(INSERTS)

    def open(self, tables: Tables) -> LiveOperator:
        return LiveAppliedFirst(self, tables)

    def describe(self) -> str:
        return f"the changes are applied, then {self.inner.describe()}"


def applied_first(operator: StatefulOperator, inputs: int) -> AppliedFirst:
    return AppliedFirst(operator.step, operator.keys, operator, inputs)


class LiveAppliedFirst(LiveOperator):
    def __init__(self, operator: AppliedFirst, tables: Tables) -> None:
        self._inner = operator.inner.open(tables)
        self._rows = [
            WeightedRows(tables.rows(f"changes_{port}", operator.keys_of(port)))
            for port in range(operator.inputs)
        ]

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[Result]:
        table = self._rows[port]
        table.add(table.hashed(cancelled(weighted(frame))))
        return ()

    def end(self, port: int) -> Iterator[Result]:
        for rows in self._rows[port].drain():
            left = repeated(rows.drop(HASH))
            results = [
                result
                for part in left.iter_slices(_SLICE_ROWS)
                for result in self._inner.process(port, part)
            ]
            yield from results
        for result in self._inner.end(port):
            self.lowering = self._inner.lowering
            yield result

    def close(self) -> None:
        self._inner.close()
