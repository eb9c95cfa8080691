"""Which keys have most of the rows of an exchange, from samples.

All rows of a key go to one task, so a key with half of the rows keeps one task busy, however many there are. Samples are taken in the
exchange, where the rows are cut by key anyway, in no more than a hundredth of the time of a task, and without Python per row.

Always true: a key with more than a quarter of the rows of each sample is among those that are kept. (Of `_KEPT` keys the rarest are
forgotten when there are more, and counted as other rows.)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import polars as pl
from msgspec import Struct, field

from dataflare.formats.text_write import for_python

_FREE_LOOKS = 16
_TIME_SHARE = 0.01
"""A look takes 0.4 ms, whatever the batch: as long as a seventh of the exchange of 100,000 rows takes."""
_SAMPLE = 2_048
_PER_SAMPLE = 8
_KEPT = 32
_TEXT_MAX = 60
ENOUGH_ROWS = 2_000
"""Shares of fewer sampled rows are chance."""


class KeyCounts(Struct):
    """rows: sampled. by_key: of them, the rows of the most frequent keys, by the key as text."""

    rows: int = 0
    by_key: dict[str, int] = field(default_factory=dict)

    def add(self, rows: int, by_key: Mapping[str, int]) -> None:
        self.rows += rows
        for key, count in by_key.items():
            self.by_key[key] = self.by_key.get(key, 0) + count
        if len(self.by_key) > _KEPT:
            ranked = sorted(self.by_key.items(), key=lambda each: each[1], reverse=True)
            self.by_key = dict(ranked[: _KEPT // 2])

    @property
    def hottest(self) -> tuple[str, float] | None:
        """The most frequent key, and its share of the rows. None where too few rows were sampled."""
        if self.rows < ENOUGH_ROWS or not self.by_key:
            return None
        key = max(self.by_key, key=self.by_key.__getitem__)
        return key, self.by_key[key] / self.rows


def joined(parts: Iterable[KeyCounts]) -> KeyCounts:
    """What several tasks have seen together."""
    total = KeyCounts()
    for part in parts:
        total.add(part.rows, part.by_key)
    return total


class KeySampler:
    """Of the rows that one task sends over one edge. Of one thread at a time."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys
        self._looks, self._looked_s, self._began_s = 0, 0.0, time.perf_counter()
        self.counts = KeyCounts()

    def look(self, frame: pl.DataFrame) -> None:
        """A batch goes over the edge: it may be its turn to be sampled."""
        began_s = time.perf_counter()
        lived_s = began_s - self._began_s
        if self._looks >= _FREE_LOOKS and self._looked_s > _TIME_SHARE * lived_s:
            return
        rows = frame.select(self._keys)
        if rows.height > _SAMPLE:
            # By chance: each n-th row would always be of one key where keys come in turns.
            rows = rows.sample(_SAMPLE, with_replacement=True)
        found = (
            rows.group_by(self._keys).len("__dataflare_n").top_k(_PER_SAMPLE, by="__dataflare_n")
        )
        by_key = {self._text(key): count for *key, count in for_python(found).iter_rows()}
        self.counts.add(rows.height, by_key)
        self._looks += 1
        self._looked_s += time.perf_counter() - began_s

    def _text(self, key: list[object]) -> str:
        pairs = zip(self._keys, key, strict=True)
        return ", ".join(f"{name} = {str(value)[:_TEXT_MAX]}" for name, value in pairs)


def is_hot(share: float, tasks: int) -> bool:
    """Whether a key with this share of the rows makes one of so many tasks the slowest: it alone has twice as many rows as each would have, or half
    of all."""
    return tasks > 1 and share >= min(0.5, 2 / tasks)
