"""The text of an expression in a config field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataflare.model.text import BoundFloat, BoundInt, SourceText

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema


class ExprText:
    """An expression in a config model, with its place in the file and its variables.

    A pydantic field of this type accepts a string, or another scalar of YAML (`condition: true`). `str()`
    shows it as it was written, variables by name. Two are equal if their text and variables are.
    """

    __slots__ = ("source",)

    source: SourceText

    def __init__(self, text: ExprText | str | bool | int | float) -> None:
        self.source = as_source(text)

    def __str__(self) -> str:
        return self.source.shown

    def __repr__(self) -> str:
        return f"ExprText({self.source.shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExprText) and (
            self.source.template == other.source.template
            and [(v.shown, v.value) for v in self.source.variables]
            == [(v.shown, v.value) for v in other.source.variables]
        )

    def __hash__(self) -> int:
        return hash(self.source.template)

    def __getstate__(self) -> SourceText:
        return self.source

    def __setstate__(self, source: SourceText) -> None:
        self.source = source

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validated, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"], "description": "An SQL expression"}

    @classmethod
    def _validated(cls, value: Any) -> ExprText:
        if isinstance(value, ExprText | str | bool | int | float):
            return cls(value)
        raise ValueError("an expression is expected, as a string")


def as_source(text: ExprText | str | bool | int | float) -> SourceText:
    """The text with its place, from any value that a config field may have."""
    if isinstance(text, ExprText):
        return text.source
    if isinstance(text, SourceText):
        return text
    if isinstance(text, BoundInt | BoundFloat):
        return text.source
    if isinstance(text, bool):
        return SourceText("true" if text else "false")
    return SourceText(str(text))
