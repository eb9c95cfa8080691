"""Make batches with row kinds from changes of the log. Pure, except for the question which keys are behind another.

Always true: the two halves of an update are adjacent; rows stand in the order of the log; a row that the reader of
the table will still give, or that does not fit its columns, has no change here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from msgspec import Struct

from dataflare.connectors.mysql.cdc.columns import Decoder, Described, rows_with
from dataflare.connectors.mysql.cdc.events import DELETE, UPDATE, WRITE, Change, by_shape
from dataflare.connectors.mysql.cdc.history import Columns, Logged, widens
from dataflare.connectors.mysql.cdc.images import Flags, Image, Numbers, locate
from dataflare.connectors.mysql.cdc.table_map import TableMap
from dataflare.connectors.mysql.relation import Column
from dataflare.errors import DataError
from dataflare.formats.text_write import python_row
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.sdk.source import BadRow
from dataflare.sdk.sql.originals import original_row
from dataflare.sdk.sql.read_again import READ_AGAIN

Behind = Callable[[pl.DataFrame], Flags]
"""Which keys the reader of the table has not reached yet."""
_EVENT, _KEPT, _WHY = "__dataflare_event", "__dataflare_kept", "__dataflare_why"


class Decoded(Struct):
    """frame: with row kinds, and with new columns behind those of the output. numbers: of its rows among all images. bad:
    rows that do not fit. new: the types of the new columns. events: of each row of the frame, the number of its change."""

    frame: pl.DataFrame
    numbers: pl.Series
    bad: list[BadRow]
    new: Mapping[str, str] = MappingProxyType({})
    events: pl.Series = pl.Series([], dtype=pl.Int64)


class _Half(Struct):
    """One image of the rows of some changes. counts: whether it is a row that was given, or is to be. why: it does
    not fit its columns."""

    frame: pl.DataFrame
    counts: Flags
    why: pl.Series


class Table(Struct, frozen=True):
    """What the catalogue says of a table. columns: those that can be read, by name. described: all of them."""

    columns: Mapping[str, Column]
    described: Described


class _Layout(Struct):
    """How the rows behind one description in the log are read. decoders: by the number of the column in the log. absent:
    columns that the log has not yet, which are NULL. new: columns that the output lacks, with their types."""

    decoders: dict[int, Decoder]
    absent: list[str]
    new: dict[str, str]


class Batches:
    """table: when the reader began. output: the columns that are given. key: those that identify a row. name: of the
    table, for messages. known: the columns that the plan has; None: new columns are not told. look: what the
    catalogue says of it now."""

    def __init__(
        self, table: Table, output: Sequence[str], key: Sequence[str], name: str, known: Sequence[str] | None = None,
        look: Callable[[], Table] | None = None,
    ) -> None:  # fmt: skip
        self._table, self._name, self._look = table, name, look
        self._known = None if known is None else frozenset(name.casefold() for name in known)
        self._output, self._key = list(output), list(key)
        self._wanted = list(dict.fromkeys([*output, *key]))
        self._layouts: dict[int, _Layout] = {}
        self._maps: list[TableMap] = []
        self._types = {name: table.columns[name].type.to_polars() for name in self._wanted}
        given = {name: self._types[name] for name in output}
        self.nothing = pl.DataFrame(schema={**given, KIND_COLUMN: pl.UInt8})
        for name in self._wanted:
            self._decoder(table, name)

    def decode(self, changes: Sequence[Change], behind: Behind | None) -> Decoded:
        """behind: while the table is read."""
        parts = [
            self._decode([changes[number] for number in numbers], np.array(numbers), behind)
            for numbers in by_shape(changes)
        ]
        if not parts:
            return Decoded(self.nothing, pl.Series([], dtype=pl.Int64), [])
        new = {
            name: type_
            for table in {id(change.table): change.table for change in changes}.values()
            for name, type_ in self._layout(table).new.items()
        }
        whole = pl.concat(parts, how="diagonal" if new else "vertical")
        if len(parts) > 1:
            whole = whole.sort(_EVENT, maintain_order=True)
        frame, fits = whole.select(*self._output, *new, KIND_COLUMN), whole[_WHY].is_null()
        if fits.all():
            return Decoded(frame, pl.Series(np.arange(whole.height)), [], new, whole[_EVENT])
        bad = [
            BadRow(row, "E0501", whole[_WHY][row], self._raw(frame, row), f"table '{self._name}'")
            for row in rows_with(~fits)
        ]
        good = pl.Series(np.flatnonzero(fits.to_numpy()))
        return Decoded(frame.filter(fits), good, bad, new, whole[_EVENT].filter(fits))

    def _decode(
        self, changes: Sequence[Change], numbers: Numbers, behind: Behind | None
    ) -> pl.DataFrame:
        """The rows of changes of one kind, with the number of the change and why a row does not fit."""
        kind, table = changes[0].kind, changes[0].table
        layout = self._layout(table)
        rows = locate(
            [each.rows for each in changes],
            table.cells,
            [*layout.decoders],
            2 if kind == UPDATE else 1,
        )
        event = numbers[rows.event]
        halves = [self._half(rows.data, image, table, layout, behind) for image in rows.images]
        if kind == WRITE:
            parts = [self._part(halves[0], event, RowKind.INSERT, RowKind.INSERT, None)]
        elif kind == DELETE:
            parts = [self._part(halves[0], event, RowKind.DELETE, RowKind.DELETE, None)]
        else:
            went, came = halves
            parts = [
                self._part(went, event, RowKind.UPDATE_BEFORE, RowKind.DELETE, came.counts),
                self._part(came, event, RowKind.UPDATE_AFTER, RowKind.INSERT, went.counts),
            ]
        if len(parts) == 1:
            frame = parts[0]
        else:
            pairs = np.arange(2 * event.size).reshape(2, -1).T.reshape(-1)
            frame = pl.concat(parts)[pairs]
        # What does not fit was never given, so that only its coming is told.
        comes = pl.col(KIND_COLUMN).is_in([RowKind.UPDATE_AFTER.value, RowKind.INSERT.value])
        is_told = pl.col(_KEPT) | (pl.col(_WHY).is_not_null() & comes)
        return frame.filter(is_told).drop(_KEPT)

    def _part(
        self, half: _Half, event: Numbers, both: RowKind, alone: RowKind, other: Flags | None
    ) -> pl.DataFrame:
        """One half of changes. both, alone: its kind with and without the other half. other: where that one
        counts."""
        kinds = np.full(event.size, both.value, np.uint8)
        if other is not None:
            kinds[~other] = alone.value
        return half.frame.with_columns(
            pl.Series(_EVENT, event),
            pl.Series(KIND_COLUMN, kinds),
            pl.Series(_KEPT, half.counts),
            half.why.alias(_WHY),
        )

    def _half(
        self, data: bytes, image: Image, table: TableMap, layout: _Layout, behind: Behind | None
    ) -> _Half:
        view = np.frombuffer(data, np.uint8)
        series: list[pl.Series] = []
        bad: dict[int, str] = {}
        for number, decoder in layout.decoders.items():
            values, unfit = decoder.read(data, view, image.values[number], table.cells[number])
            series.append(values)
            if unfit.any():
                for row in rows_with(unfit):
                    bad.setdefault(
                        row, decoder.message(view, image.values[number], table.cells[number], row)
                    )
        frame = pl.DataFrame(series)
        height = frame.height
        frame = frame.with_columns(
            pl.Series(name, [None], dtype=self._types[name]).new_from_index(0, height)
            for name in layout.absent
        ).select(*self._wanted, *layout.new)
        counts: Flags = np.ones(frame.height, np.bool_)
        if behind is not None and frame.height:
            counts = ~behind(frame.select(self._key))
        why = np.full(frame.height, None)
        for row, message in bad.items():
            if counts[row]:
                why[row], counts[row] = message, False
        return _Half(frame, counts, pl.Series(why.tolist(), dtype=pl.String))

    def _raw(self, frame: pl.DataFrame, row: int) -> str:
        values = python_row(frame.select(self._output), row)
        return original_row({name: _plain(value) for name, value in values.items()})

    def _layout(self, table: TableMap) -> _Layout:
        """Raises DataError if the rows cannot be read as the columns of this run."""
        layout = self._layouts.get(id(table))
        if layout is None:
            layout = self._layouts[id(table)] = self._layout_of(table)
            self._maps.append(table)  # so that its id stays its own
        return layout

    def _layout_of(self, table: TableMap) -> _Layout:
        columns = table.columns
        assert columns is not None
        names = columns.names
        if len(table.cells) != len(names) or (table.names or names) != names:
            raise self._changed(
                f"the log has the columns {', '.join(table.names or (str(len(table.cells)),))}, and {', '.join(names)} "
                "are expected"
            )
        places = {name: place for place, name in enumerate(names)}
        for name in self._key:
            if name not in places:
                raise self._changed(
                    f"its key has the column '{name}', which this place of the log lacks"
                )
        self._keep_up(columns)
        layout = _Layout({}, [name for name in self._wanted if name not in places], {})
        for name in self._wanted:
            if name in places:
                logged = columns.columns[places[name]]
                layout.decoders[places[name]] = self._decoder(self._table, name, logged)
        known = self._known
        fresh = [] if known is None else [name for name in names if name.casefold() not in known]
        if fresh and self._look is not None:
            now = self._table
            if any(name not in now.columns for name in fresh):
                now = self._look()
            for name in fresh:
                # A column that is INVISIBLE is not there.
                if name in now.columns:
                    logged = columns.columns[places[name]]
                    layout.decoders[places[name]] = self._decoder(now, name, logged)
                    layout.new[name] = str(now.columns[name].type)
        for place, decoder in layout.decoders.items():
            decoder.check(table.cells[place])
        return layout

    def _decoder(self, table: Table, name: str, logged: Logged | None = None) -> Decoder:
        """logged: the column at a place of the log. Raises DataError if it was another one there."""
        column, now = table.columns.get(name), table.described.columns.named(name)
        if column is None or now is None:
            raise self._changed(f"column '{name}' is not there any more, or cannot be read")
        if logged is not None and not _fits(logged, now):
            raise self._changed(
                f"column '{name}' was {logged.declared or 'another one'} at this place of the log, and is {now.declared}"
            )
        return Decoder(column, logged or now, table.described, self._name)

    def _keep_up(self, columns: Columns) -> None:
        """Look at the table again where columns were made wider behind the start. Raises DataError if they are to be given
        as another type than the run's."""
        there = {name: columns.named(name) for name in self._wanted}
        now = self._table.described.columns
        is_old = any(
            each is not None and (known := now.named(name)) is not None and not _fits(each, known)
            for name, each in there.items()
        )
        if not is_old or self._look is None:
            return
        table = self._look()
        for name in self._wanted:
            column = table.columns.get(name)
            if column is not None and column != self._table.columns[name]:
                raise DataError(
                    f"column '{name}' of table '{self._name}' is {column.type} now, and was "
                    f"{self._table.columns[name].type} when the run began",
                    code="E0545",
                    help="run again: the run then has the columns that the table has now",
                )
        self._table = table

    def _changed(self, what: str) -> DataError:
        return DataError(
            f"table '{self._name}' was changed: {what}",
            code="E0545",
            help=READ_AGAIN,
        )


def _fits(logged: Logged, now: Logged) -> bool:
    """Whether values that were written to the log with one definition are those of the table with another."""
    return logged.equals(now) or widens(logged, now)


def pieces(kinds: pl.Series, rows_max: int) -> Iterator[tuple[int, int]]:
    """Where a changelog is cut, so that no update is cut in two."""
    starts, start, count = kinds.to_numpy(), 0, kinds.len()
    while start < count:
        end = min(count, start + max(rows_max, 1))
        if end < count and starts[end - 1] == RowKind.UPDATE_BEFORE.value:
            end = end - 1 if end - 1 > start else end + 1
        yield start, end
        start = end


def _plain(value: Any) -> Any:
    return f"X'{value.hex().upper()}'" if isinstance(value, bytes) else value
