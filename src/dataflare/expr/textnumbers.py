"""Numbers from text, in the forms that DuckDB reads.

Always true: text is never converted to an integer or a decimal through a float; digits beyond the scale
are rounded half away from zero; text that is not a number, or a number that does not fit, becomes null.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from dataflare.expr.sqltypes import as_decimal
from dataflare.model.types import DataType

_DIGITS = r"\d+(?:_\d+)*"
_NUMBER = rf"^[+-]?(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?$"
_HEX = r"^0[xX]([0-9a-fA-F]+(?:_[0-9a-fA-F]+)*)$"
_BINARY = r"^0[bB]([01]+(?:_[01]+)*)$"
_EXPONENT_MAX = 2_000
"""Larger exponents are clipped to this: the number is then too large or 0."""


def float_of(text: pl.Expr, to: DataType) -> pl.Expr:
    """The text, without space around it, as a float."""
    dtype = to.to_polars()
    plain = text.cast(dtype, strict=False)
    rare_numbers = seldom(
        rest_of(text, plain), dtype, lambda rare: _number(rare).cast(dtype, strict=False)
    )
    return pl.coalesce(plain, rare_numbers)


def integer_of(text: pl.Expr, to: DataType) -> pl.Expr:
    """The text as an integer. A number with a fraction or an exponent is rounded; `0x1F` and `0b101` are
    read in their base."""
    dtype = to.to_polars()
    plain = text.cast(dtype, strict=False)

    def rare(rare_text: pl.Expr) -> pl.Expr:
        whole = _rounded(_number(rare_text), 0).cast(dtype, strict=False)
        if to.name.startswith("uint"):  # DuckDB takes -0 and refuses -0.0
            whole = pl.when(rare_text.str.contains(r"^[^-]|^-[0_]+$")).then(whole)
        return pl.coalesce(
            whole, _in_base(rare_text, _HEX, 16, dtype), _in_base(rare_text, _BINARY, 2, dtype)
        )

    return pl.coalesce(plain, seldom(rest_of(text, plain), dtype, rare))


def decimal_of(text: pl.Expr, to: DataType) -> pl.Expr:
    """The text as a decimal. Polars rounds half to even, so its result is used only if the next digit is
    not a 5."""
    precision, scale = as_decimal(to)
    dtype = to.to_polars()
    plain = text.cast(dtype, strict=False)
    sure = pl.lit(False)
    if scale < 38:
        finer = text.cast(pl.Decimal(38, scale + 1), strict=False).to_physical()
        five, ten = (pl.lit(each, dtype=pl.Int128) for each in (5, 10))
        sure = (finer % five != 0) | (finer % ten == 0)
        sure = (plain.is_not_null() & sure).fill_null(False)

    def rare(rare_numbers: pl.Expr) -> pl.Expr:
        digits = _rounded(_number(rare_numbers), scale)
        fitting = pl.when(digits.abs() < pl.lit(10**precision, dtype=pl.Int128)).then(digits)
        return fitting.reinterpret(dtype=dtype)

    rare_numbers = seldom(pl.when(~sure).then(text), dtype, rare)
    return pl.when(sure).then(plain).otherwise(rare_numbers)


def rest_of(text: pl.Expr, plain: pl.Expr) -> pl.Expr:
    """The text where the common form did not match."""
    return pl.when(plain.is_null()).then(text)


def seldom(rare_text: pl.Expr, dtype: pl.DataType, read: Callable[[pl.Expr], pl.Expr]) -> pl.Expr:
    """The result of `read` for the few remaining texts. `read` is not called if there are none.

    The expression stays small, because `read` is built and evaluated inside of the batch.
    """

    def batch(column: pl.Series) -> pl.Series:
        if column.null_count() == column.len():
            return pl.Series(column.name, [], dtype=dtype).extend_constant(None, column.len())
        return column.to_frame("text").select(read(pl.col("text")).alias(column.name)).to_series()

    return rare_text.map_batches(batch, return_dtype=dtype, is_elementwise=True)


def _number(text: pl.Expr) -> pl.Expr:
    """Numbers in DuckDB's form without underscores between digits. Other text becomes null."""
    return text.str.extract(f"({_NUMBER})", 1).str.replace_all("_", "", literal=True)


def _in_base(text: pl.Expr, pattern: str, base: int, dtype: pl.DataType) -> pl.Expr:
    digits = text.str.extract(pattern, 1).str.replace_all("_", "", literal=True)
    whole = digits.str.to_integer(base=base, dtype=pl.UInt64, strict=False)
    return whole.cast(dtype, strict=False)


def _rounded(number: pl.Expr, scale: int) -> pl.Expr:
    """The number's digits as Int128, with `scale` of them after the point."""
    exponent = number.str.extract(r"[eE]([+-]?\d+)$", 1)
    huge = pl.when(exponent.str.starts_with("-")).then(-_EXPONENT_MAX).otherwise(_EXPONENT_MAX)
    shift = (
        pl.when(exponent.is_not_null())
        .then(exponent.cast(pl.Int64, strict=False).fill_null(huge))
        .otherwise(0)
        .clip(-_EXPONENT_MAX, _EXPONENT_MAX)
    )
    whole = number.str.extract(r"^[+-]?(\d*)", 1)
    digits = whole + number.str.extract(r"\.(\d*)", 1).fill_null("")
    point = whole.str.len_bytes().cast(pl.Int64) + shift
    # Zeros are put before and behind, so that the point is inside of the digits.
    before = pl.max_horizontal(-point, pl.lit(0, dtype=pl.Int64))
    digits = digits.str.pad_start(digits.str.len_bytes().cast(pl.Int64) + before, "0")
    point = pl.max_horizontal(point, pl.lit(0, dtype=pl.Int64))
    digits = digits.str.pad_end(pl.max_horizontal(point + scale + 1, pl.lit(1)), "0")
    magnitude = digits.str.slice(0, point + scale).str.strip_chars_start("0")
    magnitude = pl.when(magnitude == "").then(pl.lit("0")).otherwise(magnitude)
    unit = magnitude.cast(pl.Int128, strict=False)
    unit = unit + (digits.str.slice(point + scale, 1) >= "5").cast(pl.Int128)
    negative = pl.lit(0, dtype=pl.Int128) - unit  # Polars negates no Int128.
    return pl.when(number.str.starts_with("-")).then(negative).otherwise(unit)
