"""Errors in expressions: their codes and places."""

from __future__ import annotations

from collections.abc import Iterable

from dataflare.errors import ExpressionError, did_you_mean
from dataflare.expr.tree import Span
from dataflare.model.text import SourceText

SYNTAX = "E0201"
UNKNOWN_FUNCTION = "E0202"
UNKNOWN_COLUMN = "E0203"
TYPE_MISMATCH = "E0204"
NOT_ALLOWED = "E0205"
ARGUMENTS = "E0206"
QUOTED_VARIABLE = "E0207"
BAD_LITERAL = "E0208"
TOO_LARGE = "E0209"


def problem(
    source: SourceText,
    span: Span,
    code: str,
    message: str,
    *,
    notes: Iterable[str] = (),
    help: str | None = None,
    step: str | None = None,
) -> ExpressionError:
    """The error, pointing to the characters `span` of the template."""
    start, end = span
    return ExpressionError(
        message,
        code=code,
        step=step,
        spot=source.spot_of(start, max(end, start + 1)),
        notes=notes,
        help=help,
    )


def unknown_column(
    source: SourceText, span: Span, name: str, names_known: Iterable[str], step: str | None
) -> ExpressionError:
    names = list(names_known)
    step_text = f" in step '{step}'" if step else ""
    return problem(
        source,
        span,
        UNKNOWN_COLUMN,
        f"unknown column '{name}'{step_text}",
        notes=[f"it receives: {', '.join(names) if names else 'no columns'}"],
        help=did_you_mean(name, names) or "name one of these, or add the column before",
        step=step,
    )
