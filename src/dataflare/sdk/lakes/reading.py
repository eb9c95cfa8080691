"""Readers of a lake's table: one file, or one version after another."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.errors import DataError
from dataflare.formats.text_write import python_row
from dataflare.model.batch import SharedDataBatch
from dataflare.model.new_fields import NewFields, typed_fields
from dataflare.model.progress import Position
from dataflare.model.types import DataType, Schema
from dataflare.sdk.lakes.fit import in_order
from dataflare.sdk.lakes.table import DataFile, LakeTable
from dataflare.sdk.source import EndOfSplit, SourceBatch, SplitReader
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.sdk.lakes.source import LakeSource


class ChangeFeed(ABC):
    """Another power of a LakeSource: its table keeps the changes of each version."""

    @abstractmethod
    def changes(self, version: int, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The changes of a version, with row kinds: first what goes, and then what comes."""


def conformed(
    table: LakeTable, file: DataFile, schema: Schema, skip: int, more: Sequence[str] = ()
) -> Iterator[pl.DataFrame]:
    """The rows of a file with the columns of a schema: those that the table lacks are NULL. more: other
    columns of the table, behind them."""
    names = [name for name in schema.names if name in table.schema]
    for frame in table.read(file, [*names, *more] or table.schema.names[:1], skip):
        if not schema.names and not more:
            yield pl.DataFrame(height=frame.height)
            continue
        rows = in_order(frame, schema) if names or more else pl.DataFrame(height=frame.height)
        rows = rows.cast(dict(schema.to_polars()))  # type: ignore[arg-type]
        yield rows.hstack([frame[name] for name in more])


class FileReader(SplitReader):
    """frames: the rows from `row` on. last: the version up to which the run reads."""

    def __init__(self, frames: Iterator[pl.DataFrame], row: int, last: int) -> None:
        self._frames, self._row, self._last = frames, row, last
        self._held: pl.DataFrame | None = None

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        while self._held is None or not self._held.height:
            self._held = await in_thread(next, self._frames, None)
            if self._held is None:
                raise EndOfSplit
        batch, self._held = self._held.head(rows_max), self._held.slice(rows_max)
        self._row += batch.height
        return SharedDataBatch(batch)

    def position(self) -> Position:
        return Position({"row": self._row, "last": self._last})

    async def aclose(self) -> None:
        await in_thread(_close, self._frames)


class LogReader(SplitReader):
    """All rows of a snapshot if the start says so, then what each later version brought. start: JSON of the
    position. until: the last version; None: it waits for more.

    Of changes, a checkpoint is cut between versions only."""

    def __init__(
        self, source: LakeSource, schema: Schema, start: dict[str, Any], until: int | None
    ) -> None:
        self._source, self._schema, self._until = source, schema, until
        self._place = start
        self._frames: Iterator[pl.DataFrame] | None = None
        self._held: pl.DataFrame | None = None
        self._next: pl.DataFrame | None = None
        self._waiting: list[int] = []
        self._current: int | None = None
        self._new: dict[str, str] = {}

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        while self._held is None or not self._held.height:
            if not await in_thread(self._advance):
                await asyncio.sleep(self._source.config.watch_interval)
        batch, self._held = self._held.head(rows_max), self._held.slice(rows_max)
        ends = not self._held.height and self._next is None
        may_cut = not self._source.gives_changes or "snapshot" in self._place or ends
        found = self._new_fields(batch)
        self._move(batch.height, ends)
        return SourceBatch(batch.drop(list(self._new)), may_cut=may_cut, new_fields=found)

    def position(self) -> Position:
        return Position(dict(self._place))

    async def aclose(self) -> None:
        await in_thread(_close, self._frames)

    def _move(self, rows: int, ends: bool) -> None:
        """Set the position behind rows that are returned."""
        if not ends:
            self._place = {**self._place, "row": self._place.get("row", 0) + rows}
        elif "snapshot" in self._place:
            self._place = {"after": self._place["snapshot"]}
        else:
            self._place = {"after": self._current}

    def _advance(self) -> bool:
        """Find the next rows. False if there are none now. Raises EndOfSplit."""
        while True:
            if self._frames is not None:
                self._held, self._next = self._next, next(self._frames, None)
                if self._next is None:
                    _close(self._frames)
                    self._frames = None
                if self._held is not None and self._held.height:
                    return True
                if self._frames is not None:
                    continue
                if self._held is None or not self._held.height:
                    self._move(0, True)
                continue
            if not self._begin():
                return False

    def _begin(self) -> bool:
        """Begin with the snapshot, or with the next version. False if there is none now."""
        source, place = self._source, self._place
        if "snapshot" in place:
            if place["snapshot"] is None:
                self._place = {"after": None}
                return True
            self._read(self._of_snapshot(place["snapshot"], place.get("row", 0)))
            return True
        after = place.get("after")
        if not self._waiting:
            self._waiting = [*source.later(after)]
            if self._until is not None:
                known = self._waiting
                end = known.index(self._until) + 1 if self._until in known else 0
                self._waiting = known[:end]
        if not self._waiting:
            if self._until is not None or not source.config.watch:
                raise EndOfSplit
            return False
        self._current = self._waiting.pop(0)
        self._read(self._of_version(self._current, place.get("row", 0)))
        return True

    def _read(self, frames: Iterator[pl.DataFrame]) -> None:
        self._frames, self._next = frames, next(frames, None)

    def _of_snapshot(self, version: int, skip: int) -> Iterator[pl.DataFrame]:
        table = self._source.version(version)
        self._note_new(table)
        yield from self._of_files(table, table.files(), skip)

    def _of_version(self, version: int, skip: int) -> Iterator[pl.DataFrame]:
        table = self._source.version(version)
        self._note_new(table)
        if self._source.gives_changes:
            assert isinstance(self._source, ChangeFeed)
            names = [n for n in self._schema.names if n in table.schema]
            for frame in self._source.changes(version, [*names, *self._new]):
                extra = [c for c in frame if c.name not in self._schema]
                rows = in_order(frame, self._schema).cast(dict(self._schema.to_polars()))  # type: ignore[arg-type]
                yield rows.hstack(extra)
        else:
            yield from self._of_files(table, self._source.added(version), skip)

    def _of_files(
        self, table: LakeTable, files: Sequence[DataFile], skip: int
    ) -> Iterator[pl.DataFrame]:
        for file in files:
            rows = file.rows
            if rows is None and skip:
                rows = sum(f.height for f in table.read(file, table.schema.names[:1]))
            if rows is not None and skip >= rows:
                skip -= rows
                continue
            yield from conformed(table, file, self._schema, skip, list(self._new))
            skip = 0

    def _note_new(self, table: LakeTable) -> None:
        """Columns that a version has and the run does not know."""
        source = self._source
        if source.config.columns is not None or source.projects:
            return
        for field in self._schema:
            if field.name in table.schema and not _fits(table.schema[field.name], field.type):
                raise DataError(
                    f"{table.label} changed the type of column '{field.name}' from {field.type} to "
                    f"{table.schema[field.name]}",
                    code="E0545",
                    help="run again with --accept-changes",
                )
        self._new = {f.name: str(f.type) for f in table.schema if f.name not in self._schema}

    def _new_fields(self, batch: pl.DataFrame) -> NewFields | None:
        if not self._new:
            return None
        has = batch.select(pl.any_horizontal(pl.col(n).is_not_null() for n in self._new))
        rows = has.to_series().arg_true().to_list()
        if not rows:
            return None
        return typed_fields(self._new, rows, lambda row: str(python_row(batch, row)))


def _fits(type_: DataType, into: DataType) -> bool:
    """Whether every value of a type is one of another."""
    if type_ == into:
        return True
    if type_.is_integer and into.is_integer:
        signs = type_.name.startswith("u"), into.name.startswith("u")
        widths = [int("".join(c for c in t.name if c.isdigit())) for t in (type_, into)]
        return signs[0] == signs[1] and widths[0] <= widths[1]
    if type_.name == into.name == "decimal":
        digits, scale = type_.precision or 0, type_.scale or 0
        into_digits, into_scale = into.precision or 0, into.scale or 0
        return scale <= into_scale and digits - scale <= into_digits - into_scale
    return type_.name == "float32" and into.name == "float64"


def _close(frames: Any) -> None:
    if frames is not None:
        frames.close()
