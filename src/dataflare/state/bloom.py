"""A Bloom filter over hashes (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters,
2007): a key sets five bits of one 64-bit word, so a probe reads one word.

Always true: a hash that was added is never denied. With 16 bits a key about one other hash in 200 is not denied.
"""

from __future__ import annotations

from functools import reduce

import polars as pl

_BITS_PER_KEY = 16
_BITS = 5
_POWERS = pl.Series([1 << bit for bit in range(64)], dtype=pl.UInt64)


class Bloom:
    """keys_max: how many hashes it is made for. It takes more, and then denies fewer."""

    def __init__(self, keys_max: int) -> None:
        self._word_bits = max(6, (keys_max * _BITS_PER_KEY // 64).bit_length())
        self._words = pl.zeros(1 << self._word_bits, dtype=pl.UInt64, eager=True)

    @property
    def num_bytes(self) -> int:
        return 8 * len(self._words)

    def add(self, hashes: pl.Series) -> None:
        marks = self._marks(hashes).lazy().group_by("word").agg(pl.col("bits").bitwise_or())
        changed = marks.collect(engine="in-memory")
        place = changed["word"]
        self._words.scatter(place, self._words.gather(place) | changed["bits"])

    def may_hold(self, hashes: pl.Series) -> pl.Series:
        """For each hash whether it may have been added."""
        marks = self._marks(hashes)
        bits = marks["bits"]
        return (self._words.gather(marks["word"]) & bits) == bits

    def _marks(self, hashes: pl.Series) -> pl.DataFrame:
        """The word of each hash, by its upper bits, and its bits there, by its lower ones."""
        value = pl.col("h")
        each = [pl.lit(_POWERS).gather((value // 64**n) % 64) for n in range(_BITS)]
        word = (value // (1 << (64 - self._word_bits))).cast(pl.UInt32)
        bits = reduce(lambda a, b: a | b, each)
        return pl.DataFrame({"h": hashes}).select(word.alias("word"), bits.alias("bits"))
