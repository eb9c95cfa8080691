"""Check the expressions of a config if the schema is unknown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from dataflare.errors import DataFlareError, raise_all
from dataflare.expr import ExprText, parse


def syntax_only(config: BaseModel) -> None:
    """Check the syntax of all expressions in a config. Raises one error or ManyErrors."""
    raise_all(list(_syntax_errors(config)))


def _syntax_errors(value: Any) -> Iterable[DataFlareError]:
    if isinstance(value, ExprText):
        try:
            parse(value)
        except DataFlareError as error:
            yield error
    elif isinstance(value, BaseModel):
        for _, item in value:
            yield from _syntax_errors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _syntax_errors(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _syntax_errors(item)
