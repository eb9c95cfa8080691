"""Masking: the function's name says which part stays readable. If this would be all, nothing stays readable.

Always true: each hidden character becomes one `*`, so lengths stay; NULL stays NULL.
"""

from __future__ import annotations

import polars as pl

from dataflare.expr import problems
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert
from dataflare.expr.registry import register
from dataflare.expr.tree import Node
from dataflare.model import types as t


def _stars(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(r"(?s).", "*")


def _resolve_keep(call: Call) -> Node:
    call.arity(2, 2)
    type_ = call.args[0].type
    if not (type_.is_text or type_.name == "null"):
        raise call.fail(f"{call.function.name}() expects string, not {type_}", arg=0,
                        help="write CAST(... AS string)")  # fmt: skip
    count = call.const(1, "the number of characters")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise call.fail(
            "the number of characters is a whole number from 0", arg=1, code=problems.BAD_LITERAL
        )
    return call.node(t.STRING, [convert(call.args[0], t.STRING)], count)


def _keep(node: Node, text: pl.Expr) -> pl.Expr:
    """Hide the whole text if it is not longer than the part that stays readable."""
    count = int(node.value)
    if count == 0:
        return _stars(text)
    if node.op == "mask_keep_last":
        masked = _stars(text.str.head(-count)) + text.str.tail(count)
    else:
        masked = text.str.head(count) + _stars(text.str.tail(-count))
    return pl.when(text.str.len_chars() > count).then(masked).otherwise(_stars(text))


def _email(node: Node, text: pl.Expr) -> pl.Expr:
    name, domain = text.str.extract(r"(?s)^(.*)@", 1), text.str.extract(r"(?s)(@[^@]*)$", 1)
    masked = name.str.head(1) + _stars(name.str.tail(-1)) + domain
    whole = pl.when(name.str.len_chars() > 1).then(masked).otherwise(_stars(name) + domain)
    return pl.coalesce(whole, _stars(text))


register("mask_email", "mask_email(text: string) -> string", "The first letter of the name and the domain stay.", ("mask_email('jane@example.com')", "j***@example.com"),
         group="mask", lower=_email)  # fmt: skip
register("mask_keep_last", "mask_keep_last(text: string, count: const int64) -> string", "The last characters stay.", ("mask_keep_last('4111111111111234', 4)", "************1234"),
         group="mask", resolve=_resolve_keep, lower=_keep)  # fmt: skip
register("mask_keep_first", "mask_keep_first(text: string, count: const int64) -> string", "The first characters stay.", ("mask_keep_first('secret', 2)", "se****"),
         group="mask", resolve=_resolve_keep, lower=_keep)  # fmt: skip
register("mask_all", "mask_all(text: string) -> string", "No character stays.", ("mask_all('secret')", "******"),
         group="mask", lower=lambda node, text: _stars(text), aliases=["mask"])  # fmt: skip
register("redact", "redact(x: any) -> string", "Always the same text, whatever the value.", ("redact('secret')", "[REDACTED]"),
         group="mask", lower=lambda node, x: pl.when(x.is_not_null()).then(pl.lit("[REDACTED]")))  # fmt: skip
