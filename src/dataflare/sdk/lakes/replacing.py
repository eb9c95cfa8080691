"""Apply changes by key to the files of a table: files that have rows of a changed key are written again
without them (copy on write).

Always true: a row group and a part of the changes are in memory, not a file or the table; a file without a
row of a changed key is not touched; a key that has several rows in the table is an error.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, Any

import polars as pl
from msgspec import Struct

from dataflare.sdk.lakes.fit import in_order
from dataflare.sdk.lakes.marking import marked
from dataflare.sdk.lakes.pending import DELETE, EVENT, TOUCH, UPSERT, Pending
from dataflare.sdk.lakes.table import DataFile, FileWriter, LakeTable
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.tables import several_rows

_ROW, _PLACE, _NEW = "__dataflare_row", "__dataflare_place", "__dataflare_new_"
_MEMORY_BYTES = 128 * 2**20


class Writers(Struct):
    """arrived: for rows that have arrived in this run. kept: for rows of older files that stay."""

    arrived: FileWriter
    kept: FileWriter


class Part:
    """Changes with one event per key. matched: which of them have met a row of the table."""

    def __init__(self, events: pl.DataFrame, file: IO[bytes] | None) -> None:
        self._events: pl.DataFrame | None = events
        self._file = file
        self.matched = pl.repeat(False, events.height, eager=True)
        if file is not None:
            self._start = file.seek(0, io.SEEK_END)
            events.write_ipc_stream(file, compression="lz4")
            self._length = file.tell() - self._start
            self._events = None

    def events(self) -> pl.DataFrame:
        if self._events is not None:
            return self._events
        assert self._file is not None
        self._file.seek(self._start)
        body: Any = io.BytesIO(self._file.read(self._length))
        return pl.read_ipc_stream(body)

    def note(self, places: pl.Series) -> bool:
        """Note that these events have met a row. False if one of them has met two."""
        twice = places.is_duplicated().any() or self.matched.gather(places).any()
        self.matched = self.matched.scatter(places, True)
        return not twice


class Replacing:
    """The changes of an epoch, ready to be applied. marks: the column with the time of a delete, where such rows stay."""

    def __init__(
        self, table: LakeTable, target: Target, pending: Pending, marks: str | None = None
    ) -> None:
        self._marks = marks
        self._table, self._target, self._key = table, target, list(target.key)
        self._parts: list[Part] = []
        self._file: IO[bytes] | None = None
        self._lows: dict[str, Any] = {}
        self._highs: dict[str, Any] = {}
        held = 0
        for events in pending.parts():
            if not events.height:
                continue
            self._widen(events)
            held += int(events.estimated_size())
            if held > _MEMORY_BYTES and self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._parts.append(Part(events.with_row_index(_PLACE), self._file))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def apply(
        self, files: Sequence[DataFile], writers: Writers, has_arrived: Callable[[DataFile], bool]
    ) -> list[DataFile]:
        """Write the changes; returns the files whose rows were written again, which leave the table."""
        left = [each for each in files if self._may_have(each) and self._has(each)]
        for file in left:
            self._rewrite(file, writers, writers.arrived if has_arrived(file) else writers.kept)
        for part in self._parts:
            events = part.events()
            fresh = events.filter(~part.matched & (events[EVENT] == UPSERT))
            if fresh.height:
                writers.arrived.add(in_order(fresh, self._table.schema))
        return left

    # -- which files -------------------------------------------------------------------------------

    def _widen(self, events: pl.DataFrame) -> None:
        for name in self._key:
            low: Any = events[name].min()
            high: Any = events[name].max()
            if low is None or high is None:
                continue
            self._lows[name] = min(self._lows.get(name, low), low)
            self._highs[name] = max(self._highs.get(name, high), high)

    def _may_have(self, file: DataFile) -> bool:
        for name, bounds in file.bounds.items():
            if name in self._lows and (
                bounds.high < self._lows[name] or bounds.low > self._highs[name]
            ):
                return False
        return bool(self._lows)

    def _has(self, file: DataFile) -> bool:
        """Whether a row of the file has a key that changes."""
        for frame in self._table.read(file, self._key):
            for part in self._parts:
                if frame.join(part.events(), on=self._key, how="semi").height:
                    return True
        return False

    # -- rows --------------------------------------------------------------------------------------

    def _rewrite(self, file: DataFile, writers: Writers, same: FileWriter) -> None:
        """same: the writer for rows that stay as they are."""
        for frame in self._table.read(file, self._table.schema.names):
            rows = frame.with_row_index(_ROW)
            taken: list[pl.Series] = []
            for part in self._parts:
                taken += self._apply_part(rows, part, writers, same)
            stays = pl.repeat(True, rows.height, eager=True)
            for places in taken:
                stays = stays.scatter(places, False)
            if stays.any():
                same.add(frame.filter(stays))

    def _apply_part(
        self, rows: pl.DataFrame, part: Part, writers: Writers, same: FileWriter
    ) -> list[pl.Series]:
        """Write what becomes of the rows that the part changes; returns their numbers in the frame."""
        events = part.events()
        renamed = {n: _NEW + n for n in events.columns if n not in (*self._key, EVENT, _PLACE)}
        met = rows.join(events.rename(renamed), on=self._key, how="inner")
        if not met.height:
            return []
        if not part.note(met[_PLACE]):
            raise several_rows(self._target, self._target.table)
        wins = self._wins(met)
        upserts = met.filter(wins & (met[EVENT] == UPSERT))
        if upserts.height:
            news = [pl.col(new).alias(old) for old, new in renamed.items()]
            writers.arrived.add(upserts.with_columns(news).select(self._table.schema.names))
        arrived = met.filter((~wins & (met[EVENT] == UPSERT)) | (met[EVENT] == TOUCH))
        if arrived.height:
            writers.arrived.add(arrived.select(self._table.schema.names))
        gone = met.filter(wins & (met[EVENT] == DELETE))
        if self._marks is not None and gone.height:
            same.add(marked(gone.select(self._table.schema.names), self._marks))
        return [upserts[_ROW], arrived[_ROW], gone[_ROW]]

    def _wins(self, met: pl.DataFrame) -> pl.Series:
        """Whether the event is newer than the row."""
        sequence = self._target.sequence
        new = f"{_NEW}{sequence}"
        if sequence is None or new not in met.columns:
            return pl.repeat(True, met.height, eager=True)
        given, stored = pl.col(new), pl.col(sequence)
        newer = pl.when(pl.col(EVENT) == DELETE).then(given >= stored).otherwise(given > stored)
        return met.select((newer | stored.is_null()).fill_null(False)).to_series()
