"""A user's query: one SELECT, with its variables as bound values. Pure; it splits SQL into tokens,
but does not parse it.

Always true: a variable's value never becomes part of the SQL text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from dataflare.errors import ConfigError, DataFlareError, ExpressionError
from dataflare.model.text import SourceText

_PART = re.compile(
    r"(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))"
    r"|(?P<quoted>'(?:[^']|'')*(?:'|\Z)|\"(?:[^\"]|\"\")*(?:\"|\Z)|`[^`]*(?:`|\Z)"
    r"|\$(?P<tag>(?:[A-Za-z_][A-Za-z0-9_]*)?)\$.*?(?:\$(?P=tag)\$|\Z))"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<mark>[?;])",
    re.DOTALL,
)
_FIRST = ("select", "with", "values", "from")


class BoundQuery(Struct, frozen=True):
    """SQL with a mark for each of `params`, in order. shown: the query as the user wrote it."""

    sql: str
    params: tuple[Any, ...]
    shown: str


def bind_query(
    query: str, mark: Callable[[int], str] = lambda _: "?", *, operators: bool = False
) -> BoundQuery:
    """The query with bound values. mark: the database's text for the n-th value. operators: a
    question mark belongs to an operator of the database, such as jsonb's `?|`.

    Raises ExpressionError (E0207) for a variable in quotes, ConfigError (E0412) if it is not
    exactly one SELECT.
    """
    text = query if isinstance(query, SourceText) else SourceText(query)
    template = text.template
    variables = {variable.placeholder: variable for variable in text.variables}
    parts: list[str] = []
    params: list[Any] = []
    first = ended = None
    copied = 0
    for match in _PART.finditer(template):
        kind, token = match.lastgroup, match.group()
        if kind == "comment":
            continue
        if ended is not None:
            raise _refused(text, ended, "a query is one statement, and this has several")
        if kind == "quoted":
            inside = next((v for p, v in variables.items() if p in token), None)
            if inside is not None:
                raise _in_quotes(text, token, match.start(), inside.placeholder, inside.shown)
        elif token == ";":
            ended = match.start()
            parts.append(template[copied:ended])
            copied = match.end()
        elif token == "?" and operators:
            continue
        elif token == "?":
            raise _refused(
                text, match.start(), "'?' has no meaning here: write a variable, ${param:NAME}"
            )
        elif token in variables:
            parts.append(template[copied : match.start()] + mark(len(params)))
            params.append(variables[token].value)
            copied = match.end()
        elif kind == "word" and first is None:
            first = token
            if token.lower() not in _FIRST:
                raise _refused(text, match.start(), f"a query starts with SELECT, not {token}")
    if ended is None:
        parts.append(template[copied:])
    elif _PART.sub("", template[copied:]).strip():
        raise _refused(text, ended, "a query is one statement, and this has several")
    if first is None:
        raise _refused(text, 0, "the query is empty")
    return BoundQuery("".join(parts).strip(), tuple(params), text.shown)


def _refused(text: SourceText, place: int, message: str) -> DataFlareError:
    return ConfigError(
        message, code="E0412", spot=text.spot_of(place, place + 1), help="write one SELECT"
    )


def _in_quotes(
    text: SourceText, quoted: str, start: int, placeholder: str, written: str
) -> DataFlareError:
    place = start + quoted.index(placeholder)
    inside = quoted[1:-1].replace(placeholder, written)
    if inside == written:
        help_ = f"write it without quotes: {written}"
    else:
        before, _, after = inside.partition(written)
        pieces = [f"'{before}'" if before else "", written, f"'{after}'" if after else ""]
        help_ = "write it without quotes: " + " || ".join(piece for piece in pieces if piece)
    return ExpressionError(
        f"{written} is inside quotes, where it would be text",
        code="E0207",
        spot=text.spot_of(place, place + len(placeholder)),
        help=help_,
    )
