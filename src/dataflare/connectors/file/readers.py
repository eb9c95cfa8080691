"""Files being read: chunks of whole records of text, or pieces of tables.

Always true: a chunk's position is the place after its last row; reading from there gives exactly
the rows that follow, or an error when the file is another one by now.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dataflare.connectors.file.errors import file_errors
from dataflare.errors import CheckpointError
from dataflare.formats.compression import NONE, ByteStream, open_stream
from dataflare.formats.csv_read import CsvPlan
from dataflare.formats.line_chunks import CHECKED_BYTES, LineChunks, LineNumbers, checksum
from dataflare.formats.ndjson_read import NdjsonPlan
from dataflare.formats.table_read import TablePiece
from dataflare.model.progress import Position
from dataflare.sdk.source import BadRow, Chunk, ChunkReader, EndOfSplit, Salvaged

Added = Mapping[str, tuple[Any, pl.DataType]]
"""Columns that say the same in all rows of a file: the file's path, its partition."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file of a split: what was seen of it when it was listed."""

    path: Path
    size: int
    mtime_ns: int
    compression: str = NONE
    encoding: str = "utf-8"

    def position(self, **place: Any) -> Position:
        return Position({**place, "size": self.size, "mtime_ns": self.mtime_ns})

    @property
    def is_plain(self) -> bool:
        return self.compression == NONE and self.encoding.lower() in ("utf-8", "utf8", "ascii")

    def stream(self, offset: int) -> ByteStream:
        """The text from `offset` on. A plain file that grew since is read to its listed size."""
        limit = self.size if self.is_plain else None
        return open_stream(
            self.path, self.compression, offset=offset, limit=limit, encoding=self.encoding
        )

    def check_shrunk(self) -> None:
        if os.stat(self.path).st_size < self.size:
            raise self.changed("it is shorter than when the run listed it")

    def changed(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} has changed since it was read: {why}",
            code="E0703",
            help="put the old file back, or start over with --fresh",
        )


def with_added(frame: pl.LazyFrame, added: Added, output: Sequence[str]) -> pl.LazyFrame:
    """The rows with the columns that the file itself says, in the order wanted."""
    if not added:
        return frame
    literals = [pl.lit(value, dtype).alias(name) for name, (value, dtype) in added.items()]
    return frame.with_columns(literals).select(output)


class LineReader(ChunkReader):
    """CSV and NDJSON. Chunks are cut in a thread; parsing is left to the chunk's query."""

    def __init__(
        self,
        facts: FileFacts,
        plan: CsvPlan | NdjsonPlan,
        body: int,
        position: Position | None,
        added: Added,
        output: Sequence[str],
    ) -> None:
        self._facts, self._plan, self._added, self._output = facts, plan, added, tuple(output)
        self._lines = LineNumbers(facts.stream)
        quote = plan.dialect.quote if isinstance(plan, CsvPlan) else None
        delimiter = plan.dialect.delimiter if isinstance(plan, CsvPlan) else ","
        with file_errors(facts.path):
            facts.check_shrunk()
            stream, before, offset = self._start(body, position)
        self._chunks = LineChunks(stream, offset, quote=quote, delimiter=delimiter, before=before)
        self._position = position or self._place()

    def _start(self, body: int, position: Position | None) -> tuple[ByteStream, bytes, int]:
        """The stream at the place to read from, and the checked bytes before it."""
        offset = body if position is None else int(position.value["offset"])
        start = max(0, offset - CHECKED_BYTES)
        stream = self._facts.stream(start)
        before = stream.read(offset - start)
        if len(before) < offset - start:
            raise self._facts.changed("it is shorter than what was read of it")
        if position is not None and checksum(before) != position.value["check"]:
            raise self._facts.changed("the rows that were read have other content")
        return stream, before, offset

    def position(self) -> Position:
        return self._position

    def _place(self) -> Position:
        return self._facts.position(offset=self._chunks.offset, check=self._chunks.checksum)

    async def read_chunk(self) -> Chunk:
        chunk = await asyncio.to_thread(self._next)
        if chunk is None:
            raise EndOfSplit
        return chunk

    def _next(self) -> Chunk | None:
        start = self._chunks.offset
        with file_errors(self._facts.path):
            data = self._chunks.next()
        if data is None:
            return None
        self._position = self._place()
        plan = self._plan

        def line_at(place: int) -> int:
            return self._lines.at(start + place)

        return Chunk(
            scan=lambda: with_added(plan.scan(data), self._added, self._output),
            position=self._position,
            key=start,
            num_bytes=len(data),
            salvage=lambda: self._salvage(data, line_at),
            place=lambda row: f"{plan.label} line {line_at(plan.start_of_row(data, row))}",
        )

    def _salvage(self, data: bytes, line_at: Callable[[int], int]) -> Salvaged:
        found = self._plan.salvage(data, line_at)
        good = with_added(found.good.lazy(), self._added, self._output).collect()
        bad = [BadRow(b.row, b.code, b.message, b.raw, b.place) for b in found.bad]
        return Salvaged(good, found.good_rows, bad)

    async def aclose(self) -> None:
        self._chunks.close()


class TableReader(ChunkReader):
    """Parquet, Arrow IPC, JSON and Excel, piece by piece."""

    def __init__(
        self,
        facts: FileFacts,
        pieces: Sequence[TablePiece],
        scan: Callable[[], pl.LazyFrame],
        columns: Sequence[pl.Expr],
        label: str,
        position: Position | None,
    ) -> None:
        self._facts, self._scan, self._columns, self._label = facts, scan, columns, label
        with file_errors(facts.path):
            self._check = _tail_checksum(facts.path)
        start = 0
        if position is not None:
            start = int(position.value["row"])
            if position.value["check"] != self._check or position.value["size"] != facts.size:
                raise facts.changed("it has other content")
        self._pieces = [p for p in (_from(piece, start) for piece in pieces) if p is not None]
        self._position = position or self._place(0)

    def position(self) -> Position:
        return self._position

    def _place(self, row: int) -> Position:
        return self._facts.position(row=row, check=self._check)

    async def read_chunk(self) -> Chunk:
        if not self._pieces:
            raise EndOfSplit
        piece = self._pieces.pop(0)
        self._position = self._place(piece.start + piece.rows)
        label, columns, scan = self._label, self._columns, self._scan
        return Chunk(
            scan=lambda: scan().slice(piece.start, piece.rows).select(columns),
            position=self._position,
            key=piece.start,
            num_bytes=piece.num_bytes,
            place=lambda row: f"{label} row {piece.start + row + 1}",
        )


def _from(piece: TablePiece, start: int) -> TablePiece | None:
    """What of the piece lies at `start` and after it."""
    skip = max(0, start - piece.start)
    if skip >= piece.rows:
        return None
    share = piece.num_bytes * (piece.rows - skip) // piece.rows
    return TablePiece(piece.start + skip, piece.rows - skip, share)


def _tail_checksum(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - CHECKED_BYTES))
        return checksum(file.read())
