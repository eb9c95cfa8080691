"""Text. Positions count from 1, lengths count characters."""

from __future__ import annotations

import polars as pl

from dataflare.expr.registry import register
from dataflare.expr.tree import Node


def _substr(node: Node, text: pl.Expr, start: pl.Expr, length: pl.Expr | None = None) -> pl.Expr:
    """From 1, from the end if negative; 0 is the place before the first. A negative length goes back."""
    size = text.str.len_chars().cast(pl.Int64)
    first = pl.when(start < 0).then(size + start).otherwise(start - 1)
    end = size if length is None else first + length
    if length is not None:
        first, end = pl.min_horizontal(first, end), pl.max_horizontal(first, end)
    low, high = first.clip(lower_bound=0), end.clip(lower_bound=0)
    cut = text.str.slice(low, (high - low).clip(lower_bound=0, upper_bound=2**31))
    nulls = start.is_null() if length is None else (start.is_null() | length.is_null())
    return pl.when(~nulls).then(cut)


register("upper", "upper(text: string) -> string", "In capital letters.", ("upper('straße')", "STRASSE"),
         group="string", lower=lambda node, x: x.str.to_uppercase(), aliases=["ucase"])  # fmt: skip
register("lower", "lower(text: string) -> string", "In small letters.", ("lower('ÀB')", "àb"),
         group="string", lower=lambda node, x: x.str.to_lowercase(), aliases=["lcase"])  # fmt: skip
register("length", "length(text: string) -> int64\nlength(list: list) -> int64", "The number of characters, or of elements.",
         ("length('é€')", 2), ("length([1, 2, 3])", 3), group="string", aliases=["len", "char_length", "character_length"],
         lower=lambda node, x: (x.list.len() if node.args[0].type.name == "list" else x.str.len_chars()).cast(pl.Int64))  # fmt: skip
register("substr", "substr(text: string, start: int64, [length: int64]) -> string", "A piece, from a place counted from 1, or from the end if negative.",
         ("substr('hello', 2, 3)", "ell"), ("substr('hello', -3)", "llo"), group="string", lower=_substr, aliases=["substring"])  # fmt: skip
register("concat", "concat(x: any, others: any...) -> string", "The texts joined, NULLs left out.", ("concat('a', NULL, 1)", "a1"),
         group="string", resolve=None, lower=lambda node, *args: pl.concat_str(list(args), ignore_nulls=True))  # fmt: skip
