"""What all readers of files share: facts about the file, and columns from its path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.file.ledger import pieces_of
from dataflare.errors import CheckpointError
from dataflare.formats.any_file import AnyFile, StoredFile, open_bytes
from dataflare.formats.checksum import checksum
from dataflare.formats.compression import NONE, ByteStream, open_stream
from dataflare.formats.csv_rewrite import Rewriting, Rewritten
from dataflare.formats.misread import SortedRows
from dataflare.model.progress import Position, Split
from dataflare.model.types import DataType
from dataflare.sdk.source import Chunk, ChunkReader, EndOfSplit, Salvaged
from dataflare.sdk.stores.stored_file import RemoteFile

_CHECKED_BYTES = 64 << 10

Added = Mapping[str, pl.Expr]
"""Columns with one value for all rows of a file: the file's path, its partition."""


class FileFacts(Struct, frozen=True):
    """One file of a split: what was seen of it when it was listed, or when its reading began."""

    path: AnyFile
    size: int
    mtime_ns: int
    compression: str = NONE
    encoding: str = "utf-8"
    pieces: str | None = None
    """The checksum for the ledger of read files; None if there is no ledger."""
    rewriting: Rewriting | None = None
    head: str | None = None
    """The checksum of the text before the first row; None in listings that lack it."""
    is_array: bool = False
    """Whether it is a list of JSON objects, which is read as lines."""
    segment: bool = False
    """Whether it is the bytes of a file from `begins` to `size`, whatever follows them."""
    begins: int = 0

    def now(self) -> FileFacts:
        """The facts of the file as it is now, for a file that was not read yet, or only up to rows
        that did not change. Raises CheckpointError (E0703) if it is shorter than when it was
        listed."""
        if self.segment:
            return self
        if isinstance(self.path, RemoteFile):
            return self._stored_now(self.path)
        assert isinstance(self.path, Path)
        status = os.stat(self.path)
        if status.st_size < self.size:
            raise self.changed("it is shorter than when the run listed it")
        if (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns):
            return self
        pieces = None if self.pieces is None else pieces_of(self.path, status.st_size)
        return replace(self, size=status.st_size, mtime_ns=status.st_mtime_ns, pieces=pieces)

    def _stored_now(self, file: RemoteFile) -> FileFacts:
        from dataflare.connectors.file.remote_listing import current

        now = current(file)
        if now is file:
            return self
        if now.size < self.size:
            raise self.changed("it is shorter than when the run listed it")
        info = now.info
        pieces = None if self.pieces is None else pieces_of(now, now.size)
        return replace(self, path=now, size=now.size, mtime_ns=info.mtime_ns, pieces=pieces)

    def is_untouched(self, position: Position) -> bool:
        """Whether the file is the one in which the position was, without a look at its content."""
        recorded = position.value
        return (self.size, self.mtime_ns, self.etag) == (
            recorded["size"],
            recorded["mtime_ns"],
            recorded.get("etag"),
        )

    @property
    def etag(self) -> str | None:
        return self.path.etag if isinstance(self.path, StoredFile) else None

    def check_head(self, body: int) -> None:
        """Raises CheckpointError (E0703) if the text before the first row has changed since the
        listing: the columns may have changed too."""
        stream = self.stream(0)
        try:
            same = self.head is not None and checksum(stream.read(body)) == self.head
        finally:
            stream.close()
        if not same:
            raise self.changed("the text before its first row has changed")

    def check_columns(self, then: Iterable[str], now: Iterable[str]) -> None:
        """Raises CheckpointError (E0703) if a file has other columns than when it was listed."""
        then, now = set(then), set(now)
        if then != now:
            names = ", ".join(f"'{name}'" for name in sorted(then ^ now)[:4])
            raise self.changed(f"its columns are others (see {names})")

    def position(self, **place: Any) -> Position:
        ledger = {} if self.pieces is None else {"pieces": self.pieces}
        version = {} if self.etag is None else {"etag": self.etag}
        return Position(
            {**place, **ledger, "size": self.size, "mtime_ns": self.mtime_ns, **version}
        )

    @property
    def is_plain(self) -> bool:
        if self.rewriting is not None or self.is_array:
            return False
        return self.compression == NONE and self.encoding.lower() in ("utf-8", "utf8", "ascii")

    def stream(self, offset: int) -> ByteStream:
        """The text from `offset` on. A plain file that grows while it is read is read to `size`."""
        limit = self.size if self.is_plain else None
        return open_stream(
            self.path,
            self.compression,
            offset=offset,
            limit=limit,
            encoding=self.encoding,
            rewrite=self._rewrite(),
        )

    def _rewrite(self) -> Callable[[ByteStream], ByteStream] | None:
        if self.is_array:
            from dataflare.formats.json_array import ArrayLines

            return partial(ArrayLines, path=self.path)
        return partial(Rewritten, rewriting=self.rewriting) if self.rewriting else None

    def changed(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} has changed since the run began: {why}",
            code="E0703",
            help="put the old file back, or start over with --fresh",
        )


class NothingLeft(ChunkReader):
    """Of a file that is gone, where such files are left out."""

    def __init__(self, split: Split) -> None:
        self._position = Position(
            {"offset": split.data["size"], "check": "", "size": 0, "mtime_ns": 0}
        )
        self.warnings = {f"{split.data['path']} is gone: some of its rows were not read": 0}

    async def read_chunk(self) -> Chunk:
        raise EndOfSplit

    def position(self) -> Position:
        return self._position


def with_added(frame: pl.LazyFrame, added: Added, output: Sequence[str]) -> pl.LazyFrame:
    """The rows with the columns from the file's path added, in the order of `output`."""
    if not added:
        return frame
    return frame.with_columns(**added).select(output)


def path_literal(text: str | None, type_: DataType) -> pl.Expr:
    """A value from a path as a literal: an integer, a date or text."""
    value: Any = text
    if text is not None and type_.name == "int64":
        value = int(text)
    if text is not None and type_.name == "date":
        value = date.fromisoformat(text)
    return pl.lit(value, dtype=type_.to_polars())


def salvaged(rows: SortedRows, added: Added, output: Sequence[str]) -> Salvaged:
    """The result of a format for a failing chunk, as the source contract's type."""
    good = with_added(rows.good.lazy(), added, output).collect(engine="in-memory")
    return Salvaged(good, rows.good_rows, rows.bad)


def tail_checksum(path: AnyFile, size: int) -> str:
    """The checksum of a file's last bytes: formats that are not text have their directory there."""
    with contextlib.closing(open_bytes(path)) as file:
        start = max(0, size - _CHECKED_BYTES)
        return checksum(file.read_at(start, size - start))
