"""`parse`: read structured text (JSON, CSV, a regular expression) or Avro out of a column."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace
from pydantic import Field as ConfigField

from dataflare.errors import ConfigError
from dataflare.expr import Typed, check
from dataflare.model.record import StructABC
from dataflare.model.types import RESERVED, STRING, DataType, Field, Schema
from dataflare.operators.base import (
    BindContext,
    Bound,
    Branch,
    Fault,
    Lowering,
    RowOperator,
    Step,
    StepConfig,
)
from dataflare.operators.casts import cast
from dataflare.operators.names import (
    ByName,
    Name,
    fitting_column,
    known_columns,
    not_empty,
    not_reserved,
    spot_of,
    types,
)
from dataflare.operators.primitives import quote, travelling
from dataflare.sdk.registry import missing_library

if TYPE_CHECKING:
    import polars as pl

UNPARSED = 254
"""The error kind of a text that does not parse."""


class ParseConfig(StepConfig):
    column: Name = ConfigField(description="The column to read: text, or for avro binary.")
    format: Literal["json", "csv", "regex", "avro"] = ConfigField(
        default="json",
        description="What is in the column. avro: one record without a file around it; they are read one by one, some microseconds each.",
    )
    schema_: ByName[Name] = ConfigField(
        default_factory=dict,
        alias="schema",
        description="Column to type of what comes out. json: keys of the object; csv: fields in order; "
        "regex: named groups (text where no type is given); avro: fields of the record.",
    )
    avro_schema: Name | None = ConfigField(
        default=None,
        description="avro: the schema that the records were written with: a file (.avsc), from the workflow file's folder, or the JSON itself.",
    )
    pattern: Name | None = ConfigField(
        default=None, description="regex: with named groups (?P<name>...), without look-around."
    )
    delimiter: str = ConfigField(
        default=",", min_length=1, max_length=1, description="csv: between fields."
    )
    keep: bool = ConfigField(default=False, description="Keep the text column too.")


class Part(Struct, frozen=True):
    """A column that comes out. at: a JSON path, a group's name or the field's place; typed: the cast
    of its text, which is in the column `text`; found: json: what gives that text."""

    name: str
    text: str
    at: str
    typed: Typed
    found: Typed | None = None


class Parse(RowOperator, StructABC, frozen=True):
    """valid: json: whether the text is JSON. fields: csv: how many there must be. avro: the schema, as
    JSON: a record becomes the JSON text that the rest reads."""

    step: str
    column: str
    format: str
    parts: tuple[Part, ...]
    valid: Typed | None
    pattern: str
    fields: int
    delimiter: str
    keep: bool
    avro: str = ""

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.column,))

    @property
    def can_fail(self) -> bool:
        return True

    def output_schema(self, schema: Schema) -> Schema:
        made = {part.name for part in self.parts}
        gone = made if self.keep else made | {self.column}
        kept = [field for field in schema if field.name not in gone]
        return Schema((*kept, *(Field(part.name, part.typed.type) for part in self.parts)))

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return (needed - {part.name for part in self.parts}) | self.reads

    def only(self, needed: frozenset[str]) -> Parse:
        return replace(self, parts=tuple(part for part in self.parts if part.name in needed))

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        columns = [n for n in frame.collect_schema().names() if not n.startswith(RESERVED)]
        frame, source = self._source(frame)
        bad = pl.when(self._broken(source)).then(pl.lit(UNPARSED, pl.UInt8))
        frame = lowering.mark(frame, self.step, [(self.describe(), bad)])
        frame = frame.with_columns(self._text(source, p).alias(p.text) for p in self.parts)
        values: list[pl.Expr] = []
        errors: list[Fault] = []
        for part in self.parts:
            lowered = part.typed.lower()
            values.append(lowered.value.alias(part.name))
            if lowered.error is not None:
                errors.append((f"{part.name}: {part.typed.type}", lowered.error))
        if errors:
            values.append(lowering.column(self.step, errors))
        made = {part.name for part in self.parts}
        gone = made if self.keep else made | {self.column}
        kept = [name for name in columns if name not in gone]
        frame = frame.with_columns(values)
        return frame.select([*kept, *(part.name for part in self.parts), *travelling(frame)])

    def _source(self, frame: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.Expr]:
        """The text that is read, in a column of its own where it must be made first."""
        import polars as pl

        if self.format != "avro":
            return frame, pl.col(self.column)
        from dataflare.formats.avro import as_json

        made = pl.col(self.column).map_batches(
            partial(as_json, schema=self.avro), return_dtype=pl.String
        )
        return frame.with_columns(made.alias(_JSON)), pl.col(_JSON)

    def _broken(self, source: pl.Expr) -> pl.Expr:
        """Whether a text cannot be read at all. A JSON text must be an object."""
        import polars as pl

        if self.format == "avro":
            return pl.col(self.column).is_not_null() & source.is_null()
        if self.format == "json":
            assert self.valid is not None
            is_object = source.str.strip_chars_start().str.starts_with("{")
            good = self.valid.lower().value & is_object
        elif self.format == "regex":
            good = source.str.contains(self.pattern)
        else:
            found = self._split(source)
            # All fields together are the line without its first delimiter.
            whole = found.list.eval(pl.element().str.len_bytes()).list.sum()
            good = (found.list.len() == self.fields) & (whole == source.str.len_bytes() + 1)
        return source.is_not_null() & ~good.fill_null(False)

    def _text(self, source: pl.Expr, part: Part) -> pl.Expr:
        import polars as pl

        if part.found is not None:
            return part.found.lower().value
        if self.format == "avro":
            return source.str.json_path_match(part.at)
        if self.format == "regex":
            return source.str.extract_groups(self.pattern).struct.field(part.at)
        field = self._split(source).list.get(int(part.at), null_on_oob=True).str.slice(1)
        inner = field.str.slice(1, field.str.len_chars() - 2).str.replace_all(
            '""', '"', literal=True
        )
        plain = pl.when(field != "").then(field)
        return pl.when(field.str.starts_with('"')).then(inner).otherwise(plain)

    def _split(self, source: pl.Expr) -> pl.Expr:
        """The fields of a CSV line, each with the delimiter before it and in its quotes."""
        import polars as pl

        mark = re.escape(self.delimiter)
        pattern = rf'{mark}(?:"(?:[^"]|"")*"|[^"{mark}][^{mark}]*|)'
        return pl.concat_str(pl.lit(self.delimiter), source).str.extract_all(pattern)

    def describe(self) -> str:
        return f"parse {self.column} as {self.format}"


class ParseStep(Step):
    type = "parse"
    Config = ParseConfig
    each_table = True
    summary = (
        "Read JSON, CSV or a regular expression's groups out of a text column, or Avro records out of a "
        "binary one; `step.errors` has the rows that cannot be read, less the columns that the step replaces."
    )
    example = """\
type: parse
inputs: [events]
config:
  column: payload
  format: json
  schema: {user_id: int64, action: string}
"""

    @classmethod
    def extra_outputs(cls, config: ParseConfig) -> tuple[str, ...]:
        return ("errors",)

    @classmethod
    def bind(cls, config: ParseConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step, column = inputs[0], context.step, str(config.column)
        known_columns(step, [config.column], schema)
        is_avro = config.format == "avro"
        fits = schema[column].name == "binary" if is_avro else schema[column].is_text
        wanted = "binary" if is_avro else "text"
        fitting_column(step, "parses", config.column, schema, wanted, fits)
        not_reserved(step, config.schema_)
        operator = Parse(
            step,
            column,
            config.format,
            parts=_parts(config, step),
            valid=check(f"json_valid({quote(column)})", schema, step=step)
            if config.format == "json"
            else None,
            pattern=str(config.pattern or ""),
            fields=len(config.schema_),
            delimiter=config.delimiter,
            keep=config.keep,
            avro=_avro_schema(config, context) if is_avro else "",
        )
        replaced = {part.name for part in operator.parts}
        branch = Branch(
            step=step,
            reads=operator.reads,
            can_fail=False,
            tag=partial(_tag, operator),
            outputs={None: _read, "errors": _unread},
            described=operator.describe(),
        )
        return Bound(
            outputs={
                None: operator.output_schema(schema),
                "errors": Schema(tuple(f for f in schema if f.name not in replaced)),
            },
            operators=(operator,),
            branch=branch,
        )


_UNREAD = f"{RESERVED}unread"
_JSON = f"{RESERVED}json"


def _tag(operator: Parse, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
    """The columns that come out beside those that came in, and whether a row cannot be read."""
    import polars as pl

    frame, source = operator._source(frame)
    frame = frame.with_columns(
        operator._broken(source).alias(_UNREAD),
        *(operator._text(source, part).alias(part.text) for part in operator.parts),
    )
    lowered = [(part.name, part.typed.lower()) for part in operator.parts]
    faults = [each.error.is_not_null() for _, each in lowered if each.error is not None]
    return frame.with_columns(
        *(each.value.alias(name) for name, each in lowered),
        pl.any_horizontal(pl.col(_UNREAD), *faults).alias(_UNREAD),
    )


def _read() -> pl.Expr:
    import polars as pl

    return ~pl.col(_UNREAD)


def _unread() -> pl.Expr:
    import polars as pl

    return pl.col(_UNREAD)


def _parts(config: ParseConfig, step: str) -> tuple[Part, ...]:
    wanted = types(step, config.schema_)
    if config.format == "regex":
        places = {name: name for name in _groups(config, step)}
        for name in config.schema_:
            if name not in places:
                raise ConfigError(
                    f"step '{step}': the pattern has no group named '{name}'",
                    code="E0405",
                    step=step,
                    spot=spot_of(name),
                    notes=[f"its groups: {', '.join(places)}"],
                    help="name the group in the pattern, (?P<name>...), or leave the column out",
                )
    else:
        example = "schema: {user_id: int64, action: string}"
        not_empty(step, "`schema`: the columns that come out and their types", wanted, example)
        places = {name: str(index) for index, name in enumerate(wanted)}
        if config.format in ("json", "avro"):
            places = {str(name): _json_path(step, name) for name in config.schema_}
    spots = {str(name): text for name, text in config.schema_.items()}
    return tuple(
        _part(config, step, name, index, at, wanted.get(name, STRING), spots.get(name))
        for index, (name, at) in enumerate(places.items())
    )


def _part(
    config: ParseConfig, step: str, name: str, index: int, at: str, type_: DataType, spot: object
) -> Part:
    text = f"__dataflare_text{index}"
    if config.format == "avro" and type_.name == "binary":
        typed = check(f"from_base64({text})", Schema.of({text: STRING}), step=step)
        return Part(name, text, at, typed)
    typed = cast(step, text, type_, Schema.of({text: STRING}), spot)
    if config.format != "json":
        return Part(name, text, at, typed)
    # As the function does, so that both keep all digits and take the first of equal keys.
    column, path = str(config.column), at.replace("'", "''") if name else "/"
    found = check(
        f"json_extract_string({quote(column)}, '{path}')", Schema.of({column: STRING}), step=step
    )
    return Part(name, text, at, typed, found)


def _avro_schema(config: ParseConfig, context: BindContext) -> str:
    """The schema's text. Raises ConfigError (E0402, E0405, E0406)."""
    step, given = context.step, config.avro_schema
    not_empty(step, "`avro_schema`", given, "avro_schema: orders.avsc")
    assert given is not None
    text = str(given)
    if not text.lstrip().startswith("{"):
        path = context.base / text
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"step '{step}' cannot read the Avro schema {path}: {error}",
                code="E0405",
                step=step,
                spot=spot_of(given),
                help="name a file from the workflow file's folder, or write the schema's JSON",
            ) from error
    try:
        from dataflare.formats.avro import check_schema

        check_schema(text)
    except ModuleNotFoundError as error:
        raise missing_library("format: avro", error).at(step=step) from error
    except ValueError as error:
        raise ConfigError(
            f"step '{step}': `avro_schema` is {error}",
            code="E0405",
            step=step,
            spot=spot_of(given),
            help="give the schema that the records were written with, of type record",
        ) from error
    return text


def _json_path(step: str, name: str) -> str:
    """The path of an object's key. Polars' paths cannot write every key, so each is tried."""
    import polars as pl

    example = pl.Series([json.dumps({name: 1})])
    for path in (f'$["{name}"]', f"$['{name}']"):
        try:
            if example.str.json_path_match(path)[0] == "1":
                return path
        except pl.exceptions.PolarsError:
            continue
    raise ConfigError(
        f"step '{step}' cannot read the key '{name}': quotes and backslashes in it are too much",
        code="E0405",
        step=step,
        spot=spot_of(name),
        help="rename the key where the data is made",
    )


def _groups(config: ParseConfig, step: str) -> list[str]:
    """The named groups of the pattern, which must be one that Polars takes."""
    import polars as pl

    not_empty(step, "a `pattern`", config.pattern)
    assert config.pattern is not None
    try:
        groups = list(re.compile(str(config.pattern)).groupindex)
        pl.Series([""]).str.extract_groups(str(config.pattern))
    except (re.error, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("error: ")
        raise ConfigError(
            f"step '{step}': the pattern is not a regular expression: {reason}",
            code="E0405",
            step=step,
            spot=spot_of(config.pattern),
            help="fix the pattern",
        ) from error
    if not groups:
        raise ConfigError(
            f"step '{step}': the pattern has no named groups",
            code="E0405",
            step=step,
            spot=spot_of(config.pattern),
            help="write (?P<name>...) around what is to become a column",
        )
    not_reserved(step, groups)
    return groups
