"""The bounds of an expression's size, and the errors for larger ones.

Parsing takes time for each token, and later steps walk the tree by recursion. So the length and the depth
are bounded. An expression within the bounds is parsed within about a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataflare.errors import ExpressionError
from dataflare.expr import problems
from dataflare.expr.problems import problem
from dataflare.expr.tree import Ast
from dataflare.model.text import SourceText

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token

CHARACTERS_MAX = 100_000
BRACKETS_MAX = 200
"""Nested brackets, CASE and prefixes."""
DEPTH_MAX = 1_000
"""Nested operations. AND and OR are not counted, because they are balanced."""

_SPLIT = "derive parts of it as columns in a `map` step, and use those"
_OPENING, _CLOSING = {"(", "[", "{", "case"}, {")", "]", "}", "end"}
_PREFIXES = {"not", "-", "+", "~"}


def check_length(source: SourceText) -> None:
    """Raises ExpressionError (E0209)."""
    if len(source.template) > CHARACTERS_MAX:
        raise problem(
            source,
            (0, 1),
            problems.TOO_LARGE,
            f"the expression has {len(source.template):,} characters, {CHARACTERS_MAX:,} are possible",
            help="put a long list of values into a file and use a `lookup` step",
        )


def check_brackets(source: SourceText, tokens: Sequence[Token]) -> None:
    """Raises ExpressionError (E0209). Raises Python's recursion limit as these tokens need."""
    depth = prefixes = deepest = 0
    for token in tokens:
        word = token.text.lower() if len(token.text) <= 4 else ""
        depth += (word in _OPENING) - (word in _CLOSING)
        prefixes = prefixes + 1 if word in _PREFIXES else 0
        deepest = max(deepest, depth + prefixes)
        if deepest > BRACKETS_MAX:
            raise _too_deep(source, (token.start, token.end + 1), "brackets", BRACKETS_MAX)
    allow(deepest * 40)


def check_depth(source: SourceText, ast: Ast) -> None:
    """Raises ExpressionError (E0209)."""
    level = {id(ast): ast}
    depth = 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise _too_deep(source, next(iter(level.values())).point, "operations", DEPTH_MAX)
        inner = [
            part
            for each in level.values()
            for part in (*each.args, *each.order, each.where)
            if part
        ]
        level = {id(part): part for part in inner}
    allow(depth * 20)


def allow(frames: int) -> None:
    """Raise Python's recursion limit if an expression needs more. It is never lowered, because another
    thread may be that deep."""
    if frames > 500 and sys.getrecursionlimit() < frames + 1_000:
        sys.setrecursionlimit(frames + 1_000)


def _too_deep(
    source: SourceText, span: tuple[int, int], nested: str, maximum: int
) -> ExpressionError:
    return problem(
        source, span, problems.TOO_LARGE, f"more than {maximum:,} {nested}, one inside of the other", help=_SPLIT
    )  # fmt: skip
