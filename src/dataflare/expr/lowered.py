"""A lowered expression: its value, and an error mask beside it; and how masks combine.

Always true: `value` raises for no row; where `error` is not null the value means nothing; `error`
is null for each row whose value is right. A mask of None means no row can fail.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
from msgspec import Struct


class Lowered(Struct, frozen=True):
    """`error`: a UInt8 expression, null where the row is fine, else a kind of `rowerrors`."""

    value: pl.Expr
    error: pl.Expr | None = None


def fail_where(condition: pl.Expr, kind: int) -> pl.Expr:
    """The mask that is `kind` where the condition is true; not where it is null."""
    return pl.when(condition).then(pl.lit(kind, dtype=pl.UInt8))


def first_error(masks: Iterable[pl.Expr | None]) -> pl.Expr | None:
    """The first that is set, in the order of evaluation."""
    found = [mask for mask in masks if mask is not None]
    if not found:
        return None
    return found[0] if len(found) == 1 else pl.coalesce(found)


def only_where(condition: pl.Expr, mask: pl.Expr | None) -> pl.Expr | None:
    """The mask where the condition is true, for what is evaluated only there."""
    return None if mask is None else pl.when(condition).then(mask)
