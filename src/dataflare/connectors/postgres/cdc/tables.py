"""Decode the changes of one table into batches of rows.

Always true: a change that a snapshot has seen for its key is left out; a row with a value that does not fit is a bad
row; a value that the log does not have is marked as unchanged or an error, never taken for NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
from msgspec import Struct

from dataflare.connectors.postgres.cdc.change_facts import facts_of
from dataflare.connectors.postgres.cdc.log import LoggedTable
from dataflare.connectors.postgres.cdc.place import Part
from dataflare.connectors.postgres.cdc.tuples import Flags, Rows, rows_of
from dataflare.connectors.postgres.cdc.values import Ask, first_unfit, typed
from dataflare.connectors.postgres.relation import Column
from dataflare.errors import DataFlareError, SystemError_
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.halves import without_rows
from dataflare.model.unchanged import marked
from dataflare.sdk.source import BadRow, SourceBatch
from dataflare.sdk.sql.originals import original_row
from dataflare.sdk.sql.table_reads import new_fields

Locate = Callable[[pl.DataFrame, Sequence[Part]], Sequence[int]]
"""In which part each key is. Keys are texts, one column for each column of the key."""


_COMING = (RowKind.INSERT.value, RowKind.UPDATE_AFTER.value)


class SeenOnly(Struct, frozen=True):
    """In place of a decoder, where the log describes a table in a way that cannot be decoded. error: why."""

    error: DataFlareError

    def batch(
        self, messages: Sequence[bytes], transactions: Sequence[int], parts: Sequence[Part], times: Mapping[int, int]
    ) -> None:  # fmt: skip
        """Nothing, because all snapshots have seen the rows. Raises the error if they have not."""
        sights = [part.sight for part in parts]
        if not sights or not all(
            sight.sees(each) for each in set(transactions) for sight in sights
        ):
            raise self.error


class TableDecoder(Struct, frozen=True):
    """label: of the table, for messages. stream, has_old_rows: as in Followed. before: by column that the log lacks, the
    text that the rows have in it, where it is not NULL. logged: as the log describes it. key: the columns that identify a row.
    columns: those of the output; one that the log lacks is NULL. new: columns that the output lacks. needs_unchanged: as in
    Followed."""

    label: str
    stream: str | None
    has_old_rows: bool
    before: Mapping[str, bytes]
    logged: LoggedTable
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    new: tuple[Column, ...]
    needs_unchanged: Mapping[str, str]
    ask: Ask
    locate: Locate

    def batch(
        self, messages: Sequence[bytes], transactions: Sequence[int], parts: Sequence[Part], times: Mapping[int, int]
    ) -> SourceBatch | None:  # fmt: skip
        """The rows; None if the snapshots have seen all of them. times: by transaction, when it was committed. Raises an error
        for a value that the log lacks."""
        names = [column.name for column in self.logged.columns]
        places = {name: place for place, name in enumerate(names)}
        key = [places[name] for name in self.key]
        rows = rows_of(messages, len(names), key)
        kept = self._unseen(rows, transactions, parts, key) if parts else None
        if kept is not None:
            if not kept.any():
                return None
            rows = rows.filter(kept)
        left_out = self._left_out(rows, names)
        facts = [column.name for column in self.columns if column.is_fact]
        of_rows = facts_of(facts, rows.messages, messages, transactions, times) if facts else {}
        return self._typed(rows, places, of_rows, left_out)

    def keys(self, messages: Sequence[bytes]) -> pl.DataFrame:
        """The keys of the rows in changes."""
        names = [column.name for column in self.logged.columns]
        key = [names.index(name) for name in self.key]
        rows = rows_of(messages, len(names), key)
        columns = {column.name: column for column in self.columns}
        return pl.DataFrame(
            [
                typed(rows.values(place), columns[name], self.ask)[0].alias(name)
                for name, place in zip(self.key, key, strict=True)
            ]
        )

    def _unseen(
        self, rows: Rows, transactions: Sequence[int], parts: Sequence[Part], key: Sequence[int]
    ) -> Flags | None:
        """Which rows the snapshot of their part has not seen; None for all."""
        sights = [part.sight for part in parts]
        seen = {
            number: tuple(sight.sees(number) for sight in sights) for number in set(transactions)
        }
        if not any(any(each) for each in seen.values()):
            return None
        of_rows = [seen[transactions[number]] for number in rows.messages.tolist()]
        unsure = [row for row, each in enumerate(of_rows) if any(each) and not all(each)]
        kept = [not any(each) for each in of_rows]
        if unsure:
            keys = pl.DataFrame(
                [rows.values(n).gather(unsure).cast(pl.String).alias(f"k{at}") for at, n in enumerate(key)]
            )  # fmt: skip
            for row, part in zip(unsure, self.locate(keys, parts), strict=True):
                kept[row] = not of_rows[row][part]
        return np.array(kept, np.bool_)

    def _left_out(self, rows: Rows, names: Sequence[str]) -> dict[str, pl.Series]:
        """By column, in which rows the log has no value because it did not change. Raises an error where it is needed."""
        wanted = {column.name for column in (*self.columns, *self.new)}
        of_columns = {}
        for number in rows.left_out:
            name, flags = names[number], rows.cells[number].left_out
            if name not in wanted or flags is None:
                continue
            if (rows.kinds[flags] == RowKind.INSERT.value).any():
                raise self._lacks(name, "changed the key of a row and left", "")
            if name in self.needs_unchanged:
                step = f", and step '{self.needs_unchanged[name]}' needs it"
                raise self._lacks(name, "left", step)
            if name in self.key or any(name == column.name for column in self.new):
                raise self._lacks(name, "left", "")
            of_columns[name] = pl.Series(flags)
        return of_columns

    def _lacks(self, name: str, did: str, why: str) -> SystemError_:
        return SystemError_(
            f"an update of {self.label} {did} the large value of column '{name}' as it was, and the log does not have such "
            f"a value{why}",
            code="E0605",
            help=f'ALTER TABLE "{self.logged.folder}"."{self.logged.name}" REPLICA IDENTITY FULL; then run with --fresh; or '
            "leave the column out with 'columns'",
        )

    def _typed(
        self, rows: Rows, places: Mapping[str, int], facts: Mapping[str, pl.Series],
        left_out: Mapping[str, pl.Series],
    ) -> SourceBatch:  # fmt: skip
        height, series, texts, unfits = rows.kinds.size, [], {}, []
        for column in (*self.columns, *self.new):
            if column.is_fact:
                series.append(facts[column.name])
                continue
            place = places.get(column.name)
            raw = (
                pl.Series([self.before.get(column.name)], dtype=pl.Binary).new_from_index(0, height)
                if place is None
                else rows.values(place)
            )
            values, unfit, text = typed(raw, column, self.ask)
            series.append(values.alias(column.name))
            texts[column.name] = text
            unfits.append((column.name, unfit))
        frame = pl.DataFrame([*series, pl.Series(KIND_COLUMN, rows.kinds)])
        if left_out:
            frame = marked(frame, left_out)
        unfit_rows = first_unfit(unfits)
        # What does not fit was never given, so that only its coming is told.
        bad = [
            self._bad(texts, row, name)
            for row, name in sorted(unfit_rows.items())
            if rows.kinds[row] in _COMING
        ]
        numbers = None
        if unfit_rows:
            of_key = first_unfit([each for each in unfits if each[0] in self.key])
            every = pl.int_range(height, eager=True)
            frame, numbers = self._without(
                frame, every.is_in(list(unfit_rows)), every.is_in(list(of_key))
            )
        found = new_fields(frame, {c.name: str(c.type) for c in self.new}, numbers)
        return SourceBatch(
            frame.drop([column.name for column in self.new]) if self.new else frame,
            bad=bad,
            row_numbers=numbers,
            place=lambda row: self._place(texts, row),
            new_fields=found,
            stream=self.stream,
        )

    def _without(
        self, frame: pl.DataFrame, unfit: pl.Series, unfit_key: pl.Series
    ) -> tuple[pl.DataFrame, pl.Series]:
        """The rows that are left, and their numbers. What an update has replaced that does not fit is not true any more, so
        it is deleted. unfit, unfit_key: the rows that do not fit, and those of which the key does not."""
        if self.has_old_rows:
            return without_rows(frame, unfit), (~unfit).arg_true()
        is_gone = unfit & ~unfit_key & (frame[KIND_COLUMN] == RowKind.UPDATE_AFTER)
        kept = {*self.key, *(column.name for column in self.columns if column.is_fact)}
        others = [n for n in frame.columns if n not in kept and n != KIND_COLUMN]
        as_delete = pl.lit(RowKind.DELETE, pl.UInt8)
        frame = frame.with_columns(
            pl.when(pl.lit(is_gone))
            .then(as_delete)
            .otherwise(pl.col(KIND_COLUMN))
            .alias(KIND_COLUMN),
            *(pl.when(~pl.lit(is_gone)).then(pl.col(name)).alias(name) for name in others),
        )
        stays = ~unfit | is_gone
        return frame.filter(stays), stays.arg_true()

    def _place(self, texts: Mapping[str, pl.Series], row: int) -> str:
        where = ", ".join(f"{name} {texts[name][row]}" for name in self.key if name in texts)
        return f"{self.label} {where}".rstrip()

    def _bad(self, texts: Mapping[str, pl.Series], row: int, name: str) -> BadRow:
        column = next(c for c in (*self.columns, *self.new) if c.name == name)
        values = {each: text[row] for each, text in texts.items()}
        message = f"column '{name}' is {column.type}, and {repr(values[name])[:80]} does not fit"
        return BadRow(row, "E0501", message, original_row(values), self._place(texts, row))
