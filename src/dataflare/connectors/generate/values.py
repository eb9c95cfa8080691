"""The values of rows: functions of seed, column name and row number, over whole columns.

Always true: a value depends on nothing else (except `start: now`, which also depends on when the
row was due), so any range of rows, in any order, gives the same rows. The numbers are splitmix64
(Steele, Lea, Flood, OOPSLA 2014), one stream per column: 100,000 of them take 0.35 ms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl
import xxhash
from msgspec import Struct

from dataflare.connectors.generate.config import GenerateConfig, GeneratedColumn, choices, own_type
from dataflare.model.hashing import mix_int
from dataflare.model.types import DataType

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Rows(Struct, frozen=True):
    """Generates the selected columns. types: by name, in order."""

    config: GenerateConfig
    types: Mapping[str, DataType]

    @property
    def reads_clock(self) -> bool:
        """Whether a selected column depends on when its row was due."""
        return any(_is_now(self.config.columns[name]) for name in self.types)

    def frame(self, row: int, count: int, stride: int, due_us: pl.Series | None) -> pl.DataFrame:
        """Rows `row`, `row + stride`, ... due_us: when each was due, in microseconds since 1970;
        needed if `reads_clock`."""
        numbers = pl.int_range(row, row + count * stride, stride, dtype=pl.Int64, eager=True)
        steps = numbers.reinterpret(dtype=pl.UInt64) * _GOLDEN
        return pl.DataFrame(
            [
                self._column(name, type_, numbers, steps, due_us)
                for name, type_ in self.types.items()
            ]
        )

    def _column(
        self,
        name: str,
        type_: DataType,
        numbers: pl.Series,
        steps: pl.Series,
        due_us: pl.Series | None,
    ) -> pl.Series:
        column = self.config.columns[name]
        values = _values(column, numbers, _Stream(steps, self._salt(name, "value")), due_us)
        if column.nulls:
            null = _below(_Stream(steps, self._salt(name, "null")).bits(), column.nulls)
            values = values.zip_with(~null, pl.Series([None], dtype=values.dtype))
        return values.cast(type_.to_polars()).alias(name)

    def _salt(self, name: str, purpose: str) -> int:
        digest = xxhash.xxh3_64_intdigest(f"{purpose}:{name}".encode("utf-8", "surrogatepass"))
        return mix_int(mix_int(self.config.seed & _MASK) ^ digest)


class _Stream(Struct, frozen=True):
    """The random bits of one column. steps: each row number times the golden ratio."""

    steps: pl.Series
    salt: int

    def bits(self) -> pl.Series:
        """64 bits a row: splitmix64 from the start `salt`, after as many steps as the row's
        number."""
        value = self.steps + ((self.salt + _GOLDEN) & _MASK)
        value = (value ^ (value // (1 << 30))) * 0xBF58476D1CE4E5B9
        value = (value ^ (value // (1 << 27))) * 0x94D049BB133111EB
        return value ^ (value // (1 << 31))


def _values(
    column: GeneratedColumn, numbers: pl.Series, stream: _Stream, due_us: pl.Series | None
) -> pl.Series:
    if column.sequence is not None:
        return numbers + column.sequence
    if column.int_ is not None:
        low, high = column.int_
        return _offset(stream.bits(), high - low + 1, low)
    if column.float_ is not None:
        return _uniform(stream.bits(), *column.float_)
    if column.bool_ is not None:
        return _below(stream.bits(), column.bool_)
    if column.choice is not None:
        values = choices(column.choice)
        return values.gather(stream.bits() % len(values))
    return _times(column, numbers, stream, due_us)


def _times(
    column: GeneratedColumn, numbers: pl.Series, stream: _Stream, due_us: pl.Series | None
) -> pl.Series:
    spec = column.time
    assert spec is not None
    if due_us is not None and spec.start == "now":
        micros = due_us
    else:
        micros = numbers * spec.step_us + spec.start_us
    if spec.jitter_us:
        micros = micros - (stream.bits() % spec.jitter_us).reinterpret(dtype=pl.Int64)
    return micros.cast(pl.Datetime("us", "UTC"))


def _offset(bits: pl.Series, size: int, low: int) -> pl.Series:
    """Whole numbers from `low` on; the sum wraps in 64 bits, so every range of int64 works."""
    within = bits % size if size < 1 << 64 else bits
    return (within + (low & _MASK)).reinterpret(dtype=pl.Int64)


def _uniform(bits: pl.Series, low: float, high: float) -> pl.Series:
    """53 random bits, scaled. Rounding may give `high`, which is not included, so that is
    replaced."""
    unit = (bits // (1 << 11)).cast(pl.Float64) * 2.0**-53
    return (unit * (high - low) + low).clip(None, math.nextafter(high, low))


def _below(bits: pl.Series, probability: float) -> pl.Series:
    """True with a probability: if the top 53 bits are below its share."""
    return (bits // (1 << 11)) < math.ceil(probability * 2**53)


def _is_now(column: GeneratedColumn) -> bool:
    return column.time is not None and column.time.start == "now"


def extremes(column: GeneratedColumn, rows: int | None) -> pl.Series:
    """The smallest and largest values of a column, to check whether a type can hold them."""
    if column.sequence is not None:
        return pl.Series([column.sequence, column.sequence + max(0, (rows or 1) - 1)])
    if column.choice is not None:
        return choices(column.choice)
    if column.bool_ is not None:
        return pl.Series([True, False])
    ends = column.int_ or column.float_
    if ends is not None:
        return pl.Series(list(ends))
    return pl.Series([0]).cast(own_type(column).to_polars())
