"""The newest row of each key, as a table that is drawn over itself on a terminal.

Always true: where not all rows fit, those that changed last are shown; no more than `KEYS_MAX` are kept, and the table
says how many it let go; it fits into the terminal, because lines that wrap or scroll away
could not be drawn over.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import polars as pl

from dataflare.model.batch import KIND_COLUMN, RowKind

KEYS_MAX = 10_000
_GONE = [int(RowKind.UPDATE_BEFORE), int(RowKind.DELETE)]
_ROWS_SHOWN = 20


class NewestRows:
    """The newest row of each key, in the order of the last changes. deletes: whether a row that is deleted
    leaves the table."""

    def __init__(self, key: Sequence[str], *, deletes: bool) -> None:
        self._key, self._deletes = list(key), deletes
        self.rows: pl.DataFrame | None = None
        self.dropped = 0
        """How many rows it let go, because there were too many keys."""

    def apply(self, batch: pl.DataFrame) -> None:
        """Take the changes of a batch, in their order. A batch without row kinds has new rows."""
        gone = pl.lit(False)
        if KIND_COLUMN in batch.columns:
            gone = pl.col(KIND_COLUMN).is_in(_GONE)
        changes = batch if self._deletes else batch.filter(~gone)
        newest = changes.unique(self._key, keep="last", maintain_order=True)
        new = newest.filter(~gone).drop(KIND_COLUMN, strict=False)
        if self.rows is None:
            self.rows = new
        else:
            kept = self.rows.join(
                newest, on=self._key, how="anti", nulls_equal=True, maintain_order="left"
            )
            self.rows = pl.concat([kept, new.select(kept.columns)])
        if self.rows.height > KEYS_MAX:
            self.dropped += self.rows.height - KEYS_MAX
            self.rows = self.rows.tail(KEYS_MAX)

    def by_key(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows in the order of their keys, so that they do not move while their values change."""
        if any(rows.schema[name].is_nested() for name in self._key):
            return rows
        return rows.sort(self._key)


class Screen:
    """Draws a table over the one before it. size: columns and lines of the terminal."""

    def __init__(self, size: Callable[[], tuple[int, int]] = shutil.get_terminal_size) -> None:
        self._size = size
        self._lines = 0

    def room(self, limit: int | None) -> int:
        """How many rows fit below the two lines of the header and above the line of what is left out."""
        return max(1, min(limit or _ROWS_SHOWN, self._size()[1] - 5))

    def drawn(self, text: str) -> str:
        """What draws the text, and removes what was drawn before."""
        width = self._size()[0]
        lines = [line[:width] for line in text.splitlines()]
        back = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        self._lines = len(lines)
        return back + "".join(f"{line}\n" for line in lines)
