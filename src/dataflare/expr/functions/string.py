"""Text. Places count from 1, lengths count characters, and comparing is by code point.

Always true: upper and lower follow Unicode's full mapping, except that `ß` becomes `ẞ` as in DuckDB; a
repeated or padded text is at most 64 MiB long, otherwise it is an error of the row.
"""

from __future__ import annotations

import polars as pl

from dataflare.expr import problems, rowerrors
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.registry import register
from dataflare.expr.sqltypes import unify
from dataflare.expr.tree import Node
from dataflare.model import types as t

_BYTES_MAX = 64 * 1024 * 1024
_SPACES = "".join(map(chr, (32, 160, 5760, *range(8192, 8203), 8239, 8287, 12288)))
"""Unicode's space separators. `trim` removes them by default."""


def _duckdb(template: str) -> dict[str, str]:
    return {"duckdb": template}


def _length(node: Node, x: pl.Expr) -> pl.Expr:
    is_list = node.args[0].type.name == "list"
    return (x.list.len() if is_list else x.str.len_chars()).cast(pl.Int64)


def _substr(node: Node, text: pl.Expr, start: pl.Expr, length: pl.Expr | None = None) -> pl.Expr:
    """Place 0 is before the first character. A negative length counts back from the start."""
    far = 2**40
    size = text.str.len_chars().cast(pl.Int64)
    place = start.clip(-far, far)
    first = pl.when(place < 0).then(size + place).otherwise(place - 1)
    if length is None:
        end = size
    else:
        last = first + length.clip(-far, far)
        first, end = pl.min_horizontal(first, last), pl.max_horizontal(first, last)
    low, high = first.clip(lower_bound=0), end.clip(lower_bound=0)
    all_set = start.is_not_null() if length is None else start.is_not_null() & length.is_not_null()
    return pl.when(all_set).then(text.str.slice(low, (high - low).clip(lower_bound=0)))


def _repeat(node: Node, text: pl.Expr, count: pl.Expr) -> Lowered:
    times = count.clip(0, _BYTES_MAX + 1)
    fits = (times <= _BYTES_MAX) & (
        text.str.len_bytes().cast(pl.Float64) * times.cast(pl.Float64) <= _BYTES_MAX
    )
    repeats = pl.when(fits & text.is_not_null()).then(times)
    repeated = text.repeat_by(repeats.fill_null(0).cast(pl.UInt32)).list.join("")
    value = pl.when(repeats.is_not_null()).then(repeated)
    return Lowered(value, fail_where(~fits, rowerrors.LENGTH))


def _resolve_pad(call: Call) -> Node:
    call.arity(2, 3)
    if not (call.args[0].type.is_text or call.args[0].type.name == "null"):
        raise call.fail(f"{call.function.name}() expects string, not {call.args[0].type}", arg=0)
    size = call.const(1, "the length")
    pad = call.const(2, "the padding") if len(call.args) == 3 else " "
    if size is None or pad is None:
        return Node("literal", t.STRING)
    if not isinstance(size, int) or not isinstance(pad, str):
        raise call.fail(f"{call.function.name}() expects (string, int64, string)")
    if size > 1_000_000:
        raise call.fail("the length is at most 1000000", arg=1, code=problems.BAD_LITERAL)
    return call.node(t.STRING, [convert(call.args[0], t.STRING)], (max(size, 0), pad))


def _pad(node: Node, text: pl.Expr) -> Lowered | pl.Expr:
    size, pad = node.value
    cut = text.str.head(size)
    have = cut.str.len_chars().cast(pl.Int64)
    if not pad:
        return Lowered(cut, fail_where(have < size, rowerrors.DOMAIN))
    fill = pl.lit((pad * (size // len(pad) + 1))[:size]).str.slice(0, size - have)
    return fill + cut if node.op == "lpad" else cut + fill


def _resolve_joined(call: Call) -> Node:
    """concat and concat_ws: all as text."""
    call.arity(1 if call.function.name == "concat" else 2)
    for place, arg in enumerate(call.args):
        if arg.type.name in ("list", "struct", "duration", "interval"):
            raise call.fail(
                f"{call.function.name}() expects values to write as text, not {arg.type}", arg=place
            )
    return call.node(t.STRING, [convert(arg, t.STRING) for arg in call.args])


def _concat(node: Node, *args: pl.Expr) -> pl.Expr:
    return pl.concat_str(list(args), ignore_nulls=True)


def _concat_ws(node: Node, separator: pl.Expr, *args: pl.Expr) -> pl.Expr:
    joined = pl.concat_list(list(args)).list.drop_nulls().list.join(separator)
    return pl.when(separator.is_not_null()).then(joined)


def _resolve_pipes(call: Call) -> Node:
    left, right = call.args
    if left.type.name == "list" or right.type.name == "list":
        both = unify(left.type, right.type)
        if both is None or both.name != "list":
            raise call.fail(f"cannot join {left.type} and {right.type}")
        return call.node(both, [convert(arg, both) for arg in call.args])
    for place, arg in enumerate(call.args):
        if arg.type.name in ("struct", "duration", "interval"):
            raise call.fail(f"'||' joins texts, this is {arg.type}", arg=place)
    if left.type.name == right.type.name == "binary":
        return call.node(t.BINARY, call.args)
    if left.is_null or right.is_null:
        return Node("literal", t.STRING)
    return call.node(t.STRING, [convert(arg, t.STRING) for arg in call.args])


def _pipes(node: Node, left: pl.Expr, right: pl.Expr) -> pl.Expr:
    if node.type.name == "list":
        return pl.concat_list([left, right])
    return left + right


def _replace(node: Node, text: pl.Expr, old: pl.Expr, new: pl.Expr) -> pl.Expr:
    if node.args[1].value == "":
        return pl.when(new.is_not_null()).then(text)
    old_text = str(node.args[1].value)
    if node.args[2].is_literal:
        value = node.args[2].value
        if value is None:
            return pl.when(pl.lit(False)).then(text)
        return text.str.replace_all(old_text, str(value), literal=True)
    # Polars' replacement fails for NULL as the new text, even where its result is not used.
    return text.str.split(old_text).list.join(new)


def _find(node: Node, text: pl.Expr, part: pl.Expr) -> pl.Expr:
    before = text.str.splitn(part, 2).struct.field("field_0").str.len_chars().cast(pl.Int64)
    contained = text.str.contains(part, literal=True)
    return (
        pl.when(part == "")
        .then(pl.when(text.is_not_null()).then(pl.lit(1, dtype=pl.Int64)))
        .when(contained)
        .then(before + 1)
        .when(~contained)
        .then(pl.lit(0, dtype=pl.Int64))
    )


def _split_part(node: Node, text: pl.Expr, separator: pl.Expr, place: pl.Expr) -> pl.Expr:
    parts = text.str.split(str(node.args[1].value))
    index = pl.when(place > 0).then(place - 1).when(place < 0).then(place)
    part = parts.list.get(index.clip(-(2**31), 2**31 - 1), null_on_oob=True).fill_null("")
    return pl.when(text.is_not_null() & place.is_not_null()).then(part)


def _string_split(node: Node, text: pl.Expr, separator: pl.Expr) -> pl.Expr:
    on = str(node.args[1].value)
    parts = text.str.split(on)
    return parts if on else pl.when(text == "").then(pl.concat_list(text)).otherwise(parts)


def _ascii(node: Node, text: pl.Expr) -> pl.Expr:
    """The first code point, computed from its UTF-8 bytes."""
    raw = text.str.head(1).cast(pl.Binary)
    size = raw.bin.size()

    def byte(place: int) -> pl.Expr:
        return raw.bin.get(place, null_on_oob=True).cast(pl.Int32)

    one, two, three, four = (byte(place) for place in range(4))
    return (
        pl.when(size == 0)
        .then(pl.lit(0, dtype=pl.Int32))
        .when(size == 1)
        .then(one)
        .when(size == 2)
        .then((one - 192) * 64 + two - 128)
        .when(size == 3)
        .then((one - 224) * 4096 + (two - 128) * 64 + three - 128)
        .when(size == 4)
        .then((one - 240) * 262144 + (two - 128) * 4096 + (three - 128) * 64 + four - 128)
    )


def _resolve_chr(call: Call) -> Node:
    call.arity(1, 1)
    code = call.const(0, "the code point")
    if code is None:
        return Node("literal", t.STRING)
    if not isinstance(code, int) or not 0 <= code < 0x110000 or 0xD800 <= code < 0xE000:
        raise call.fail(f"{code} is not a code point", arg=0, code=problems.BAD_LITERAL)
    return Node("literal", t.STRING, value=chr(code))


def _translate(node: Node, text: pl.Expr, old: pl.Expr, new: pl.Expr) -> pl.Expr:
    before, after = str(node.args[1].value), str(node.args[2].value)
    pairs: dict[str, str] = {}
    for place, char in enumerate(before):
        pairs.setdefault(char, after[place] if place < len(after) else "")
    return text.str.replace_many(list(pairs), list(pairs.values())) if pairs else text


def _contains(node: Node, a: pl.Expr, b: pl.Expr) -> pl.Expr:
    from dataflare.expr.functions.nested import list_contains

    if node.args[0].type.name == "list":
        return list_contains(node, a, b)
    return a.str.contains(b, literal=True)


register("upper", "upper(text: string) -> string", "In capital letters.", ("upper('äb')", "ÄB"),
         group="string", lower=lambda node, x: x.str.replace_all("ß", "ẞ", literal=True).str.to_uppercase(), aliases=["ucase"])  # fmt: skip
register("lower", "lower(text: string) -> string", "In small letters.", ("lower('ÀB')", "àb"),
         group="string", lower=lambda node, x: x.str.to_lowercase(), aliases=["lcase"])  # fmt: skip
register("initcap", "initcap(text: string) -> string", "Each word with a capital letter.", ("initcap('hello world')", "Hello World"),
         group="string", lower=lambda node, x: x.str.to_titlecase())  # fmt: skip
register("length", "length(text: string) -> int64\nlength(list: list) -> int64", "The number of characters, or of elements.",
         ("length('é€')", 2), ("length([1, 2, 3])", 3), group="string", lower=_length,
         aliases=["len", "char_length", "character_length", "list_length", "array_length"], sql=_duckdb("length({0})"))  # fmt: skip
register("strlen", "strlen(text: string) -> int64", "The number of bytes in UTF-8.", ("strlen('é')", 2),
         group="string", lower=lambda node, x: x.str.len_bytes().cast(pl.Int64), sql=_duckdb("strlen({0})"))  # fmt: skip
register("bit_length", "bit_length(text: string) -> int64", "The number of bits in UTF-8.", ("bit_length('é')", 16),
         group="string", lower=lambda node, x: x.str.len_bytes().cast(pl.Int64) * 8)  # fmt: skip
for _name, _method, _where in (
    ("trim", "strip_chars", "both ends"),
    ("ltrim", "strip_chars_start", "the left"),
    ("rtrim", "strip_chars_end", "the right"),
):
    register(_name, f"{_name}(text: string, [characters: string]) -> string", f"Without spaces, or those characters, at {_where}.",
             (f"{_name}('xax', 'x')", {"trim": "a", "ltrim": "ax", "rtrim": "xa"}[_name]), group="string",
             lower=(lambda method: lambda node, x, chars=None: getattr(x.str, method)(_SPACES) if chars is None
                    else pl.when(chars.is_not_null()).then(getattr(x.str, method)(chars)))(_method))  # fmt: skip
register("substr", "substr(text: string, start: int64, [length: int64]) -> string", "A piece, from a place counted from 1, or from the end if negative.",
         ("substr('hello', 2, 3)", "ell"), ("substr('hello', -3)", "llo"), group="string", lower=_substr, aliases=["substring"])  # fmt: skip
register("left", "left(text: string, count: int64) -> string", "The first characters; all but the last ones if negative.",
         ("left('hello', 2)", "he"), ("left('hello', -2)", "hel"), group="string", lower=lambda node, x, n: x.str.head(n))  # fmt: skip
register("right", "right(text: string, count: int64) -> string", "The last characters; all but the first ones if negative.",
         ("right('hello', 2)", "lo"), ("right('hello', -2)", "llo"), group="string", lower=lambda node, x, n: x.str.tail(n))  # fmt: skip
register("replace", "replace(text: string, old: const string, new: string) -> string", "With each `old` replaced.", ("replace('a-b-c', '-', '')", "abc"),
         group="string", lower=_replace)  # fmt: skip
register("translate", "translate(text: string, from: const string, to: const string) -> string", "Each character of `from` replaced by the one at its place in `to`.",
         ("translate('abc', 'ab', 'x')", "xc"), group="string", lower=_translate)  # fmt: skip
register("reverse", "reverse(text: string) -> string", "Backwards.", ("reverse('abc')", "cba"),
         group="string", lower=lambda node, x: x.str.reverse())  # fmt: skip
register(
    "repeat",
    "repeat(text: string, count: int64) -> string",
    "Several times.",
    ("repeat('ab', 3)", "ababab"),
    group="string",
    lower=_repeat,
)
register("lpad", "lpad(text: string, length: const int64, [padding: const string]) -> string", "Filled on the left, or cut, to that length.",
         ("lpad('7', 3, '0')", "007"), group="string", resolve=_resolve_pad, lower=_pad)  # fmt: skip
register("rpad", "rpad(text: string, length: const int64, [padding: const string]) -> string", "Filled on the right, or cut, to that length.",
         ("rpad('a', 3, '.')", "a.."), group="string", resolve=_resolve_pad, lower=_pad)  # fmt: skip
register("concat", "concat(x: any, others: any...) -> string", "The values as one text, NULLs left out.", ("concat('a', NULL, 1)", "a1"),
         group="string", resolve=_resolve_joined, lower=_concat)  # fmt: skip
register("concat_ws", "concat_ws(separator: string, x: any...) -> string", "The values as one text with a separator, NULLs left out.", ("concat_ws('-', 'a', NULL, 'b')", "a-b"),
         group="string", resolve=_resolve_joined, lower=_concat_ws)  # fmt: skip
register("||", "x || y", "Texts, or lists, joined; NULL if one is.", ("'a' || 1", "a1"), ("'a' || NULL", None),
         group="operator", resolve=_resolve_pipes, lower=_pipes)  # fmt: skip
register("starts_with", "starts_with(text: string, part: string) -> bool", "Whether it begins so; also text ^@ part.", ("starts_with('abc', 'ab')", True),
         group="string", lower=lambda node, x, part: x.str.starts_with(part), aliases=["prefix"], sql=_duckdb("starts_with({0}, {1})"))  # fmt: skip
register("ends_with", "ends_with(text: string, part: string) -> bool", "Whether it ends so.", ("ends_with('abc', 'bc')", True),
         group="string", lower=lambda node, x, part: x.str.ends_with(part), aliases=["suffix"], sql=_duckdb("suffix({0}, {1})"))  # fmt: skip
register("contains", "contains(text: string, part: string) -> bool\ncontains(list: list<T>, value: T) -> bool", "Whether it holds that text, or element.", ("contains('abc', 'b')", True),
         group="string", lower=_contains)  # fmt: skip
register("strpos", "strpos(text: string, part: string) -> int64", "The place of the first occurrence, 0 if there is none.", ("strpos('hello', 'l')", 3),
         group="string", lower=_find, aliases=["instr"])  # fmt: skip
register("position", "position(part IN text) -> int64", "The place of the first occurrence, 0 if there is none.", ("position('l' IN 'hello')", 3),
         group="string", resolve=lambda call: _as_strpos(call))  # fmt: skip
register("split_part", "split_part(text: string, separator: const string, place: int64) -> string", "One of the parts, from the end if negative; empty if there is none.",
         ("split_part('a,b,c', ',', 2)", "b"), group="string", lower=_split_part)  # fmt: skip
register("string_split", "string_split(text: string, separator: const string) -> list<string>", "The parts.", ("string_split('a,b', ',')", ["a", "b"]),
         group="string", lower=_string_split, aliases=["split", "str_split", "string_to_array"])  # fmt: skip
register(
    "ascii",
    "ascii(text: string) -> int32",
    "The code point of the first character.",
    ("ascii('A')", 65),
    group="string",
    lower=_ascii,
)
register(
    "chr",
    "chr(code: const int64) -> string",
    "The character of a code point.",
    ("chr(233)", "é"),
    group="string",
    resolve=_resolve_chr,
)


def _as_strpos(call: Call) -> Node:
    call.arity(2, 2)
    for place, arg in enumerate(call.args):
        if not (arg.type.is_text or arg.type.name == "null"):
            raise call.fail(f"position() expects string, not {arg.type}", arg=place)
    return Node("strpos", t.INT64, tuple(convert(arg, t.STRING) for arg in call.args))
