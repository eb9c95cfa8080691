"""A lowered expression, its value and its error mask, and the combination of masks.

Always true: `value` raises for no row; where `error` is not null, the value has no meaning; `error` is
null for each row with a correct value. A mask of None means that no row can fail.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
from msgspec import Struct


class Lowered(Struct, frozen=True):
    """error: a UInt8 expression, null where there is no error, else a kind of `rowerrors`."""

    value: pl.Expr
    error: pl.Expr | None = None


def fail_where(condition: pl.Expr, kind: int) -> pl.Expr:
    """The mask that is `kind` where the condition is true, and null where it is false or null."""
    return pl.when(condition).then(pl.lit(kind, dtype=pl.UInt8))


def first_error(masks: Iterable[pl.Expr | None]) -> pl.Expr | None:
    """The first that is set, in the order of evaluation."""
    present = [mask for mask in masks if mask is not None]
    if not present:
        return None
    return present[0] if len(present) == 1 else pl.coalesce(present)


def only_where(condition: pl.Expr, mask: pl.Expr | None) -> pl.Expr | None:
    """The mask where the condition is true, for an expression that is evaluated only there."""
    return None if mask is None else pl.when(condition).then(mask)
