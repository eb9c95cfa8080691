"""By what the place of a bad row is known again: the nearest good rows before and after it.

A place such as `orders.csv line 812` means another row once a line above it was added or taken out. The
texts of the rows beside it tell. Good rows are taken, because bad ones are what a user changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl
import xxhash

Texts = Callable[[Sequence[int]], Sequence[bytes]]
"""The texts of rows of a chunk, as they stand in it."""


def neighbours(bad: pl.Series, good: pl.Series, texts: Texts) -> pl.Series:
    """For each bad row, its neighbours as text: `-1:HASH +2:HASH` are the row before it and the second one
    after it. A side without a good row in the chunk is left out. bad, good: numbers of rows, ascending."""
    if not bad.len():
        return pl.Series("neighbours", [], pl.String)
    after = good.search_sorted(bad).cast(pl.Int64)
    before = good.gather(after.filter(after > 0) - 1).to_list()
    behind = good.gather(after.filter(after < good.len())).to_list()
    needed = sorted({*before, *behind})
    hashes = dict(zip(needed, map(_hash, texts(needed)), strict=True))
    ends = (
        [None] * (bad.len() - len(before)) + before,
        behind + [None] * (bad.len() - len(behind)),
    )
    told = [
        " ".join(f"{near - row:+}:{hashes[near]}" for near in pair if near is not None)
        for row, *pair in zip(bad.to_list(), *ends, strict=True)
    ]
    return pl.Series("neighbours", told, pl.String)


def is_same_place(told: str | None, row: int, rows: int, texts: Texts, *, ends: bool) -> bool:
    """Whether the neighbours of a row are those told. rows: of the chunk; ends: nothing follows it.

    A row without a neighbour behind it must be the last one: else it may be the next row, and the bad one
    was taken out.
    """
    found = [*_parsed(told or "")]
    if not found or (all(step < 0 for step, _ in found) and not (ends and row == rows - 1)):
        return False
    if any(not 0 <= row + step < rows for step, _ in found):
        return False
    beside = texts([row + step for step, _ in found])
    return all(_hash(text) == known for text, (_, known) in zip(beside, found, strict=True))


def _parsed(told: str) -> Iterator[tuple[int, str]]:
    for part in told.split():
        step, _, known = part.partition(":")
        yield int(step), known


def _hash(text: bytes) -> str:
    digest: str = xxhash.xxh3_64_hexdigest(text)
    return digest
