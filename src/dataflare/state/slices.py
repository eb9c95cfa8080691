"""Partial aggregates by key and time, of which the oldest leave first.

The time is cut into slices, and each slice is a log of its own. What leaves is dropped as a whole, so the rest is
not written again in the next checkpoint. Slices become twice as wide when there are too many of them.

Always true: a row lies in exactly one slice; each slice is a multiple of its width; no more than SLICES_MAX
slices are open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from dataflare.state.log import Log, Merge
from dataflare.state.tables import Tables

SLICES_MAX = 64


class Slices:
    """name: of the table. keys: columns by which rows move to another subtask. time: an Int64 column that is
    part of what `merge` groups by. width: of a slice at first, in the unit of `time`."""

    def __init__(
        self, tables: Tables, name: str, keys: Sequence[str], merge: Merge, time: str, width: int
    ) -> None:
        self._tables, self._name, self._keys, self._merge = tables, name, tuple(keys), merge
        self._time, self._width, self._level = time, width, 0
        self._order = (time, *keys)
        self._slices: dict[int, Log] = {}
        self._restore()

    @property
    def is_empty(self) -> bool:
        return not self._slices

    def first(self, low: int = -(2**63)) -> int | None:
        """The first time that is not before `low`."""
        for number in sorted(self._slices):
            if (number + 1) * self.width > low:
                least = self._slices[number].least(self._time, low)
                if least is not None:
                    return least
        return None

    @property
    def end(self) -> int | None:
        """All rows have earlier times."""
        return (max(self._slices) + 1) * self.width if self._slices else None

    @property
    def width(self) -> int:
        """The width of a slice now."""
        return self._width << self._level

    def append(self, partial: pl.DataFrame) -> None:
        """Take one batch's partial."""
        if not partial.height:
            return
        times = partial[self._time]
        first, last = int(times.min()), int(times.max())  # type: ignore[arg-type]
        if first // self.width == last // self.width:
            self._slice(first // self.width).append(partial)
        else:
            self._make_room(times)
            number = pl.col(self._time) // self.width
            marked = partial.with_columns(number.alias("__dataflare_slice"))
            parts = marked.partition_by("__dataflare_slice", as_dict=True, include_key=False)
            for key, part in parts.items():
                self._slice(int(str(key[0]))).append(part)
        while len(self._slices) > SLICES_MAX:
            self._widen()

    def rows(self, first: int, end: int) -> int:
        """At most how many rows there are from `first` to before `end`."""
        numbers = (n for n in self._slices if first < (n + 1) * self.width and n * self.width < end)
        return sum(piece.rows for n in numbers for piece in self._slices[n].pieces())

    def frames(self, first: int, end: int) -> Iterator[pl.DataFrame]:
        """The merged rows from `first` to before `end`, which stay."""
        for number in sorted(self._slices):
            start = number * self.width
            if start + self.width <= first or start >= end:
                continue
            within = pl.lit(True)
            if start < first:
                within &= pl.col(self._time) >= first
            if start + self.width > end:
                within &= pl.col(self._time) < end
            for frame in self._slices[number].frames():
                rows = frame.filter(within)
                if rows.height:
                    yield rows

    def take(self, end: int, rows_max: int) -> Iterator[pl.DataFrame]:
        """The merged rows before `end`, in the order of slices. Rows are no longer held when they are given."""
        for number in sorted(self._slices):
            start, log = number * self.width, self._slices[number]
            if start >= end:
                return
            if start + self.width > end:
                for frame in log.take(pl.col(self._time) < end):
                    yield frame.sort(self._order, nulls_last=True)
            else:
                yield from log.drain(rows_max, self._order)
                self._forget(number)

    def drop(self, end: int) -> None:
        """Forget the rows before `end`."""
        for number in sorted(self._slices):
            start = number * self.width
            if start + self.width <= end:
                self._forget(number)
            elif start < end:
                for _ in self._slices[number].take(pl.col(self._time) < end):
                    pass

    def _slice(self, number: int) -> Log:
        log = self._slices.get(number)
        if log is None:
            log = self._tables.log(self._named(number), self._keys, self._merge, former=())
            self._slices[number] = log
        return log

    def _forget(self, number: int) -> None:
        del self._slices[number]
        self._tables.drop(self._named(number))

    def _named(self, number: int) -> str:
        return f"{self._name}.{self._level}.{number}"

    def _make_room(self, times: pl.Series) -> None:
        """Widen the slices until there are few enough for these times too."""
        numbers = {*self._slices, *(times // self.width).unique().to_list()}
        while len(numbers) > SLICES_MAX:
            self._widen()
            numbers = {number >> 1 for number in numbers}

    def _widen(self) -> None:
        """Put each two slices together."""
        former, names = self._slices, {number: self._named(number) for number in self._slices}
        self._level, self._slices = self._level + 1, {}
        for number in sorted(former):
            self._tables.absorb(self._slice(number >> 1), names[number])

    def _restore(self) -> None:
        """Go on from the slices of former subtasks, whose widths may differ."""
        found: list[tuple[str, int, int]] = []
        for name in self._tables.names(f"{self._name}."):
            level, number = name.removeprefix(f"{self._name}.").split(".")
            found.append((name, int(level), int(number)))
        self._level = max((level for _, level, _ in found), default=0)
        joined: dict[int, list[str]] = {}
        for name, at, place in found:
            joined.setdefault(place >> (self._level - at), []).append(name)
        for place, names in joined.items():
            log = self._tables.log(self._named(place), self._keys, self._merge, names)
            if log.is_empty:
                self._tables.drop(self._named(place))
            else:
                self._slices[place] = log
