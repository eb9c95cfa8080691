"""Read Parquet, Arrow IPC and Excel files as pieces of rows.

Always true: a chunk's position is the number of the row after its last one. It is valid while the
file's size and the checksum of its end are the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import polars as pl

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.reading import Added, FileFacts, salvaged, tail_checksum
from dataflare.connectors.file.table_files import TableFile
from dataflare.connectors.file.watching import watched_table
from dataflare.errors import DataError
from dataflare.formats.column_notes import Meaning
from dataflare.formats.misread import SortedRows, misfit
from dataflare.formats.row_text import row_text
from dataflare.formats.table_read import TablePiece
from dataflare.formats.table_types import fitted, held_type, may_fit
from dataflare.formats.text_write import python_row, python_rows
from dataflare.model.progress import Position
from dataflare.model.types import DataType, Schema
from dataflare.sdk.source import BadRow, BadRows, Chunk, ChunkReader, EndOfSplit, Salvaged
from dataflare.sdk.threads import in_thread

_PART_ROWS = 10_000
"""A piece is not divided further: all of a row group is decoded for each part."""
_AHEAD = 3
"""So many pieces of a file in a store are fetched before they are asked for."""

Rows = Callable[[], pl.LazyFrame]


class PieceReader(ChunkReader):
    """Returns pieces in order; subclasses make the chunk of a piece."""

    def __init__(
        self, facts: FileFacts, pieces: Sequence[TablePiece], label: str, position: Position | None
    ) -> None:
        with file_errors(facts.path):
            self._facts, self._label = facts.now(), label
            self._check = self._checksum()
        start = 0
        if position is not None:
            start = int(position.value["row"])
            then = position.value["check"], position.value["size"]
            if then != (self._check, self._facts.size):
                raise facts.changed("it has other content")
        self._pieces = deque(p for p in (_from(piece, start) for piece in pieces) if p is not None)
        self._position = position or self._place(0)

    def _checksum(self) -> str:
        """What shows whether the file is still the same."""
        etag = self._facts.etag
        return (
            f"etag {etag}"
            if etag is not None
            else tail_checksum(self._facts.path, self._facts.size)
        )

    def position(self) -> Position:
        return self._position

    def _place(self, row: int) -> Position:
        return self._facts.position(row=row, check=self._check)

    def _next(self) -> TablePiece:
        if not self._pieces:
            raise EndOfSplit
        piece = self._pieces.popleft()
        if self.bytes_max is not None and piece.num_bytes > self.bytes_max:
            rows = max(_PART_ROWS, piece.rows * self.bytes_max // piece.num_bytes)
            rest = _from(piece, piece.start + rows)
            if rest is not None:
                self._pieces.appendleft(rest)
                piece = TablePiece(piece.start, rows, piece.num_bytes - rest.num_bytes)
        self._pass(piece)
        return piece

    def _pass(self, piece: TablePiece) -> None:
        self._position = self._place(piece.start + piece.rows)

    def _place_of(self, row: int) -> str:
        return f"{self._label} row {row + 1}"


class TableReader(PieceReader):
    """Files whose columns have types. schema: the types of the source's columns."""

    def __init__(
        self,
        facts: FileFacts,
        file: TableFile,
        schema: Schema,
        added: Added,
        output: Sequence[str],
        label: str,
        position: Position | None,
        meanings: Mapping[str, Meaning] | None = None,
        *,
        own: Sequence[str],
        extra: Sequence[str] = (),
    ) -> None:
        """meanings: of columns of bytes, from the survey. own: the columns of the file at the
        survey. extra: the columns that are not in the source, to be reported."""
        super().__init__(facts, file.pieces, label, position)
        meanings = meanings or {}
        self._file, self._added, self._output = file, added, tuple(output)
        self._ahead: deque[tuple[TablePiece, asyncio.Future[Rows]]] = deque()
        self._extra = tuple(extra)
        inside = [name for name in output if name not in added]
        with file_errors(facts.path):
            dtypes = file.columns()
        if self._facts is not facts:
            facts.check_columns(own, dtypes.names())
        for name in inside:
            if name not in dtypes or not _may_become(
                dtypes[name], schema[name], meanings.get(name)
            ):
                raise facts.changed(f"it has no column '{name}' of its type any more")
        self._columns = {
            name: fitted(name, dtypes[name], schema[name], meanings.get(name)) for name in inside
        }
        self._types = schema.select(inside)

    async def read_chunk(self) -> Chunk:
        piece, raw = await self._loaded()
        columns = [
            (self._added[name] if name in self._added else self._columns[name].strict()).alias(name)
            for name in self._output
        ]

        everything = self._file.everything(piece)

        def rows() -> pl.LazyFrame:
            return raw().select(columns)

        return Chunk(
            scan=rows,
            position=self._position,
            key=piece.start,
            num_bytes=piece.num_bytes,
            rows=piece.rows,
            salvage=lambda: self._salvage(piece, raw),
            place=lambda row: self._place_of(piece.start + row),
            texts=lambda rows: self._texts(raw, rows),
            **(watched_table(raw, rows, self._extra, everything) if self._extra else {}),
        )

    async def _loaded(self) -> tuple[TablePiece, Rows]:
        """The next piece and what gives its rows. Pieces of a file in a store are fetched ahead."""
        names = [*self._columns, *self._extra]
        if not self._file.waits:
            piece = self._next()
            return piece, self._file.loaded(piece, names)
        while self._pieces and len(self._ahead) < _AHEAD:
            piece = self._pieces.popleft()
            fetch = in_thread(self._file.loaded, piece, names)
            self._ahead.append((piece, asyncio.ensure_future(fetch)))
        if not self._ahead:
            raise EndOfSplit
        piece, fetched = self._ahead.popleft()
        rows = await fetched
        self._pass(piece)
        return piece, rows

    async def aclose(self) -> None:
        fetching = [fetched for _, fetched in self._ahead]
        self._ahead.clear()
        for fetched in fetching:
            fetched.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        self._file.close()

    def _texts(self, raw: Callable[[], pl.LazyFrame], rows: Sequence[int]) -> list[bytes]:
        frame = raw().select(list(self._columns)).collect(engine="streaming")[list(rows)]
        return [row_text(row).encode() for row in python_rows(frame)]

    def _salvage(self, piece: TablePiece, of_piece: Rows) -> Salvaged:
        """The rows whose values fit the contract's types, and the bad rows. Raises if the file
        cannot be decoded."""
        with file_errors(self._facts.path):
            raw = of_piece().select(list(self._columns)).collect(engine="streaming")
        good = raw.select(column.value.alias(name) for name, column in self._columns.items())
        bad: dict[int, BadRow] = {}
        for name, column in self._columns.items():
            if column.misfit is None:
                continue
            # NULL counts as false.
            for row in raw.select(column.misfit.fill_null(False)).to_series().arg_true().to_list():
                values = python_row(raw, row)
                message = misfit(name, self._types[name], values[name])
                text = row_text(values)
                place = self._place_of(piece.start + row)
                bad.setdefault(row, BadRow(row, "E0501", message, text, place))
        good_rows = [row for row in range(raw.height) if row not in bad]
        rows = [bad[row] for row in sorted(bad)]
        sorted_rows = SortedRows(
            good[good_rows], pl.Series("row", good_rows, dtype=pl.Int64), BadRows.of(rows)
        )
        return salvaged(sorted_rows, self._added, self._output)


def _may_become(dtype: pl.DataType, to: DataType, meaning: Meaning | None) -> bool:
    """Whether values of a file's column can be those of the source's."""
    if dtype in (pl.Null, to.to_polars()):
        return True
    try:
        return may_fit(held_type(dtype, meaning), to)
    except DataError:
        return False


def _from(piece: TablePiece, start: int) -> TablePiece | None:
    """The rows of the piece from `start` on; None if there are none."""
    skip = max(0, start - piece.start)
    if skip >= piece.rows:
        return None
    share = piece.num_bytes * (piece.rows - skip) // piece.rows
    return TablePiece(piece.start + skip, piece.rows - skip, share)
