"""Parse text to an `Ast`. Names of functions are checked here; columns and types are checked later.

Always true: the result has only operations of the registry; an error points to the wrong characters; the
value of a variable is passed on without being read.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import pairwise

from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from dataflare.errors import ExpressionError
from dataflare.expr import bounds, problems
from dataflare.expr.convert import Converter
from dataflare.expr.dialect import Expressions, Rejected
from dataflare.expr.problems import problem
from dataflare.expr.tree import Ast
from dataflare.model.text import SourceText

_STATEMENTS = {
    *("select", "with", "from", "insert", "update", "delete", "merge", "create", "drop", "alter"),
    *("attach", "detach", "copy", "pragma", "set", "call", "explain", "describe", "truncate"),
    *("begin", "commit", "rollback", "vacuum", "load", "install", "use", "show"),
}


def ast_of(source: SourceText) -> Ast:
    """Raises the same errors as `parse`."""
    template = source.template
    if not template.strip():
        raise problem(source, (0, len(template)), problems.SYNTAX, "the expression is empty")
    bounds.check_length(source)
    tokens = _tokens(source)
    bounds.check_brackets(source, tokens)
    _check_tokens(source, tokens)
    parser = Expressions().parser(error_level=ErrorLevel.IMMEDIATE)
    try:
        trees = parser.parse_into(exp.Condition, tokens, template)
    except Rejected as stopped:
        raise _rejected(source, tokens, stopped) from None
    except (SqlglotError, IndexError, AttributeError, RecursionError) as error:
        raise problem(
            source, (0, len(template)), problems.SYNTAX, f"cannot read the expression: {error}"
        ) from None
    tree = trees[0] if trees else None
    if tree is None:
        raise problem(source, (0, len(template)), problems.SYNTAX, "the expression is empty")
    ast = Converter(source, tokens).convert(tree)
    bounds.check_depth(source, ast)
    return ast


def _tokens(source: SourceText) -> list[Token]:
    try:
        return _tokenized(source.template)
    except SqlglotError:
        start, quote = _unclosed(source.template)
        kind = {"'": "a string", '"': "a name", "$": "a string", "/": "a comment"}[quote]
        raise problem(
            source,
            (start, len(source.template.rstrip())),
            problems.SYNTAX,
            f"{kind} begins here and does not end",
            help=f"close it with {'*/' if quote == '/' else quote}",
        ) from None


_TEXTS = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|[A-Za-z_]\w*"""
_POWER = re.compile(rf"(?:{_TEXTS})|((?:\d[\d_]*\.?[\d_]*|\.\d+)[eE]\d+)(?=[+-])", re.DOTALL)


def _tokenized(template: str) -> list[Token]:
    """The tokens, with their places in the template. sqlglot reads `1e3+1` as one number, so a space is
    inserted after the 3."""
    cuts = [match.end(1) for match in _POWER.finditer(template) if match[1] is not None]
    if not cuts:
        return list(Expressions().tokenize(template))
    parts = [template[a:b] for a, b in pairwise([0, *cuts, len(template)])]
    tokens = list(Expressions().tokenize(" ".join(parts)))
    spaces = [cut + count for count, cut in enumerate(cuts)]
    for token in tokens:
        before = bisect_left(spaces, token.start)
        token.start, token.end = token.start - before, token.end - before
    return tokens


def _unclosed(text: str) -> tuple[int, str]:
    """The beginning of an unclosed quote or comment, and its first character."""
    place = 0
    whole = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
    while place < len(text):
        match = whole.match(text, place)
        if match is not None:
            place = match.end()
        elif text[place] in "'\"" or text.startswith("/*", place):
            return place, text[place]
        else:
            place += 1
    return 0, "'"


def _check_tokens(source: SourceText, tokens: list[Token]) -> None:
    placeholders = {variable.placeholder: variable for variable in source.variables}
    inside = re.compile("|".join(map(re.escape, placeholders)) or r"(?!)")
    for place, token in enumerate(tokens):
        if token.token_type == TokenType.SEMICOLON:
            more = place + 1 < len(tokens)
            raise problem(
                source,
                (token.start, tokens[-1].end + 1),
                problems.NOT_ALLOWED,
                "one expression is expected" + (", here are several" if more else ""),
                help=None if more else "remove the ';'",
            )
        text = source.template[token.start : token.end + 1]
        match = None if text in placeholders else inside.search(text)
        if match is not None:
            variable_text = placeholders[match[0]].shown
            raise _quoted_variable(source, token, text, match[0], variable_text)


def _quoted_variable(
    source: SourceText, token: Token, text: str, placeholder: str, shown: str
) -> ExpressionError:
    start = token.start + text.index(placeholder)
    span = (start, start + len(placeholder))
    inner = text[1:-1]
    if text[0] != "'":
        return problem(
            source,
            span,
            problems.QUOTED_VARIABLE,
            f"the variable {shown} cannot be part of a name",
            notes=["in an expression a variable is a value, never text"],
        )
    parts = list(inner.partition(placeholder))
    pieces = [f"'{parts[0]}'" if parts[0] else "", shown, f"'{parts[2]}'" if parts[2] else ""]
    return problem(
        source,
        span,
        problems.QUOTED_VARIABLE,
        f"the variable {shown} stands inside quotes",
        notes=["in an expression a variable is a value, never text"],
        help=f"write {' || '.join(piece for piece in pieces if piece)}",
    )


def _rejected(source: SourceText, tokens: list[Token], stopped: Rejected) -> ExpressionError:
    token, before = stopped.token, stopped.before
    first = tokens[0]
    if first.text.lower() in _STATEMENTS and (
        token is None or token.start <= tokens[min(1, len(tokens) - 1)].start
    ):
        return problem(
            source,
            (first.start, first.end + 1),
            problems.NOT_ALLOWED,
            f"a statement is not allowed here, one expression is expected: found '{first.text}'",
            help=f'a column of this name is written "{first.text}"',
        )
    if stopped.message.startswith("Required keyword"):
        return _operand_missing(source, tokens, stopped)
    if stopped.message.startswith("Expecting "):
        closing = stopped.message.removeprefix("Expecting ")[:1]
        at = token or tokens[-1]
        return problem(
            source,
            (at.start, at.end + 1),
            problems.SYNTAX,
            f"expected '{closing}' "
            + (f"before '{token.text}'" if token else f"after '{tokens[-1].text}'"),
        )
    return _unexpected(source, tokens, token, before, stopped.message)


def _operand_missing(source: SourceText, tokens: list[Token], stopped: Rejected) -> ExpressionError:
    """The error for a missing operand after an operator at the end, or before the first operator."""
    at = stopped.before or tokens[-1]
    if "'this' missing" in stopped.message and stopped.token is not None:
        at = stopped.token
    elif "'this' missing" in stopped.message:
        operators = [t for t in tokens if not _is_operand(t)]
        at = operators[0] if operators and _is_operand(at) else at
        for left, right in zip([None, *tokens], tokens, strict=False):
            if not _is_operand(right) and (left is None or not _is_operand(left)):
                at = right
                break
        return problem(
            source,
            (at.start, at.end + 1),
            problems.SYNTAX,
            f"an operand is missing before '{source.template[at.start : at.end + 1]}'",
        )
    return problem(
        source,
        (at.start, at.end + 1),
        problems.SYNTAX,
        f"an operand is missing after '{source.template[at.start : at.end + 1]}'",
    )


def _is_operand(token: Token) -> bool:
    kinds = {TokenType.VAR, TokenType.IDENTIFIER, TokenType.STRING, TokenType.NUMBER}
    return (
        token.token_type in kinds
        or token.text in (")", "]")
        or token.text.lower() in (*("null", "true", "false", "end", "("),)
    )


def _unexpected(
    source: SourceText,
    tokens: list[Token],
    token: Token | None,
    before: Token | None,
    message: str,
) -> ExpressionError:
    at = token or before or tokens[-1]
    span = (at.start, at.end + 1)
    token_text = source.template[at.start : at.end + 1]
    if token is None:
        problem_text = message[:1].lower() + message[1:]
        return problem(
            source, span, problems.SYNTAX, f"the expression ends too early: {problem_text}"
        )
    kind = token.token_type
    if kind == TokenType.ALIAS:
        return problem(
            source,
            (at.start, tokens[-1].end + 1),
            problems.NOT_ALLOWED,
            "an alias is not allowed here",
            help="the name of a result is its key in the workflow file",
        )
    if kind == TokenType.OVER:
        return _not_allowed(source, span, "a window clause (OVER)")
    if before is not None and _is_operand(before) and kind in (TokenType.VAR, TokenType.IDENTIFIER):
        return problem(
            source,
            span,
            problems.SYNTAX,
            f"unexpected '{token_text}'",
            notes=["an operator is expected here; an alias is not allowed"],
        )
    if kind == TokenType.EQ:
        return problem(source, span, problems.SYNTAX, f"unexpected '{token_text}'")
    return problem(source, span, problems.SYNTAX, f"unexpected '{token_text}'")


def _not_allowed(source: SourceText, span: tuple[int, int], construct: str) -> ExpressionError:
    return problem(
        source, span, problems.NOT_ALLOWED, f"{construct} is not allowed in an expression"
    )
