"""Parse an expression. The parser is loaded with the first one, because the import is slow."""

from __future__ import annotations

from functools import cached_property

from msgspec import Struct

from dataflare.expr.shared import Shared
from dataflare.expr.text import ExprText, as_source
from dataflare.expr.tree import COLUMN, Ast
from dataflare.model.text import SourceText


class Parsed(Struct, frozen=True, dict=True):
    """An expression with correct syntax and function names."""

    source: SourceText
    ast: Ast

    @cached_property
    def columns(self) -> frozenset[str]:
        """The names of columns it reads: `a` for `a.b`."""
        return frozenset(str(node.value) for node in self.ast.walk() if node.op == COLUMN)

    def __str__(self) -> str:
        return self.source.shown


def parse(text: ExprText | SourceText | str) -> Parsed:
    """Parse one expression. Raises ExpressionError: E0201, E0202, E0205, E0206, E0207, E0208."""
    from dataflare.expr.syntax import ast_of

    source = as_source(text)
    if source.variables:
        return Parsed(source, ast_of(source))
    ast = _ASTS.get(source.template) or _ASTS.keep(source.template, ast_of(source))
    return Parsed(source, ast)


_ASTS: Shared[str, Ast] = Shared()
