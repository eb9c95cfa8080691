"""Division of floats, rounded once as IEEE 754 requires.

Polars 2.1 multiplies by the reciprocal if the divisor is one value for all rows, also in a batch of one
row. Then 3.0 / 10 is 0.30000000000000004.
"""

from __future__ import annotations

import polars as pl


def divide(a: pl.Expr, b: pl.Expr, dtype: pl.DataType | None = None) -> pl.Expr:
    """The quotient as float64, or as `dtype`. Both arguments are passed as columns."""
    to = pl.Float64() if dtype is None else dtype
    both = pl.struct(a.cast(to).alias("a"), b.cast(to).alias("b"))
    return both.map_batches(_quotients, return_dtype=to, is_elementwise=True)


def _quotients(pairs: pl.Series) -> pl.Series:
    a, b = pairs.struct.field("a"), pairs.struct.field("b")
    if pairs.len() == 1:
        return (a.extend(a) / b.extend(b)).head(1)
    return a / b
