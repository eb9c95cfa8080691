"""Rows on disk in the order of the hash of their key: what tables that are asked by key keep where memory is short.

The rows are in a scratch file, one behind the other, and in stored pieces, which serve checkpoints and merges.

Always true: what is in the scratch files can be made again from the pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from dataflare.state.hash_pages import ASKED_MAX, HashPages
from dataflare.state.pieces import Piece
from dataflare.state.points import rows_as_bytes, rows_of_bytes
from dataflare.state.scratch import ScratchFile, raw_bytes

_SLICE_ROWS = 50_000
_READ_BYTES_MAX = 2**20
"""Neighbours are read together up to so many bytes."""


class RowRun:
    """hash_name: the column with the hash of the key. rows: about how many will come. folder: of scratch files. time:
    a column of times of which the latest is known."""

    def __init__(
        self, hash_name: str, rows: int, folder: Path | None, time: str | None = None
    ) -> None:
        self.pieces: list[Piece] = []
        self.latest: int | None = None
        self._hash, self._time = hash_name, time
        self._pages = HashPages(rows, folder)
        self._rows, self._ends = ScratchFile(folder), ScratchFile(folder)
        self._ends.append(bytes(8))
        self._schema: pl.Schema | None = None

    @property
    def rows(self) -> int:
        return self._pages.rows

    @property
    def num_bytes(self) -> int:
        """How much memory it takes."""
        return self._pages.num_bytes

    def append(self, frame: pl.DataFrame, pieces: Sequence[Piece]) -> None:
        """frame: rows in the order of their hashes, and all behind those that came before. pieces: what holds them."""
        self._schema = frame.schema
        for part in frame.iter_slices(_SLICE_ROWS):
            encoded = pl.Series(rows_as_bytes(part), dtype=pl.Binary)
            stops = encoded.bin.size().cast(pl.UInt64).cum_sum() + self._rows.num_bytes
            self._rows.append(b"".join(encoded.to_list()))
            self._ends.append(raw_bytes(stops))
        self._pages.append(frame[self._hash])
        self.pieces += pieces
        if self._time is not None and self._time in frame.columns and frame.height:
            latest = int(str(frame[self._time].max()))
            self.latest = latest if self.latest is None else max(self.latest, latest)

    def finish(self) -> None:
        """All rows have come."""
        self._pages.finish()

    def having(self, hashes: pl.Series) -> pl.DataFrame | None:
        """The rows whose key has one of these hashes, in their order; None where there are none. hashes: each once."""
        wanted = pl.DataFrame({self._hash: hashes}).with_row_index("row")
        wanted = wanted.filter(self._pages.may_hold(hashes))
        places = [
            self._pages.places(wanted.slice(start, ASKED_MAX), self._hash)["place"]
            for start in range(0, wanted.height, ASKED_MAX)
        ]
        found = pl.concat(places).sort() if places else None
        if found is None or not len(found):
            return None
        assert self._schema is not None
        return rows_of_bytes(self._read(found), self._schema)

    def close(self) -> None:
        for file in (self._rows, self._ends):
            file.close()
        self._pages.close()

    def _read(self, places: pl.Series) -> list[bytes]:
        """The bytes of the rows at these places. Neighbours are read at once."""
        new_span = (places.diff().fill_null(2) != 1).cum_sum()
        spans = (
            pl.DataFrame({"span": new_span, "place": places})
            .group_by("span", maintain_order=True)
            .agg(pl.col("place").first().alias("first"), pl.len().alias("rows"))
            .select("first", "rows")
            .rows()
        )
        bounds = self._ends.read((8 * first, 8 * (rows + 1)) for first, rows in spans)
        rows: list[bytes] = []
        for data in bounds:
            stops = memoryview(data).cast("Q").tolist()
            start = 0
            while start < len(stops) - 1:
                end = start + 1
                while end < len(stops) - 1 and stops[end + 1] - stops[start] <= _READ_BYTES_MAX:
                    end += 1
                base = stops[start]
                (block,) = self._rows.read([(base, stops[end] - base)])
                rows += [block[stops[at] - base : stops[at + 1] - base] for at in range(start, end)]
                start = end
        return rows
