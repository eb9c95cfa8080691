"""Parquet and Arrow files as pieces of rows, on this machine or in a store.

Always true: of a Parquet file in a store, only the footer and the columns that are read are fetched, row group by row
group, each into a copy of its own that is removed when its rows are no longer needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from dataflare.connectors.file.errors import file_errors
from dataflare.formats.any_file import AnyFile
from dataflare.formats.parquet_footer import GroupPlaces, footer_bytes, group_places
from dataflare.formats.table_read import TablePiece, even_pieces, parquet_pieces
from dataflare.sdk.stores.local_copy import LocalCopy, named, on_disk
from dataflare.sdk.stores.stored_file import RemoteFile

_FOOTER_END = 8
_MAGIC = b"PAR1"


class TableFile:
    """One file: its pieces, and queries for their rows."""

    def __init__(self, pieces: Sequence[TablePiece], scan: Callable[[], pl.LazyFrame]) -> None:
        self.pieces, self._scan = list(pieces), scan

    def columns(self) -> pl.Schema:
        return self._scan().collect_schema()

    def loaded(self, piece: TablePiece, names: Sequence[str]) -> Callable[[], pl.LazyFrame]:
        """What gives the rows of a piece with at least these columns. Blocks until they are here."""
        return lambda: self._scan().slice(piece.start, piece.rows)

    def everything(self, piece: TablePiece) -> Callable[[], pl.LazyFrame]:
        """What gives the rows of a piece with all columns; it may block."""
        return self.loaded(piece, ())

    waits = False
    """Whether `loaded` waits for a network."""

    def close(self) -> None:
        return


class StoredParquet(TableFile):
    """A Parquet file in a store."""

    waits = True

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._footer = file, LocalCopy(file)
        end = put_footer(self._footer, file)
        with named(self._footer.path, file), file_errors(self._footer.path):
            self._groups = group_places(end)
            super().__init__(parquet_pieces(self._footer.path), lambda: _parquet(self._footer.path))
        self._last: tuple[tuple[int, int, tuple[str, ...]], LocalCopy] | None = None

    def loaded(self, piece: TablePiece, names: Sequence[str]) -> Callable[[], pl.LazyFrame]:
        copy = self._copy(piece, tuple(names))
        return lambda: _parquet(copy.path).slice(piece.start, piece.rows)

    def everything(self, piece: TablePiece) -> Callable[[], pl.LazyFrame]:
        def rows() -> pl.LazyFrame:
            copy = self._fetched(*self._span(piece), None)
            # The copy is removed with this function, so the rows are read now.
            return (
                _parquet(copy.path)
                .slice(piece.start, piece.rows)
                .collect(engine="streaming")
                .lazy()
            )

        return rows

    def _copy(self, piece: TablePiece, names: tuple[str, ...]) -> LocalCopy:
        """Neighbouring pieces of one large row group share its copy."""
        first, last = self._span(piece)
        key = (first, last, names)
        if self._last is None or self._last[0] != key:
            self._last = (key, self._fetched(first, last, names))
        return self._last[1]

    def _span(self, piece: TablePiece) -> tuple[int, int]:
        """The first row group of a piece, and the one after its last."""
        start, touched = 0, []
        for number, group in enumerate(self._groups):
            if start < piece.start + piece.rows and start + group.rows > piece.start:
                touched.append(number)
            start += group.rows
        return touched[0], touched[-1] + 1

    def _fetched(self, first: int, last: int, names: Sequence[str] | None) -> LocalCopy:
        copy = LocalCopy(self._file)
        put_footer(copy, self._file)
        copy.fetch(_joined(_ranges(self._groups[first:last], names)))
        return copy

    def close(self) -> None:
        self._footer.close()
        self._last = None


class StoredArrow(TableFile):
    """An Arrow file in a store, fetched as a whole."""

    def __init__(self, file: RemoteFile) -> None:
        self._copy = LocalCopy(file)
        self._copy.fetch([(0, file.size)])
        path = self._copy.path
        rows = pl.scan_ipc(path, glob=False).select(pl.len()).collect(engine="streaming").item()
        super().__init__(even_pieces(rows, file.size), lambda: pl.scan_ipc(path, glob=False))

    def loaded(self, piece: TablePiece, names: Sequence[str]) -> Callable[[], pl.LazyFrame]:
        copy = self._copy  # the file stays while rows of it are read
        return lambda: pl.scan_ipc(copy.path, glob=False).slice(piece.start, piece.rows)


def open_table(file: AnyFile, format_: str) -> TableFile:
    """Blocks."""
    if not isinstance(file, Path):
        assert isinstance(file, RemoteFile)
        return StoredParquet(file) if format_ == "parquet" else StoredArrow(file)
    if format_ == "parquet":
        return TableFile(parquet_pieces(file), lambda: _parquet(file))
    rows = pl.scan_ipc(file, glob=False).select(pl.len()).collect(engine="streaming").item()
    return TableFile(even_pieces(rows, file.stat().st_size), lambda: pl.scan_ipc(file, glob=False))


@contextmanager
def schema_copy(file: AnyFile, format_: str) -> Iterator[Path]:
    """A path with as much of a file as tells its columns."""
    if isinstance(file, Path) or format_ != "parquet":
        with on_disk(file) as path:
            yield path
        return
    assert isinstance(file, RemoteFile)
    copy = LocalCopy(file)
    try:
        put_footer(copy, file)
        with named(copy.path, file):
            yield copy.path
    finally:
        copy.close()


def put_footer(copy: LocalCopy, file: RemoteFile) -> bytes:
    """Fetch the end of a Parquet file. Returns the footer."""
    end = file.tail(_FOOTER_END)
    length = int.from_bytes(end[:4], "little")
    if end[4:] == _MAGIC and length + 12 <= file.size:
        end = file.tail(length + _FOOTER_END)
        copy.put(0, _MAGIC)
    copy.put(file.size - len(end), end)
    with named(copy.path, file):
        return footer_bytes(copy.path)


def _parquet(path: Path) -> pl.LazyFrame:
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def _ranges(groups: Sequence[GroupPlaces], names: Sequence[str] | None) -> list[tuple[int, int]]:
    return [
        each
        for group in groups
        for name, ranges in group.columns.items()
        if names is None or name in names
        for each in ranges
    ]


_GAP = 256 << 10
"""A gap of this many bytes costs less than another request."""


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges, with near ones joined."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1] + _GAP:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
