"""Read Excel files: the cells of the chosen sheets, with the types of the survey.

Always true: a chunk's position is the number of the row after its last one, over all sheets read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import polars as pl

from dataflare.connectors.file.reading import Added, FileFacts, salvaged, with_added
from dataflare.connectors.file.table_reader import PieceReader
from dataflare.connectors.file.watching import watched_columns
from dataflare.formats.excel_book import SheetTable
from dataflare.formats.excel_cells import fit
from dataflare.formats.misread import SortedRows, misfit
from dataflare.formats.neighbours import neighbours
from dataflare.formats.row_text import row_text
from dataflare.formats.table_read import TablePiece, even_pieces
from dataflare.model.progress import Position
from dataflare.model.types import Schema
from dataflare.sdk.source import BadRow, BadRows, Chunk, Salvaged


class ExcelReader(PieceReader):
    """A workbook that is in memory. schema: the types of the columns inside the sheets. own: all
    columns of the sheets when the file was listed. extra: columns of the sheets that are not in the
    source, to be reported."""

    def __init__(
        self,
        facts: FileFacts,
        tables: Sequence[SheetTable],
        schema: Schema,
        added: Added,
        output: Sequence[str],
        label: str,
        position: Position | None,
        sheet_column: str | None = None,
        *,
        own: Sequence[str],
        extra: Sequence[str] = (),
    ) -> None:
        if facts.now() is not facts:
            here = [name for table in tables for name in table.names]
            facts.check_columns([name for name in own if name != sheet_column], here)
        self._facts, self._tables, self._schema = facts, tables, schema
        self._added, self._output = added, tuple(output)
        self._inside = [name for name in output if name not in added]
        self._sheet_column, self._extra = sheet_column, tuple(extra)
        for name in self._inside:
            if name != sheet_column and all(name not in table.names for table in tables):
                raise facts.changed(f"it has no column '{name}' any more")
        fitted = [self._fitted(table) for table in tables]
        self._frame = pl.concat([frame for frame, _ in fitted])
        self._bad: dict[int, tuple[str, SheetTable, int]] = {}
        start = 0
        for table, (frame, misfits) in zip(tables, fitted, strict=True):
            for row, name in misfits.items():
                self._bad[start + row] = name, table, row
            start += frame.height
        size = int(self._frame.estimated_size())
        super().__init__(facts, even_pieces(self._frame.height, size), label, position)
        self.warnings = self._errors_from(int(self._position.value["row"]))

    async def read_chunk(self) -> Chunk:
        piece = self._next()
        return Chunk(
            scan=lambda: self._scan(piece),
            position=self._position,
            key=piece.start,
            num_bytes=piece.num_bytes,
            rows=piece.rows,
            salvage=lambda: self._salvage(piece),
            place=lambda row: self._place_of(piece.start + row),
            texts=lambda rows: [self._text(piece.start + row) for row in rows],
            **self._watches(piece),
        )

    def _watches(self, piece: TablePiece) -> dict[str, Any]:
        if not self._extra:
            return {}
        return watched_columns(
            lambda: self._scan(piece),
            lambda: self._extras.slice(piece.start, piece.rows),
            lambda row: row_text(self._cells(piece.start + row)),
        )

    @cached_property
    def _extras(self) -> pl.DataFrame:
        """The columns that are not in the source, as text."""
        return pl.concat(
            [
                pl.DataFrame(
                    {
                        name: [None if cell is None else str(cell) for cell in table.cells(name)]
                        if name in table.names
                        else [None] * len(table.rows)
                        for name in self._extra
                    },
                    schema=dict.fromkeys(self._extra, pl.String),
                )
                for table in self._tables
            ]
        )

    def _cells(self, row: int) -> dict[str, Any]:
        """A row with the values that its cells show."""
        for table in self._tables:
            if row < len(table.rows):
                return {
                    name: table.errors.get(name, {}).get(row, _plain(cells[row]))
                    for name, cells in zip(table.names, table.columns, strict=True)
                }
            row -= len(table.rows)
        raise IndexError(row)

    def _fitted(self, table: SheetTable) -> tuple[pl.DataFrame, dict[int, str]]:
        """The sheet's rows, and for each row with a cell that does not fit: the first such column."""
        columns: dict[str, pl.Series] = {}
        misfits: dict[int, str] = {}
        for name in self._inside:
            if name == self._sheet_column:
                columns[name] = pl.Series([table.sheet] * len(table.rows), dtype=pl.String)
                continue
            is_in_sheet = name in table.names
            cells = table.cells(name) if is_in_sheet else [None] * len(table.rows)
            values, mask = fit(cells, self._schema[name], table.codes.get(name, {}))
            columns[name] = values
            if mask is not None:
                for row in mask.arg_true():
                    misfits.setdefault(row, name)
        return pl.DataFrame(columns), misfits

    def _scan(self, piece: TablePiece) -> pl.LazyFrame:
        for row in range(piece.start, piece.start + piece.rows):
            if row in self._bad:
                raise pl.exceptions.ComputeError("a cell does not fit the type of its column")
        frame = self._frame.slice(piece.start, piece.rows).lazy()
        return with_added(frame, self._added, self._output)

    def _salvage(self, piece: TablePiece) -> Salvaged:
        inside = range(piece.start, piece.start + piece.rows)
        bad = [self._bad_row(row, row - piece.start) for row in inside if row in self._bad]
        good_rows = [row for row in inside if row not in self._bad]
        numbers = pl.Series("row", [row - piece.start for row in good_rows], dtype=pl.Int64)
        rows = BadRows.of(bad).frame
        beside = neighbours(
            rows["row"], numbers, lambda some: [self._text(piece.start + row) for row in some]
        )
        found = SortedRows(self._frame[good_rows], numbers, BadRows(rows.with_columns(beside)))
        return salvaged(found, self._added, self._output)

    def _text(self, row: int) -> bytes:
        return row_text(self._cells(row)).encode()

    def _bad_row(self, row: int, in_piece: int) -> BadRow:
        name, _, _ = self._bad[row]
        cells = self._cells(row)
        message = misfit(name, self._schema[name], cells[name])
        return BadRow(in_piece, "E0501", message, row_text(cells), self._place_of(row))

    def _place_of(self, row: int) -> str:
        for table in self._tables:
            if row < len(table.rows):
                return f"{self._label} sheet '{table.sheet}' row {table.rows[row]}"
            row -= len(table.rows)
        return f"{self._label} row {row + 1}"

    def _errors_from(self, start: int) -> dict[str, int]:
        """The number of cells with errors in the rows from `start` on, by column and error text."""
        counts: dict[tuple[str, str], int] = {}
        for table in self._tables:
            for name in self._inside:
                for row, error_text in table.errors.get(name, {}).items():
                    if row >= start:
                        counts[name, error_text] = counts.get((name, error_text), 0) + 1
            start -= len(table.rows)
        return {
            f"column '{name}' shows {error_text}, which is read as NULL,": rows
            for (name, error_text), rows in counts.items()
        }


def _plain(cell: Any) -> Any:
    """A whole number without a decimal point, as Excel shows it."""
    if type(cell) is float and abs(cell) < 2**53 and cell == int(cell):
        return int(cell)
    return cell
