"""A set of keys that grows: levels of immutable frames, each behind an index.

Adding appends a level; levels of like size are merged (as in a log-structured merge tree, O'Neil et
al. 1996), so a key is indexed again O(log n) times. NULL is a value like others here.
"""

from __future__ import annotations

import polars as pl

from dataflare.state.index import KeyIndex


class KeySet:
    """keys: the key columns; frames given to it have exactly those, distinct and not yet held."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self._levels: list[tuple[str, pl.DataFrame, KeyIndex]] = []
        self._nulls: pl.DataFrame | None = None
        self._nulls_name = ""
        self._names = 0

    def contains(self, frame: pl.DataFrame) -> pl.Series:
        """For each row whether its key is held."""
        probe = [frame[key] for key in self.keys]
        held = pl.repeat(False, frame.height, eager=True)
        for _, _, index in self._levels:
            held = held | index.rows(probe).is_not_null()
        if self._nulls is not None:
            marked = frame.select(self.keys).join(
                self._nulls.with_columns(pl.lit(True).alias("__dataflare_hit")),
                on=list(self.keys),
                how="left",
                nulls_equal=True,
                maintain_order="left",
            )
            held = held | marked["__dataflare_hit"].fill_null(False)
        return held

    def add(self, keys: pl.DataFrame) -> None:
        has_null = pl.any_horizontal([pl.col(key).is_null() for key in self.keys])
        nulls, whole = keys.filter(has_null), keys.filter(~has_null)
        if nulls.height:
            self._nulls = nulls if self._nulls is None else pl.concat([self._nulls, nulls])
            self._nulls_name = self._name()
        if not whole.height:
            return
        while self._levels and self._levels[-1][1].height <= 2 * whole.height:
            whole = pl.concat([self._levels.pop()[1], whole], rechunk=True)
        self._levels.append((self._name(), whole, KeyIndex(whole, self.keys)))

    def frames(self) -> dict[str, pl.DataFrame]:
        """All keys, as immutable frames by name."""
        held = {name: frame for name, frame, _ in self._levels}
        if self._nulls is not None:
            held[self._nulls_name] = self._nulls
        return held

    def num_bytes(self) -> int:
        # An index holds hashes, rows and a directory: about 24 bytes a key beside the key itself.
        nulls = 0 if self._nulls is None else int(self._nulls.estimated_size())
        return nulls + sum(int(f.estimated_size()) + 24 * f.height for _, f, _ in self._levels)

    def _name(self) -> str:
        self._names += 1
        return f"k{self._names}"
