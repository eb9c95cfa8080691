"""C's fmod over columns: the remainder of the exact quotient, which itself has no rounding."""

from __future__ import annotations

import math

import polars as pl

_SPLITTER = 2.0**27 + 1


def fmod(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    """Of floats, as float64; NaN where C gives NaN."""
    both = pl.struct(a.cast(pl.Float64).alias("a"), b.cast(pl.Float64).alias("b"))
    return both.map_batches(_fmod, return_dtype=pl.Float64, is_elementwise=True)


def _fmod(pairs: pl.Series) -> pl.Series:
    """`a - b * q` with the product's error beside it (Dekker 1971, mul12), which is exact while the
    quotient has 53 bits. What is not finite, very large or very small is left to C."""
    a, b, q, p, rest = (pl.col(name) for name in ("a", "b", "q", "p", "rest"))
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
    # A quotient that was rounded up to a whole number leaves a rest of the other sign.
    back = pl.when(a * b < 0).then(-b).otherwise(b)
    frame = frame.with_columns(rest=pl.when(rest * a < 0).then(rest + back).otherwise(rest))
    usual = (q.abs() < 2.0**53) & a.is_finite() & b.abs().is_between(2.0**-900, 2.0**900)
    sure = usual & (rest.abs() < b.abs()) & ((a == 0) | (a.abs() > 2.0**-900))
    # A rest of 0 has the sign of what was divided.
    signed = pl.when(rest == 0).then(a * 0.0).otherwise(rest)
    frame = frame.with_columns(rest=pl.when(sure).then(signed))
    left = frame.with_row_index("place").filter(rest.is_null() & a.is_not_null() & b.is_not_null())
    if left.is_empty():
        return frame["rest"]
    values = [_c_fmod(x, y) for x, y in left.select("a", "b").iter_rows()]
    return frame["rest"].scatter(left["place"], values)


def _c_fmod(x: float, y: float) -> float:
    try:
        return math.fmod(x, y)
    except ValueError:  # Python raises where C gives NaN
        return math.nan
