"""A sorted run of keys on disk: their hashes in pages (`hash_pages`), the keys themselves in stored pieces.

The key's bytes are read where the hash alone does not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from dataflare.state.hash_pages import ASKED_MAX, HashPages
from dataflare.state.key_hashes import HASH, hashes_tell_all, key_bytes
from dataflare.state.pieces import Piece
from dataflare.state.scratch import ScratchFile, raw_bytes

_ROWS_MAX = 200_000


class KeyRun:
    """keys: the key columns. rows: about how many keys will come. folder: of scratch files."""

    def __init__(self, keys: Sequence[str], rows: int, folder: Path | None) -> None:
        self.keys = tuple(keys)
        self.rows = 0
        self.pieces: list[Piece] = []
        self._hashes = HashPages(rows, folder)
        self._folder = folder
        self._texts: tuple[ScratchFile, ScratchFile] | None = None

    @property
    def num_bytes(self) -> int:
        """How much memory it takes."""
        return self._hashes.num_bytes

    def append(self, hashed: pl.DataFrame, pieces: Sequence[Piece]) -> None:
        """hashed: keys with their hashes, in the order of hashes, and all behind those that came before. pieces: what
        holds them."""
        if not self.rows and not hashes_tell_all(hashed.schema, self.keys):
            self._texts = ScratchFile(self._folder), ScratchFile(self._folder)
        if self._texts is not None:
            self._append_texts(hashed)
        self._hashes.append(hashed[HASH])
        self.rows += hashed.height
        self.pieces += pieces

    def finish(self) -> None:
        """All keys have come."""
        self._hashes.finish()

    def contains(self, probe: pl.DataFrame) -> pl.Series:
        """For each row whether its key is held. probe: keys with their hashes."""
        may_hold = self._hashes.may_hold(probe[HASH])
        if self._texts is None:
            may_hold = may_hold & probe[self.keys[0]].is_not_null()
        wanted = probe.with_row_index("row").filter(may_hold)
        rows = [
            self._found(wanted.slice(start, ASKED_MAX))
            for start in range(0, wanted.height, ASKED_MAX)
        ]
        held = pl.repeat(False, probe.height, eager=True)
        return held.scatter(pl.concat(rows), True) if rows else held

    def close(self) -> None:
        for file in (self._hashes, *(self._texts or ())):
            file.close()

    def _found(self, wanted: pl.DataFrame) -> pl.Series:
        """The numbers of the rows whose key is held."""
        places = self._hashes.places(wanted, HASH)
        if self._texts is None or not places.height:
            return places["row"].unique()
        return self._with_texts(wanted, places)

    def _with_texts(self, wanted: pl.DataFrame, places: pl.DataFrame) -> pl.Series:
        """The rows whose key is the same, too."""
        assert self._texts is not None
        ends, texts = self._texts
        data = ends.read((8 * place, 16) for place in places["place"].to_list())
        bounds = pl.Series(data, dtype=pl.Binary).bin.reinterpret(
            dtype=pl.Array(pl.UInt64, 2), endianness="little"
        )
        held = texts.read((start, end - start) for start, end in bounds.to_list())
        asked = wanted.select("row", key_bytes(wanted, self.keys).alias("asked"))
        same = places.with_columns(pl.Series("held", held, dtype=pl.Binary)).join(asked, on="row")
        return same.filter(pl.col("held") == pl.col("asked"))["row"].unique()

    def _append_texts(self, hashed: pl.DataFrame) -> None:
        """The bytes of keys one behind the other, and where each starts; the last one's end follows."""
        assert self._texts is not None
        ends, texts = self._texts
        if not self.rows:
            ends.append(bytes(8))
        for part in hashed.iter_slices(_ROWS_MAX):
            encoded = key_bytes(part, self.keys)
            stops = encoded.bin.size().cast(pl.UInt64).cum_sum() + texts.num_bytes
            joined = encoded.bin.encode("hex").str.join("").item()
            texts.append(bytes.fromhex(joined))
            ends.append(raw_bytes(stops))
