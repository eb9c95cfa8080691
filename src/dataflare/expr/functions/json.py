"""JSON in text columns. An invalid document is an error of the row; a path without a value gives NULL.

Always true: paths are literals. Polars' reader is used where it gives the same result as DuckDB. Functions
that must distinguish the text "1" from the number 1 read value by value, which is slower.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
import polars as pl

from dataflare.expr import jsontext, problems, rowerrors
from dataflare.expr.casttext import is_json
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert
from dataflare.expr.jsontext import LongNumber, Path, RepeatedKeys
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.registry import register
from dataflare.expr.tree import Node
from dataflare.model import types as t
from dataflare.model.types import DataType

_STEP = re.compile(
    r"\.([A-Za-z_][A-Za-z0-9_\-]*)|\.\"([^\"]+)\"|\[(\d+)\]|\[#-(\d+)\]|\['([^']+)'\]|\[\"([^\"]+)\"\]|\.(\d+[A-Za-z_][A-Za-z0-9_\-]*)"
)
_DOUBTFUL = r"\\u|\d[\d.]{15}|-0|\d[eE][+-]?\d"
"""Escaped names, and numbers that Polars' reader writes in another form."""


def read_path(text: str | int) -> Path | None:
    """The steps of `$.a.b[0]`, `$."a b"`, `/a/0`, a bare key or an index. None if it is not a path."""
    if isinstance(text, int):
        return (text,)
    if text.startswith("/"):
        return tuple(int(part) if part.isdigit() else part for part in text[1:].split("/"))
    if not text.startswith("$"):
        return (text,)
    steps: list[str | int] = []
    place = 1
    while place < len(text):
        match = _STEP.match(text, place)
        if match is None:
            return None
        name = match[1] or match[2] or match[5] or match[6] or match[7]
        steps.append(name if name else int(match[3]) if match[3] is not None else -int(match[4]))
        place = match.end()
    return tuple(steps)


def _resolve(result: DataType, optional: bool = False) -> Callable[[Call], Node]:
    def resolve(call: Call) -> Node:
        call.arity(1 if optional else 2, 2)
        type_ = call.args[0].type
        if not (type_.is_text or type_.name == "null"):
            raise call.fail(
                f"{call.function.name}() expects JSON as string, not {type_}", arg=0,
                help="a field of a struct is struct.field" if type_.name == "struct" else None,
            )  # fmt: skip
        path: Path | None = ()
        if len(call.args) == 2:
            path_text = call.const(1, "the path")
            if path_text is None:
                return Node("literal", result)
            path = read_path(path_text) if isinstance(path_text, str | int) else None
            if path is None:
                raise call.fail(f"'{path_text}' is not a JSON path", arg=1, code=problems.BAD_LITERAL,
                                help="write '$.name', '$.list[0]' or '$.\"a name\"'")  # fmt: skip
        return call.node(result, [convert(call.args[0], t.STRING)], path)

    return resolve


def _native(path: Path) -> str | None:
    """The path for Polars. None if a name needs escapes."""
    if any(isinstance(step, str) and re.search(r"['\"\\\x00-\x1f]", step) for step in path):
        return None
    return "$" + "".join(f"['{s}']" if isinstance(s, str) else f"[{s}]" for s in path)


def _extract_string(node: Node, text: pl.Expr) -> Lowered:
    path = _native(node.value)
    if path is None:
        return _by_value(_string)(node, text)
    quick = text.str.json_path_match(path)
    doubt = text.str.contains(_DOUBTFUL) | quick.str.contains(r"^[\[{]")
    for step in node.value:
        if isinstance(step, str):  # Polars uses the last of equal keys
            doubt = doubt | (text.str.count_matches(f'"{step}"', literal=True) > 1)
    sure = _by_value(_string)(node, pl.when(doubt).then(text)).value
    extracted = pl.when(doubt).then(sure).otherwise(quick)
    return Lowered(extracted, fail_where(extracted.is_null() & ~is_json(text), rowerrors.JSON))


def _by_value(answer: Callable[[Any], Any]) -> Callable[[Node, pl.Expr], Lowered]:
    def lower(node: Node, text: pl.Expr) -> Lowered:
        dtype = node.type.to_polars()
        path: Path = node.value

        def batch(column: pl.Series) -> pl.Series:
            if column.null_count() == column.len():
                return pl.Series(column.name, [None], dtype=dtype).new_from_index(0, column.len())
            return pl.Series(
                column.name, [_one(text, path, answer) for text in column.to_list()], dtype=dtype
            )

        result = text.map_batches(batch, return_dtype=dtype, is_elementwise=True)
        return Lowered(result, fail_where(result.is_null() & ~is_json(text), rowerrors.JSON))

    return lower


def _one(text: str | None, path: Path, answer: Callable[[Any], Any]) -> Any:
    if text is None:
        return None
    try:
        value = jsontext.follow(jsontext.read(text), path)
        return None if value is jsontext.MISSING else answer(value)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
        return None


def _string(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else jsontext.write(value)


def _keys(value: Any) -> list[str]:
    return (
        value.keys
        if isinstance(value, RepeatedKeys)
        else list(value)
        if isinstance(value, dict)
        else []
    )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, int):
        return "UBIGINT" if value >= 0 else "BIGINT"
    return _KINDS.get(type(value), "NULL")


_KINDS: dict[type, str] = {
    float: "DOUBLE", LongNumber: "DOUBLE", str: "VARCHAR", list: "ARRAY", dict: "OBJECT", RepeatedKeys: "OBJECT",
}  # fmt: skip


register("json_extract", "json_extract(doc: string | json, path: const string) -> json", "What a path leads to, as JSON; also doc -> path.",
         ("""json_extract('{"a": {"b": [1, 2]}}', '$.a.b')""", "[1,2]"), ("""json_extract('{"a": "x"}', '$.a')""", '"x"'),
         group="json", resolve=_resolve(t.JSON), lower=_by_value(jsontext.write), aliases=["json_extract_path"])  # fmt: skip
register("json_extract_string", "json_extract_string(doc: string | json, path: const string) -> string", "What a path leads to, as text; also doc ->> path.",
         ("""json_extract_string('{"a": {"b": "x"}}', '$.a.b')""", "x"), ("""'{"n": 7}' ->> '$.n'""", "7"),
         group="json", resolve=_resolve(t.STRING), lower=_extract_string, aliases=["json_extract_path_text", "json_value"])  # fmt: skip
register("json_valid", "json_valid(text: string | json) -> bool", "Whether the text is JSON.", ("json_valid('{a: 1}')", False),
         group="json", resolve=_resolve(t.BOOL, True), lower=lambda node, x: _valid(x))  # fmt: skip
register("json_array_length", "json_array_length(doc: string | json, [path: const string]) -> uint64", "The number of elements; 0 if it is not an array.",
         ("json_array_length('[1, 2]')", 2), group="json", resolve=_resolve(t.UINT64, True),
         lower=_by_value(lambda value: len(value) if isinstance(value, list) else 0))  # fmt: skip
register("json_type", "json_type(doc: string | json, [path: const string]) -> string", "OBJECT, ARRAY, VARCHAR, UBIGINT, BIGINT, DOUBLE, BOOLEAN or NULL.",
         ("json_type('[1]')", "ARRAY"), group="json", resolve=_resolve(t.STRING, True), lower=_by_value(_kind))  # fmt: skip
register("json_keys", "json_keys(doc: string | json, [path: const string]) -> list<string>", "The keys of an object.",
         ("""json_keys('{"a": 1, "b": 2}')""", ["a", "b"]), group="json", resolve=_resolve(t.list_of(t.STRING), True),
         lower=_by_value(_keys))  # fmt: skip
register("json_exists", "json_exists(doc: string | json, path: const string) -> bool", "Whether the path leads somewhere.",
         ("""json_exists('{"a": null}', '$.a')""", True), group="json", resolve=_resolve(t.BOOL),
         lower=lambda node, x: _exists(node, x))  # fmt: skip


def _exists(node: Node, text: pl.Expr) -> Lowered:
    exists = _by_value(lambda value: True)(node, text)
    return Lowered(
        pl.when(text.is_not_null()).then(exists.value.fill_null(False)),
        fail_where(text.is_not_null() & ~is_json(text), rowerrors.JSON),
    )


def _valid(text: pl.Expr) -> Lowered:
    """Polars gives no value for a document with more than 128 levels, which may still be valid."""
    brackets = text.str.count_matches(r"[\[{]")
    doubted = pl.when(~is_json(text) & (brackets >= _DEPTH_MAX)).then(text)
    return Lowered(
        pl.when(text.is_not_null()).then(is_json(text)),
        fail_where(doubted.map_elements(_may_be_deep, return_dtype=pl.Boolean), rowerrors.DOMAIN),
    )


def _may_be_deep(text: str) -> bool:
    """Whether a text is JSON, or too deeply nested to be checked."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return "depth" in error.msg
    return True


_DEPTH_MAX = 128
