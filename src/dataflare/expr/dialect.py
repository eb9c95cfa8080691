"""A subset of sqlglot's DuckDB dialect: functions stay as written, types are kept as text.

Always true: a function call parses to `Anonymous` with the name as written; a cast's type is a `Var` with
the text of its tokens; text that does not parse raises `Rejected` with the token.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import Token, TokenType


class Rejected(Exception):
    """The parser stopped: its message, the token at which it stopped, and the token before."""

    def __init__(self, message: str, token: Token | None, before: Token | None) -> None:
        super().__init__(message)
        self.message, self.token, self.before = message, token, before


def _real(token: Any) -> Any:
    """The token, or None for the sentinel after the last one."""
    return None if token is None or token.token_type == TokenType.SENTINEL else token


def _json(name: str) -> Any:
    def build(self: Any, this: Any, path: Any) -> Any:
        if not isinstance(path, exp.Literal):
            return exp.Lambda(this=path, expressions=[this])
        call = exp.Anonymous(this=name, expressions=[this, path])
        starts = [n.meta for n in this.walk() if "start" in n.meta]
        if starts:
            call.meta.update(start=starts[0]["start"], end=starts[0]["end"])
        return call

    return build


_OPEN = {TokenType.L_PAREN: TokenType.R_PAREN, TokenType.L_BRACKET: TokenType.R_BRACKET}


class Expressions(DuckDB):
    """The dialect of one expression."""

    INDEX_OFFSET = 0

    class Parser(DuckDBParser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS = {  # noqa: RUF012
            "CAST": lambda self: self._parse_cast_to(exp.Cast),
            "TRY_CAST": lambda self: self._parse_cast_to(exp.TryCast),
            "EXTRACT": lambda self: self._parse_extract(),
        }
        NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}
        NO_PAREN_FUNCTION_PARSERS = {"CASE": lambda self: self._parse_case()}  # noqa: RUF012

        COLUMN_OPERATORS = {  # noqa: RUF012
            **DuckDBParser.COLUMN_OPERATORS,
            TokenType.ARROW: _json("json_extract"),
            TokenType.DARROW: _json("json_extract_string"),
        }

        def raise_error(self, message: str, token: Any = None, *rest: Any) -> NoReturn:
            raise Rejected(message, _real(token or self._curr), _real(self._prev))

        def _parse_cast_to(self, kind: Any) -> Any:
            this = self._parse_disjunction()
            if this is None:
                self.raise_error("Expected expression")
            if not self._match(TokenType.ALIAS):
                self.raise_error("Expected AS")
            to = self._take_type()
            if _real(self._curr) is None or self._curr.token_type != TokenType.R_PAREN:
                self.raise_error("Expecting )")
            return kind(this=this, to=to)

        def _parse_dcolon(self) -> Any:
            return self._take_type()

        def _take_type(self) -> Any:
            """The tokens of one type name, as text: `decimal(10, 2)`, `list<int64>`, `int[]`."""
            first = _real(self._curr)
            if first is None or not (first.text[:1].isalpha() or first.text[:1] == "_"):
                self.raise_error("Expected TYPE")
            self._advance()
            while self._curr.text.lower() in _TYPE_WORDS:
                self._advance()
            self._take_group(TokenType.LT, TokenType.GT)
            for opening, closing in _OPEN.items():
                self._take_group(opening, closing)
            while self._curr.text.lower() in _TYPE_WORDS:
                self._advance()
            last = self._prev
            text = self.sql[first.start : last.end + 1]
            type_text = exp.Var(this=text)
            type_text.meta.update(start=first.start, end=last.end)
            return type_text

        def _take_group(self, opening: Any, closing: Any) -> None:
            if self._curr.token_type != opening:
                return
            depth = 0
            while _real(self._curr) is not None:
                kind = self._curr.token_type
                depth += (kind == opening) - (kind == closing)
                self._advance()
                if depth == 0:
                    return
            self.raise_error(f"Expecting {closing.value}")


_TYPE_WORDS = {"precision", "varying", "with", "without", "time", "zone"}
