"""Windows without rows, of keys that had rows before (`fill`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import polars as pl

from dataflare.operators.window_rows import END, FILLED, WindowRows
from dataflare.state.tables import Tables

_ONE, _HIT, _PLACE = "__dataflare_one", "__dataflare_hit", "__dataflare_place"


class Fill:
    """how: what the measures of a window without rows are. seen: by key, its last window with rows. All keys are in
    one task, so that all have windows up to the last one of any key."""

    def __init__(
        self, how: Literal["null", "previous", "0"], rows: WindowRows, tables: Tables
    ) -> None:
        self._how, self._by = how, rows.keys or [_ONE]
        self._seen = tables.log("seen", (), self._last)

    @property
    def is_empty(self) -> bool:
        """No key has been seen."""
        return self._seen.is_empty

    def filled(self, windows: Iterator[pl.DataFrame], ends: range) -> Iterator[pl.DataFrame]:
        """All windows with these ends, given those that have rows."""
        parts = [*windows]
        seen = self._seen_windows()
        if not parts and seen is None:
            return
        found = pl.concat(parts) if parts else None
        if found is not None and self._by == [_ONE]:
            found = found.with_columns(pl.lit(0, pl.Int8).alias(_ONE))
        rows = pl.concat([each for each in (seen, found) if each is not None], how="diagonal")
        since = rows.group_by(self._by).agg(pl.col(END).min().alias(_PLACE))
        wanted = since.join(pl.DataFrame({END: ends}, schema={END: pl.Int64}), how="cross")
        wanted = wanted.filter(pl.col(END) >= pl.col(_PLACE)).drop(_PLACE)
        marked = rows.with_columns(pl.lit(True).alias(_HIT))
        missing = wanted.join(rows, on=[*self._by, END], how="anti", nulls_equal=True)
        whole = pl.concat([marked, missing], how="diagonal").sort(*self._by, END)
        # Each key starts with a window that has rows, so the last one before is of the same key.
        last_hit = pl.when(_HIT).then(pl.int_range(pl.len())).forward_fill()
        if self._how == "previous":
            states = pl.exclude(*self._by, END, _HIT).gather(last_hit)
            whole = whole.with_columns(states)
        self._seen.append(self._last(rows))
        given = whole.filter(pl.col(END).is_in([*ends]))
        if self._how != "previous":
            given = given.with_columns(pl.col(_HIT).is_null().alias(FILLED))
        if given.height:
            yield given.drop(_ONE, _HIT, strict=False).sort(END, maintain_order=True)

    def _seen_windows(self) -> pl.DataFrame | None:
        frames = list(self._seen.frames())
        return pl.concat(frames) if frames else None

    def _last(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.sort(END).unique(self._by, keep="last", maintain_order=True)
