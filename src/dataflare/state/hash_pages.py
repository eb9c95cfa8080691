"""Hashes in order on disk, in pages in a scratch file, with a filter and the first hash of each page in memory.

A hash that is not there is mostly denied by the filter, without a read. For another one a page of 64 hashes is read.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from dataflare.state.bloom import Bloom
from dataflare.state.scratch import ScratchFile, raw_bytes

PAGE = 64
"""Hashes in a page, which is read at once."""
ASKED_MAX = 20_000
"""So many hashes are asked for at once."""


class HashPages:
    """rows: about how many hashes will come. folder: of scratch files."""

    def __init__(self, rows: int, folder: Path | None) -> None:
        self.rows = 0
        self._bloom = Bloom(rows)
        self._hashes, self._firsts = ScratchFile(folder), pl.Series(dtype=pl.UInt64)
        self._rest: pl.Series = pl.Series(dtype=pl.UInt64)

    @property
    def num_bytes(self) -> int:
        """How much memory it takes."""
        return self._bloom.num_bytes + 8 * len(self._firsts)

    def append(self, hashes: pl.Series) -> None:
        """hashes: in order, and none before those that came already."""
        self._bloom.add(hashes)
        waiting = pl.concat([self._rest, hashes], rechunk=True)
        whole = len(waiting) // PAGE * PAGE
        pages, self._rest = waiting.head(whole), waiting.slice(whole)
        self._hashes.append(raw_bytes(pages))
        self._firsts = pl.concat([self._firsts, pages.gather_every(PAGE)], rechunk=True)
        self.rows += len(hashes)

    def finish(self) -> None:
        """All hashes have come."""
        if len(self._rest):
            end = pl.zeros(PAGE - len(self._rest), dtype=pl.UInt64, eager=True)
            self._hashes.append(raw_bytes(pl.concat([self._rest, end], rechunk=True)))
            self._firsts = pl.concat([self._firsts, self._rest.head(1)], rechunk=True)
            self._rest = self._rest.clear()

    def may_hold(self, hashes: pl.Series) -> pl.Series:
        """For each hash whether it may be there."""
        return self._bloom.may_hold(hashes)

    def places(self, wanted: pl.DataFrame, name: str) -> pl.DataFrame:
        """Where hashes are: a row for each place, with the columns `row` and `place`, and the hash. wanted: `row` and
        the hash, in the column of that name."""
        hashes = wanted[name]
        # Equal hashes may lie in several pages, of which only the first may begin with another hash.
        first = self._firsts.search_sorted(hashes, "left").cast(pl.Int64) - 1
        last = self._firsts.search_sorted(hashes, "right").cast(pl.Int64) - 1
        spans = wanted.select("row", name).with_columns(
            first=pl.max_horizontal(pl.lit(first), 0), last=last
        )
        pages = pl.int_ranges("first", pl.col("last") + 1).alias("page")
        probes = (
            spans.filter(pl.col("last") >= 0).select("row", name, pages).explode("page")
        ).drop_nulls("page")
        numbers = probes["page"].unique().sort()
        size = 8 * PAGE
        data = self._hashes.read((number * size, size) for number in numbers.to_list())
        read = pl.DataFrame({"page": numbers, "data": pl.Series(data, dtype=pl.Binary)})
        as_hashes = pl.col("data").bin.reinterpret(
            dtype=pl.Array(pl.UInt64, PAGE), endianness="little"
        )
        within = pl.int_ranges(pl.col("page") * PAGE, (pl.col("page") + 1) * PAGE)
        return (
            probes.lazy()
            .join(read.lazy().select("page", as_hashes.alias("held").arr.to_list()), on="page")
            .select("row", name, "held", within.alias("place"))
            .explode("held", "place")
            .filter(pl.col("held") == pl.col(name), pl.col("place") < self.rows)
            .drop("held")
            .collect(engine="in-memory")
        )

    def close(self) -> None:
        self._hashes.close()
