"""Changes of an epoch that wait until they are applied, in memory or, beyond some megabytes, in files without
a name, parted by a hash of the key.

Always true: the rows of one key are in one part, in their order; a part has one event per key.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import polars as pl

from dataflare.model.batch import KIND_COLUMN
from dataflare.sdk.sql.fold import fold

EVENT = "__dataflare_event"
UPSERT, DELETE, TOUCH = 0, 1, 2
"""Events: the row is written; the row with its key goes; the row with its key stays, and has arrived."""
_HELD_BYTES = 64 * 2**20
_PARTS = 32


class Pending:
    """mirror: whether deletes count. The frames that are added have equal columns."""

    def __init__(self, key: Sequence[str], sequence: str | None, *, mirror: bool) -> None:
        self._key, self._sequence, self._mirror = list(key), sequence, mirror
        self._held: list[pl.DataFrame] = []
        self._held_bytes = 0
        self._touched: list[pl.DataFrame] = []
        self._files: list[IO[bytes]] = []
        self._offsets: list[list[tuple[int, int]]] = []
        self.columns: list[str] = []

    @property
    def is_empty(self) -> bool:
        return not self._held and not self._files and not self._touched

    def add(self, frame: pl.DataFrame) -> None:
        self.columns = [n for n in frame.columns if n != KIND_COLUMN]
        if KIND_COLUMN not in frame.columns:
            frame = frame.with_columns(pl.lit(0, pl.UInt8).alias(KIND_COLUMN))
        # All frames have the same columns, also those that are in files already.
        self._held.append(frame.select(*self.columns, KIND_COLUMN))
        self._held_bytes += int(frame.estimated_size())
        if self._held_bytes > _HELD_BYTES:
            self._spill()

    def touch(self, keys: pl.DataFrame) -> None:
        """Keys whose rows stay as they are, and have arrived."""
        self._touched.append(keys.select(self._key))

    def parts(self) -> Iterator[pl.DataFrame]:
        """One event per key, part by part. May be called again."""
        if not self._files:
            if self._held or self._touched:
                yield self._folded(self._held, self._touched)
            return
        self._spill()
        touched = [self._parted(each) for each in self._touched]
        for number, file in enumerate(self._files):
            frames = [_read(file, *offset) for offset in self._offsets[number]]
            if frames or touched:
                yield self._folded(frames, [each[number] for each in touched])

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files, self._held, self._touched, self._held_bytes = [], [], [], 0

    def _folded(self, frames: list[pl.DataFrame], touched: list[pl.DataFrame]) -> pl.DataFrame:
        parts: list[pl.DataFrame] = []
        if frames:
            rows = pl.concat(frames, how="vertical")
            changes = fold(rows, self._key, deletes=self._mirror, sequence=self._sequence)
            parts = [
                changes.upserts.with_columns(pl.lit(UPSERT, pl.UInt8).alias(EVENT)),
                changes.deletes.with_columns(pl.lit(DELETE, pl.UInt8).alias(EVENT)),
            ]
        if touched:
            keys = pl.concat(touched).unique(self._key)
            if parts:
                keys = keys.join(pl.concat(parts), on=self._key, how="anti")
            parts.append(keys.with_columns(pl.lit(TOUCH, pl.UInt8).alias(EVENT)))
        return pl.concat(parts, how="diagonal")

    def _spill(self) -> None:
        if not self._held:
            return
        if not self._files:
            self._files = [tempfile.TemporaryFile() for _ in range(_PARTS)]  # noqa: SIM115
            self._offsets = [[] for _ in range(_PARTS)]
        for number, part in enumerate(self._parted(pl.concat(self._held))):
            if part.height:
                file = self._files[number]
                start = file.seek(0, 2)
                part.write_ipc_stream(file, compression="lz4")
                self._offsets[number].append((start, file.tell() - start))
        self._held, self._held_bytes = [], 0

    def _parted(self, frame: pl.DataFrame) -> list[pl.DataFrame]:
        parts = frame.select(pl.struct(self._key).hash() % _PARTS).to_series()
        return [frame.filter(parts == number) for number in range(_PARTS)]


def _read(file: IO[bytes], start: int, length: int) -> pl.DataFrame:
    import io

    file.seek(start)
    body: Any = io.BytesIO(file.read(length))
    return pl.read_ipc_stream(body)
