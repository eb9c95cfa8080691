"""Lists and structs. Places in lists count from 1; behind the end is NULL."""

from __future__ import annotations

import polars as pl

from dataflare.errors import did_you_mean
from dataflare.expr.check import Call, convert, meeting_type
from dataflare.expr.registry import register
from dataflare.expr.tree import Node
from dataflare.model import types as t


def _resolve_field(call: Call) -> Node:
    call.arity(2, 2)
    of = call.args[0]
    name = call.const(1, "the field")
    if of.type.name == "null":
        return Node("literal", t.NULL)
    if of.type.name != "struct":
        raise call.fail(f"{of.type} has no fields, only a struct has", arg=0)
    fields = {field.name: field.type for field in of.type.fields}
    if name not in fields:
        raise call.fail(
            f"unknown field '{name}'", code="E0203",
            notes=[f"the struct has: {', '.join(fields)}"], help=did_you_mean(str(name), fields),
        )  # fmt: skip
    return call.node(fields[name], [of], name)


def _resolve_list(call: Call) -> Node:
    item = meeting_type(call.args)
    if item is None:
        raise call.fail(
            "the elements do not fit together: " + ", ".join(str(a.type) for a in call.args)
        )
    return call.node(t.list_of(item), [convert(arg, item) for arg in call.args])


def _list_value(node: Node, *items: pl.Expr) -> pl.Expr:
    dtype = node.type.to_polars()
    if not items:
        return pl.lit(pl.Series([[]], dtype=dtype)).first()
    return pl.concat_list([item.implode() if False else item for item in items]).cast(dtype)


def _get(node: Node, of: pl.Expr, place: pl.Expr) -> pl.Expr:
    index = pl.when(place > 0).then(place - 1).when(place < 0).then(place)
    return of.list.get(index, null_on_oob=True)


register("struct_extract", "struct_extract(struct: struct, field: const string) -> any", "A field of a struct; also struct.field.",
         group="list", resolve=_resolve_field, lower=lambda node, x: x.struct.field(node.value))  # fmt: skip
register("list_value", "list_value(x: T...) -> list<T>", "A list; also [x, y].", ("[1, 2]", [1, 2]),
         group="list", resolve=_resolve_list, lower=_list_value)  # fmt: skip
register("list_extract", "list_extract(list: list<T>, place: int64) -> T", "The element at a place, from 1, or from the end if negative; also list[place].",
         ("[10, 20][2]", 20), ("[10, 20][5]", None), group="list", lower=_get, aliases=["list_element"])  # fmt: skip
