"""`parse`: read structured text (JSON, CSV, a regular expression) out of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field as ConfigField

from dataflare.errors import ConfigError, ExpressionError
from dataflare.expr import Typed, check
from dataflare.model.types import STRING, DataType, Field, Schema, parse_type
from dataflare.operators.base import BindContext, Bound, Lowering, RowOperator, Step, StepConfig
from dataflare.operators.primitives import known_columns, quote

if TYPE_CHECKING:
    import polars as pl

UNPARSED = 254
"""The error kind of a text that does not parse."""


class ParseConfig(StepConfig):
    column: str = ConfigField(description="The text column to read.")
    format: Literal["json", "csv", "regex"] = ConfigField(default="json")
    schema_: dict[str, str] = ConfigField(
        default_factory=dict,
        alias="schema",
        description="Column to type of what comes out. json: keys of the object; csv: fields in order; "
        "regex: named groups (text where no type is given).",
    )
    pattern: str | None = ConfigField(default=None, description="regex: with named groups (?P<name>...).")
    delimiter: str = ConfigField(default=",", description="csv: between fields.")
    keep: bool = ConfigField(default=False, description="Keep the text column too.")


@dataclass(frozen=True)
class Parse(RowOperator):
    """parts: output column, an expression for its text, and the cast of that text."""

    step: str
    column: str
    format: str
    texts: tuple[tuple[str, str], ...]
    casts: tuple[tuple[str, Typed], ...]
    valid: Typed | None
    pattern: str | None
    delimiter: str
    keep: bool
    output: Schema

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.column,))

    @property
    def can_fail(self) -> bool:
        return True

    def output_schema(self, schema: Schema) -> Schema:
        return self.output

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        source = pl.col(self.column)
        shown = f"parse {self.column} as {self.format}"
        bad = pl.when(self._broken(source)).then(pl.lit(UNPARSED, pl.UInt8))
        frame = lowering.mark(frame, self.step, [(shown, bad)])
        texts = [self._text(source, i).alias(f"__text{i}") for i in range(len(self.texts))]
        frame = frame.with_columns(texts)
        values, errors = [], []
        for name, typed in self.casts:
            lowered = typed.lower()
            values.append(lowered.value.alias(name))
            if lowered.error is not None:
                errors.append((f"{name}: {typed.type}", lowered.error))
        if errors:
            values.append(lowering.column(self.step, errors))
        frame = frame.with_columns(values)
        hidden = [
            n
            for n in frame.collect_schema().names()
            if n.startswith("__") and not n.startswith("__text")
        ]
        return frame.select([*self.output.names, *hidden])

    def _broken(self, source: pl.Expr) -> pl.Expr:
        import polars as pl

        if self.format == "json":
            assert self.valid is not None
            return source.is_not_null() & ~self.valid.lower().value.fill_null(False)
        if self.format == "regex":
            assert self.pattern is not None
            return source.is_not_null() & ~source.str.contains(self.pattern)
        fields = source.str.count_matches(self.delimiter, literal=True) + 1
        return source.is_not_null() & (fields != pl.lit(len(self.texts), pl.UInt32))

    def _text(self, source: pl.Expr, index: int) -> pl.Expr:
        if self.format == "json":
            return source.str.json_path_match(self.texts[index][1])
        if self.format == "regex":
            assert self.pattern is not None
            return source.str.extract_groups(self.pattern).struct.field(self.texts[index][1])
        return source.str.split(self.delimiter).list.get(index, null_on_oob=True)

    def describe(self) -> str:
        return f"parse {self.column} as {self.format}"


class ParseStep(Step):
    type = "parse"
    Config = ParseConfig
    summary = "Read JSON, CSV or a regular expression's groups out of a text column."
    example = """\
type: parse
inputs: [events]
config:
  column: payload
  format: json
  schema: {user_id: int64, action: string}
"""

    @classmethod
    def bind(cls, config: ParseConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        known_columns(step, [config.column], schema)
        if not schema[config.column].is_text:
            raise ExpressionError(
                f"step '{step}' parses '{config.column}', which is {schema[config.column]}, not text",
                code="E0204",
                step=step,
                spot=getattr(config.column, "spot", None),
            )
        wanted = {str(n): parse_type(str(t)) for n, t in config.schema_.items()}
        texts = _texts(config, wanted, step)
        types = {name: wanted.get(name, STRING) for name, _ in texts}
        inner = Schema.of({f"__text{i}": STRING for i in range(len(texts))})
        casts = tuple(
            (name, check(_cast(f"__text{i}", types[name]), inner, step=step))
            for i, (name, _) in enumerate(texts)
        )
        kept = [f for f in schema if (config.keep or f.name != config.column) and f.name not in types]
        output = Schema((*kept, *(Field(n, t) for n, t in types.items())))
        valid = None
        if config.format == "json":
            valid = check(f"json_valid({quote(config.column)})", schema, step=step)
        operator = Parse(
            step,
            str(config.column),
            config.format,
            texts,
            casts,
            valid,
            None if config.pattern is None else str(config.pattern),
            str(config.delimiter),
            config.keep,
            output,
        )
        return Bound(outputs={None: output}, operators=(operator,))


def _cast(column: str, type_: DataType) -> str:
    return quote(column) if type_ == STRING else f"CAST({quote(column)} AS {type_})"


def _texts(
    config: ParseConfig, wanted: dict[str, DataType], step: str
) -> tuple[tuple[str, str], ...]:
    """Output columns and where their text comes from: a JSON path, a group, or the field's place."""
    import re

    if config.format == "regex":
        if config.pattern is None:
            raise ConfigError(f"step '{step}' needs a pattern", code="E0403", step=step)
        try:
            groups = re.compile(str(config.pattern)).groupindex
        except re.error as error:
            raise ConfigError(
                f"step '{step}': the pattern is not a regular expression: {error}",
                code="E0208",
                step=step,
                spot=getattr(config.pattern, "spot", None),
            ) from error
        if not groups:
            raise ConfigError(
                f"step '{step}': the pattern has no named groups",
                code="E0403",
                step=step,
                help="write (?P<name>...) around what is to become a column",
            )
        return tuple((name, name) for name in groups)
    if not wanted:
        raise ConfigError(
            f"step '{step}' needs `schema`: the columns that come out and their types",
            code="E0403",
            step=step,
            help="schema: {user_id: int64, action: string}",
        )
    if config.format == "json":
        return tuple((name, f"$['{name}']") for name in wanted)
    return tuple((name, str(index)) for index, name in enumerate(wanted))
