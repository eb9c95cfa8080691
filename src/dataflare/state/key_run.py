"""A sorted run of keys on disk: their hashes in pages in a scratch file, a filter in memory, the keys themselves in
stored pieces.

A key that is not in the run is mostly denied by the filter, without a read. For another one a page of 64 hashes is
read, and the key's bytes where the hash alone does not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from dataflare.state.bloom import Bloom
from dataflare.state.key_hashes import HASH, hashes_tell_all, key_bytes
from dataflare.state.pieces import Piece
from dataflare.state.scratch import ScratchFile, raw_bytes

PAGE = 64
"""Hashes in a page, which is read at once."""
_PAGES_MAX = 20_000
_ROWS_MAX = 200_000


class KeyRun:
    """keys: the key columns. rows: about how many keys will come. folder: of scratch files."""

    def __init__(self, keys: Sequence[str], rows: int, folder: Path | None) -> None:
        self.keys = tuple(keys)
        self.rows = 0
        self.pieces: list[Piece] = []
        self._bloom = Bloom(rows)
        self._hashes, self._firsts = ScratchFile(folder), pl.Series(dtype=pl.UInt64)
        self._folder = folder
        self._texts: tuple[ScratchFile, ScratchFile] | None = None
        self._rest: pl.Series = pl.Series(dtype=pl.UInt64)

    @property
    def num_bytes(self) -> int:
        """How much memory it takes."""
        return self._bloom.num_bytes + 8 * len(self._firsts)

    def append(self, hashed: pl.DataFrame, pieces: Sequence[Piece]) -> None:
        """hashed: keys with their hashes, in the order of hashes, and all behind those that came before. pieces: what
        holds them."""
        if not self.rows and not hashes_tell_all(hashed.schema, self.keys):
            self._texts = ScratchFile(self._folder), ScratchFile(self._folder)
        if self._texts is not None:
            self._append_texts(hashed)
        hashes = hashed[HASH]
        self._bloom.add(hashes)
        waiting = pl.concat([self._rest, hashes], rechunk=True)
        whole = len(waiting) // PAGE * PAGE
        pages, self._rest = waiting.head(whole), waiting.slice(whole)
        self._hashes.append(raw_bytes(pages))
        self._firsts = pl.concat([self._firsts, pages.gather_every(PAGE)], rechunk=True)
        self.rows += len(hashes)
        self.pieces += pieces

    def finish(self) -> None:
        """All keys have come."""
        if len(self._rest):
            end = pl.zeros(PAGE - len(self._rest), dtype=pl.UInt64, eager=True)
            self._hashes.append(raw_bytes(pl.concat([self._rest, end], rechunk=True)))
            self._firsts = pl.concat([self._firsts, self._rest.head(1)], rechunk=True)
            self._rest = self._rest.clear()

    def contains(self, probe: pl.DataFrame) -> pl.Series:
        """For each row whether its key is held. probe: keys with their hashes."""
        may_hold = self._bloom.may_hold(probe[HASH])
        if self._texts is None:
            may_hold = may_hold & probe[self.keys[0]].is_not_null()
        wanted = probe.with_row_index("row").filter(may_hold)
        rows = [
            self._found(wanted.slice(start, _PAGES_MAX))
            for start in range(0, wanted.height, _PAGES_MAX)
        ]
        held = pl.repeat(False, probe.height, eager=True)
        return held.scatter(pl.concat(rows), True) if rows else held

    def close(self) -> None:
        for file in (self._hashes, *(self._texts or ())):
            file.close()

    def _found(self, wanted: pl.DataFrame) -> pl.Series:
        """The numbers of the rows whose key is held."""
        hashes = wanted[HASH]
        # Equal hashes may lie in several pages, of which only the first may begin with another hash.
        first = self._firsts.search_sorted(hashes, "left").cast(pl.Int64) - 1
        last = self._firsts.search_sorted(hashes, "right").cast(pl.Int64) - 1
        spans = wanted.select("row", HASH).with_columns(
            first=pl.max_horizontal(pl.lit(first), 0), last=last
        )
        pages = pl.int_ranges("first", pl.col("last") + 1).alias("page")
        probes = (
            spans.filter(pl.col("last") >= 0).select("row", HASH, pages).explode("page")
        ).drop_nulls("page")
        numbers = probes["page"].unique().sort()
        size = 8 * PAGE
        data = self._hashes.read((number * size, size) for number in numbers.to_list())
        read = pl.DataFrame({"page": numbers, "data": pl.Series(data, dtype=pl.Binary)})
        as_hashes = pl.col("data").bin.reinterpret(
            dtype=pl.Array(pl.UInt64, PAGE), endianness="little"
        )
        within = pl.int_ranges(pl.col("page") * PAGE, (pl.col("page") + 1) * PAGE)
        places = (
            probes.lazy()
            .join(read.lazy().select("page", as_hashes.alias("held").arr.to_list()), on="page")
            .select("row", HASH, "held", within.alias("place"))
            .explode("held", "place")
            .filter(pl.col("held") == pl.col(HASH), pl.col("place") < self.rows)
            .collect(engine="in-memory")
        )
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
