"""C's fmod over columns: the exact remainder, without rounding."""

from __future__ import annotations

import math

import polars as pl

_SPLITTER = 2.0**27 + 1


def fmod(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    """The remainder of floats as float64. NaN where C gives NaN."""
    both = pl.struct(a.cast(pl.Float64).alias("a"), b.cast(pl.Float64).alias("b"))
    return both.map_batches(_fmod, return_dtype=pl.Float64, is_elementwise=True)


def _fmod(pairs: pl.Series) -> pl.Series:
    """`a - b * q` with the rounding error of the product (Dekker 1971, mul12). It is exact while the
    quotient has 53 bits. Values that are not finite, very large or very small are computed by C."""
    a, b, q, p, remainder = (pl.col(name) for name in ("a", "b", "q", "p", "rest"))
    quotient = a / b
    cut = pl.when(quotient < 0).then(quotient.ceil()).otherwise(quotient.floor())
    frame = pairs.struct.unnest().with_columns(q=cut).with_columns(p=b * q)
    for name in ("b", "q"):
        wide = pl.col(name) * _SPLITTER
        frame = frame.with_columns((wide - (wide - pl.col(name))).alias(f"{name}_high"))
    b_high, q_high = pl.col("b_high"), pl.col("q_high")
    b_low, q_low = b - b_high, q - q_high
    error = ((b_high * q_high - p) + b_high * q_low + b_low * q_high) + b_low * q_low
    frame = frame.with_columns(rest=(a - p) - error)
    # If the quotient was rounded up to a whole number, the remainder has the other sign.
    back = pl.when(a * b < 0).then(-b).otherwise(b)
    frame = frame.with_columns(
        rest=pl.when(remainder * a < 0).then(remainder + back).otherwise(remainder)
    )
    usual = (q.abs() < 2.0**53) & a.is_finite() & b.abs().is_between(2.0**-900, 2.0**900)
    sure = usual & (remainder.abs() < b.abs()) & ((a == 0) | (a.abs() > 2.0**-900))
    # A remainder of 0 has the sign of the dividend.
    signed = pl.when(remainder == 0).then(a * 0.0).otherwise(remainder)
    frame = frame.with_columns(rest=pl.when(sure).then(signed))
    inexact = frame.with_row_index("place").filter(
        remainder.is_null() & a.is_not_null() & b.is_not_null()
    )
    if inexact.is_empty():
        return frame["rest"]
    values = [_c_fmod(x, y) for x, y in inexact.select("a", "b").iter_rows()]
    return frame["rest"].scatter(inexact["place"], values)


def _c_fmod(x: float, y: float) -> float:
    try:
        return math.fmod(x, y)
    except ValueError:  # Python raises where C gives NaN
        return math.nan
