"""Regular expressions as in RE2: no lookaround, no backreferences in the pattern.

Always true: a pattern is a literal and is compiled when the workflow is planned, so it cannot fail on a
row; `\\d \\w \\s \\b` mean ASCII, as in RE2.
"""

from __future__ import annotations

import re

import polars as pl

from dataflare.expr import problems
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert
from dataflare.expr.registry import register
from dataflare.expr.tree import Node
from dataflare.model import types as t
from dataflare.model.types import DataType

_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}


def ascii_classes(pattern: str) -> str:
    """The pattern with ASCII classes, because Polars' engine reads `\\d` and others as Unicode."""
    out: list[str] = []
    place, inside = 0, False
    while place < len(pattern):
        char = pattern[place]
        if char == "\\" and place + 1 < len(pattern):
            out.append(_escape(pattern[place + 1], inside))
            place += 2
            continue
        if char == "[" and not inside:
            inside = True
            if pattern.startswith("[^", place):
                out.append("[")
                place, char = place + 1, "^"
            if pattern.startswith("]", place + 1):
                out.append(char)
                place, char = place + 1, r"\]"
        elif char == "[" and inside and pattern.startswith("[:", place):
            end = pattern.find(":]", place)
            if end > 0:
                out.append(pattern[place : end + 2])
                place = end + 2
                continue
        elif char == "[" and inside:
            char = r"\["
        elif char == "]":
            inside = False
        elif inside and char in "&~" and pattern.startswith(char * 2, place):
            char = "\\" + char
        out.append(char)
        place += 1
    return "".join(out)


def _escape(letter: str, inside: bool) -> str:
    if letter in _CLASSES:
        return _CLASSES[letter] if inside else f"[{_CLASSES[letter]}]"
    if letter.lower() in _CLASSES and not inside:
        return f"[^{_CLASSES[letter.lower()]}]"
    if letter in "bB" and not inside:
        return rf"(?-u:\{letter})" if letter == "b" else r"(?-u:\B)"
    return "\\" + letter


def compiled(call: Call, place: int, options: str) -> str:
    """The literal pattern with its options in front. Raises ExpressionError if RE2 would refuse it."""
    pattern = call.const(place, "the pattern")
    flags = "".join(dict.fromkeys(flag for flag in options if flag in "ism"))
    text = re.escape(pattern) if "l" in options else ascii_classes(pattern)
    text = f"(?{flags}){text}" if flags else text
    try:
        pl.select(pl.lit("").str.contains(text))
    except pl.exceptions.PolarsError as error:
        raise call.fail(
            f"the pattern is not valid: {_reason(str(error))}", arg=place, code=problems.BAD_LITERAL,
            help=_help(pattern),
        ) from None  # fmt: skip
    return text


def _reason(message: str) -> str:
    match = re.search(r"error: ([^\n]+)(?:\n|$)(?!.*error: )", message, re.DOTALL)
    return match[1].split(", including")[0] if match else message.splitlines()[0]


def _help(pattern: str) -> str | None:
    return (
        "lookahead and lookbehind are not possible" if re.search(r"\(\?<?[=!]", pattern) else None
    )


def _texts(call: Call, count: int) -> bool:
    """Check that the first arguments are text. False if one is NULL."""
    for place in range(min(count, len(call.args))):
        type_ = call.args[place].type
        if not (type_.is_text or type_.name == "null"):
            raise call.fail(
                f"{call.function.name}() expects string, not {type_}", arg=place,
                notes=call.function.signature.splitlines(),
            )  # fmt: skip
    return not any(arg.is_null for arg in call.args[1:])


def _options(call: Call, place: int) -> str:
    if len(call.args) <= place:
        return ""
    options = str(call.const(place, "the options"))
    unknown = set(options) - set("icsmnplg")
    if unknown:
        raise call.fail(
            f"unknown option '{sorted(unknown)[0]}'", arg=place, code=problems.BAD_LITERAL,
            notes=["i: any case; s: . matches a newline; m: ^ and $ at each line; l: literal; g: all"],
        )  # fmt: skip
    return options


def _resolve(call: Call) -> Node:
    """regexp_matches, regexp_full_match, regexp_count, regexp_extract_all."""
    call.arity(2, 3)
    result: DataType = {
        "regexp_count": t.INT64,
        "regexp_extract_all": t.list_of(t.STRING),
    }.get(call.function.name, t.BOOL)
    if not _texts(call, 3):
        return Node("literal", result)
    pattern = compiled(call, 1, _options(call, 2))
    if call.function.name == "regexp_full_match":
        pattern = f"^(?:{pattern})$"
    return call.node(result, [convert(call.args[0], t.STRING)], pattern)


def _resolve_extract(call: Call) -> Node:
    call.arity(2, 4)
    if not _texts(call, 2):
        return Node("literal", t.STRING)
    group = call.const(2, "the group") if len(call.args) > 2 else 0
    if isinstance(group, bool) or not isinstance(group, int) or group < 0:
        raise call.fail("the group is a number from 0", arg=2)
    pattern = compiled(call, 1, _options(call, 3))
    return call.node(t.STRING, [convert(call.args[0], t.STRING)], (pattern, group))


def _extract(node: Node, text: pl.Expr) -> pl.Expr:
    pattern, group = node.value
    extracted = text.str.extract(pattern, group).fill_null("")
    return pl.when(text.is_not_null()).then(extracted)


def _resolve_replace(call: Call) -> Node:
    call.arity(3, 4)
    if not _texts(call, 4):
        return Node("literal", t.STRING)
    options = _options(call, 3)
    new = str(call.const(2, "the replacement")).replace("$", "$$")
    new = re.sub(r"\\(\d)", r"${\1}", new).replace("\\\\", "\\")
    pattern = compiled(call, 1, options)
    return call.node(t.STRING, [convert(call.args[0], t.STRING)], (pattern, new, "g" in options))


def _replace(node: Node, text: pl.Expr) -> pl.Expr:
    pattern, new, everywhere = node.value
    return text.str.replace_all(pattern, new) if everywhere else text.str.replace(pattern, new)


register("regexp_matches", "regexp_matches(text: string, pattern: const string, [options: const string]) -> bool",
         "Whether the pattern is found in it; also text ~ pattern.", ("regexp_matches('order-7', '[0-9]+$')", True),
         group="regex", resolve=_resolve, lower=lambda node, x: x.str.contains(node.value))  # fmt: skip
register("regexp_full_match", "regexp_full_match(text: string, pattern: const string, [options: const string]) -> bool",
         "Whether the whole text matches.", ("regexp_full_match('order-7', '[0-9]+')", False),
         group="regex", resolve=_resolve, lower=lambda node, x: x.str.contains(node.value))  # fmt: skip
register("regexp_count", "regexp_count(text: string, pattern: const string, [options: const string]) -> int64",
         "How often the pattern is found.", ("regexp_count('a1b22', '[0-9]+')", 2), group="regex", resolve=_resolve,
         lower=lambda node, x: x.str.count_matches(node.value).cast(pl.Int64))  # fmt: skip
register("regexp_extract", "regexp_extract(text: string, pattern: const string, [group: const int64], [options: const string]) -> string",
         "The text that the pattern, or its group, matches; empty if there is no match.", ("regexp_extract('order-7', '([a-z]+)-([0-9]+)', 2)", "7"),
         group="regex", resolve=_resolve_extract, lower=_extract)  # fmt: skip
register("regexp_extract_all", "regexp_extract_all(text: string, pattern: const string) -> list<string>",
         "All texts that the pattern matches.", ("regexp_extract_all('a1b22', '[0-9]+')", ["1", "22"]),
         group="regex", resolve=_resolve, lower=lambda node, x: x.str.extract_all(node.value))  # fmt: skip
register("regexp_replace", "regexp_replace(text: string, pattern: const string, new: const string, [options: const string]) -> string",
         r"With the first match replaced, or with option g all; \1 is the first group.", ("regexp_replace('a-b-c', '-', '', 'g')", "abc"),
         (r"regexp_replace('ab', '(a)(b)', '\2\1')", "ba"), group="regex", resolve=_resolve_replace, lower=_replace)  # fmt: skip
