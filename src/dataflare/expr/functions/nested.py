"""Lists and structs. Places in lists count from 1. A place after the end gives NULL."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from dataflare.errors import did_you_mean
from dataflare.expr import rowerrors
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert, meeting_type
from dataflare.expr.lowered import Lowered, fail_where
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
        help = "write json_extract_string(doc, '$.field')" if of.type.is_text else None
        raise call.fail(f"{of.type} has no field '{name}', only a struct has fields", help=help)
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
    return pl.list(list(items)).cast(dtype)


def _resolve_struct(call: Call) -> Node:
    if len(call.args) % 2 or not call.args:
        raise call.fail("a struct is {'name': value, ...}", code="E0206")
    names = [str(call.const(place, "a field's name")) for place in range(0, len(call.args), 2)]
    if len(set(names)) < len(names):
        raise call.fail("the fields' names are not unique")
    values = call.args[1::2]
    return call.node(
        t.struct_of({n: v.type for n, v in zip(names, values, strict=True)}), values, tuple(names)
    )


def _struct(node: Node, *values: pl.Expr) -> pl.Expr:
    return pl.struct([value.alias(name) for value, name in zip(values, node.value, strict=True)])


def _get(node: Node, of: pl.Expr, place: pl.Expr) -> pl.Expr:
    far = 2**31 - 1
    index = pl.when(place > 0).then(place - 1).when(place < 0).then(place)
    return of.list.get(index.clip(-far, far), null_on_oob=True)


def list_contains(node: Node, of: pl.Expr, value: pl.Expr) -> pl.Expr:
    return pl.when(value.is_not_null()).then(of.list.contains(value))


def _position(node: Node, of: pl.Expr, value: pl.Expr) -> pl.Expr:
    """The place of a value that differs from row to row. Polars has no faster way than to test each element."""
    if node.args[1].is_null:
        place = of.list.eval(pl.element().is_null().arg_max() + 1).list.first().cast(pl.Int32)
        return pl.when(of.list.eval(pl.element().is_null()).list.any()).then(place)
    equal = pl.element() == pl.lit(node.args[1].value, dtype=node.args[1].type.to_polars())
    found = of.list.eval(equal.fill_null(False).arg_max() + 1).list.first().cast(pl.Int32)
    return pl.when(of.list.contains(value)).then(found)


def _concat(node: Node, a: pl.Expr, b: pl.Expr) -> pl.Expr:
    """A NULL list counts as an empty list."""
    empty = pl.lit(pl.Series([[]], dtype=node.type.to_polars())).first()
    return pl.concat_list([a.fill_null(empty), b.fill_null(empty)])


def _append(node: Node, a: pl.Expr, b: pl.Expr) -> pl.Expr:
    empty = pl.lit(pl.Series([[]], dtype=node.type.to_polars())).first()
    return pl.concat_list([a.fill_null(empty), pl.list([b])])


def _join(node: Node, of: pl.Expr) -> pl.Expr:
    """NULL if all elements are NULL, as in DuckDB. An empty text if there are no elements."""
    some = (of.list.len() == 0) | (of.list.drop_nulls().list.len() > 0)
    return pl.when(some).then(of.list.join(node.value, ignore_nulls=True))


def _resolve_slice(call: Call) -> Node:
    call.arity(3, 3)
    of = call.args[0]
    if of.type.is_text:
        raise call.fail("a part of a text is substr(text, start, length)")
    if of.type.name == "null":
        return Node("literal", t.NULL)
    if of.type.name != "list":
        raise call.fail(f"cannot take a part of {of.type}", arg=0)
    bounds = []
    for place in (1, 2):
        arg = call.args[place]
        if not (arg.type.is_integer or arg.type.name == "null"):
            raise call.fail(f"a place in a list is an integer, not {arg.type}", arg=place)
        bounds.append(convert(arg, t.INT64))
    return call.node(of.type, [of, *bounds])


def _slice(node: Node, of: pl.Expr, first: pl.Expr, last: pl.Expr) -> pl.Expr:
    size = of.list.len().cast(pl.Int64)
    start = pl.when(first < 0).then(size + first).otherwise((first - 1).clip(lower_bound=0))
    low = start.clip(lower_bound=0)
    end = pl.when(last < 0).then(size + last + 1).otherwise(last).clip(upper_bound=size)
    part = of.list.slice(low, (end - low).clip(lower_bound=0))
    return pl.when(first.is_not_null() & last.is_not_null()).then(part)


def _some(fold: Callable[[pl.Expr], pl.Expr]) -> Callable[[Node, pl.Expr], pl.Expr]:
    """An aggregate of a list's elements. NULL if all of them are NULL."""

    def lower(node: Node, of: pl.Expr) -> pl.Expr:
        values = of.list.drop_nulls()
        return pl.when(values.list.len() > 0).then(fold(values))

    return lower


def _resolve_extreme(call: Call) -> Node:
    call.arity(1, 1)
    type_ = call.args[0].type
    if type_.name == "null":
        return Node("literal", t.NULL)
    if type_.name != "list" or type_.item is None:
        raise call.fail(f"{call.function.name}() expects list, not {type_}", arg=0)
    return call.node(type_.item, call.args)


def _extreme(largest: bool) -> Callable[[Node, pl.Expr], pl.Expr]:
    """The greatest or least element by sorting, because a sort treats NaN as the greatest number."""
    return lambda node, of: of.list.drop_nulls().list.sort(descending=largest).list.first()


def _resolve_sum(call: Call) -> Node:
    call.arity(1, 1)
    item = call.args[0].type.item
    if call.args[0].type.name == "null":
        return Node("literal", t.FLOAT64 if call.function.name == "list_avg" else t.INT64)
    if (
        call.args[0].type.name != "list"
        or item is None
        or not (item.is_numeric or item.name == "null")
    ):
        raise call.fail(
            f"{call.function.name}() expects list<number>, not {call.args[0].type}", arg=0
        )
    if call.function.name == "list_avg" or item.is_float:
        return call.node(t.FLOAT64, [convert(call.args[0], t.list_of(t.FLOAT64))])
    if item.name == "decimal":
        raise call.fail(
            "list_sum() of decimals is not possible", arg=0, help="CAST the list to list<float64>"
        )
    return call.node(t.INT64, [convert(call.args[0], t.list_of(t.INT64))])


def _sum(node: Node, of: pl.Expr) -> Lowered | pl.Expr:
    values = of.list.drop_nulls()
    total = pl.when(values.list.len() > 0).then(values.list.sum())
    if node.type.is_float:
        return total
    near = values.cast(pl.List(pl.Float64)).list.sum() - total.cast(pl.Float64)
    return Lowered(total, fail_where(near.abs() > 2.0**60, rowerrors.OVERFLOW))


def _resolve_join(call: Call) -> Node:
    call.arity(2, 2)
    item = call.args[0].type.item
    if call.args[0].type.name == "null":
        return Node("literal", t.STRING)
    if call.args[0].type.name != "list" or item is None or item.name in ("list", "struct"):
        raise call.fail(
            f"array_to_string() expects a list of values, not {call.args[0].type}", arg=0
        )
    separator = call.const(1, "the separator")
    if separator is None:
        return Node("literal", t.STRING)
    return call.node(t.STRING, [convert(call.args[0], t.list_of(t.STRING))], str(separator))


def _typeof(call: Call) -> Node:
    call.arity(1, 1)
    return Node("literal", t.STRING, value=str(call.args[0].type))


register("struct_extract", "struct_extract(struct: struct, field: const string) -> any", "A field of a struct; also struct.field.", ("struct_extract({'a': 7}, 'a')", 7),
         group="list", resolve=_resolve_field, lower=lambda node, x: x.struct.field(node.value))  # fmt: skip
register("struct_pack", "{'name': value, ...}", "A struct.", ("{'a': 1, 'b': 'x'}", {"a": 1, "b": "x"}),
         group="list", resolve=_resolve_struct, lower=_struct)  # fmt: skip
register("list_value", "[x, y, ...]", "A list; also list_value(x, y).", ("[1, 2]", [1, 2]),
         group="list", resolve=_resolve_list, lower=_list_value)  # fmt: skip
register("list_extract", "list_extract(list: list<T>, place: int64) -> T", "The element at a place, from 1, or from the end if negative; also list[place].",
         ("[10, 20][2]", 20), ("[10, 20][5]", None), group="list", lower=_get, aliases=["list_element", "array_extract"])  # fmt: skip
register("list_slice", "list[first:last]", "The elements from one place to another, both included.", ("[1, 2, 3, 4][2:3]", [2, 3]),
         group="list", resolve=_resolve_slice, lower=_slice, aliases=["array_slice"])  # fmt: skip
register("list_contains", "list_contains(list: list<T>, value: T) -> bool", "Whether the value is among the elements; also value IN list.", ("list_contains(['a', 'b'], 'b')", True),
         group="list", lower=list_contains, aliases=["array_contains", "list_has", "array_has"])  # fmt: skip
register("list_position", "list_position(list: list<T>, value: const T) -> int32", "The first place of the value, or NULL.", ("list_position(['a', 'b'], 'b')", 2),
         group="list", lower=_position, aliases=["array_position"])  # fmt: skip
register(
    "list_sum",
    "list_sum(list: list<number>) -> int64 | float64",
    "The sum of the elements.",
    ("list_sum([1, 2, NULL])", 3),
    group="list",
    resolve=_resolve_sum,
    lower=_sum,
)
register(
    "list_avg",
    "list_avg(list: list<number>) -> float64",
    "The mean of the elements.",
    ("list_avg([1, 2])", 1.5),
    group="list",
    resolve=_resolve_sum,
    lower=_some(lambda x: x.list.mean()),
)
register(
    "list_min",
    "list_min(list: list<T>) -> T",
    "The least element.",
    ("list_min([3, 1, NULL])", 1),
    group="list",
    resolve=_resolve_extreme,
    lower=_extreme(False),
)
register(
    "list_max",
    "list_max(list: list<T>) -> T",
    "The greatest element.",
    ("list_max([3, 1, NULL])", 3),
    group="list",
    resolve=_resolve_extreme,
    lower=_extreme(True),
)
register("list_sort", "list_sort(list: list) -> list", "In order, NULLs last.", ("list_sort([2, NULL, 1])", [1, 2, None]),
         group="list", lower=lambda node, x: x.list.sort(nulls_last=True), aliases=["array_sort"])  # fmt: skip
register("list_reverse_sort", "list_reverse_sort(list: list) -> list", "In falling order, NULLs last.", ("list_reverse_sort([1, NULL, 2])", [2, 1, None]),
         group="list", lower=lambda node, x: x.list.sort(descending=True, nulls_last=True), aliases=["array_reverse_sort"])  # fmt: skip
register("list_distinct", "list_distinct(list: list) -> list", "The different elements, in the order of their first place, NULL left out.", ("list_distinct([2, 1, 2, NULL])", [2, 1]),
         group="list", lower=lambda node, x: x.list.drop_nulls().list.unique(maintain_order=True), aliases=["array_distinct"])  # fmt: skip
register("list_reverse", "list_reverse(list: list) -> list", "Backwards.", ("list_reverse([1, 2])", [2, 1]),
         group="list", lower=lambda node, x: x.list.reverse(), aliases=["array_reverse"])  # fmt: skip
register("list_concat", "list_concat(a: list<T>, b: list<T>) -> list<T>", "Both lists; also a || b.", ("list_concat([1], [2])", [1, 2]),
         group="list", lower=_concat, aliases=["array_concat", "list_cat"])  # fmt: skip
register("list_append", "list_append(list: list<T>, value: T) -> list<T>", "With the value behind.", ("list_append([1], 2)", [1, 2]),
         group="list", lower=_append, aliases=["array_append"])  # fmt: skip
register("array_to_string", "array_to_string(list: list, separator: const string) -> string", "The elements as one text, NULLs left out.", ("array_to_string([1, NULL, 2], '-')", "1-2"),
         group="list", resolve=_resolve_join, lower=_join, aliases=["list_join", "list_to_string"])  # fmt: skip
register(
    "typeof",
    "typeof(x: any) -> string",
    "The type's name.",
    ("typeof(1.5e0)", "float64"),
    group="conditional",
    resolve=_typeof,
)
