"""Parquet, Arrow IPC and JSON files, as pieces of rows.

Always true: pieces follow one another without a gap; a piece of a Parquet file never divides a
row group unless that has over a million rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from dataflare.formats.parquet_footer import row_groups

GROUP_ROWS_MAX = 1_000_000
PIECE_ROWS_MIN = 100_000
PIECE_BYTES_MAX = 64 << 20


class TablePiece(Struct, frozen=True):
    """Rows `start` to `start + rows` of a file; num_bytes: estimated, in memory."""

    start: int
    rows: int
    num_bytes: int


def parquet_pieces(path: Path) -> list[TablePiece]:
    """The row groups of a file: adjacent small ones are joined, very large ones are divided."""
    pieces: list[TablePiece] = []
    start = rows = num_bytes = 0
    for group in row_groups(path):
        full = rows + group.rows > GROUP_ROWS_MAX or num_bytes + group.num_bytes > PIECE_BYTES_MAX
        if rows and (rows >= PIECE_ROWS_MIN or full):
            pieces.append(TablePiece(start, rows, num_bytes))
            start, rows, num_bytes = start + rows, 0, 0
        rows += group.rows
        num_bytes += group.num_bytes
        while rows > GROUP_ROWS_MAX:
            share = num_bytes * GROUP_ROWS_MAX // rows
            pieces.append(TablePiece(start, GROUP_ROWS_MAX, share))
            start, rows, num_bytes = (
                start + GROUP_ROWS_MAX,
                rows - GROUP_ROWS_MAX,
                num_bytes - share,
            )
    if rows:
        pieces.append(TablePiece(start, rows, num_bytes))
    return pieces


def even_pieces(rows: int, num_bytes: int, piece_rows: int | None = None) -> list[TablePiece]:
    """Rows in equal pieces, for files without row groups."""
    return list(_even(rows, num_bytes, piece_rows or PIECE_ROWS_MIN))


def _even(rows: int, num_bytes: int, piece_rows: int) -> Iterator[TablePiece]:
    for start in range(0, rows, piece_rows):
        size = min(piece_rows, rows - start)
        yield TablePiece(start, size, num_bytes * size // max(rows, 1))
