"""The fields of a lookup by key: their types from the workflow, and their values as columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import polars as pl
from pydantic import AfterValidator, Field

from dataflare.errors import ConfigError, DataError, WorkflowError
from dataflare.formats.json_values import line_of, text_of
from dataflare.formats.misread import misfit
from dataflare.formats.ndjson_read import NdjsonPlan
from dataflare.formats.text_types import TextColumn, loose
from dataflare.model.types import STRING, DataType, Schema, parse_type


def _types(type_texts: dict[str, str]) -> dict[str, str]:
    for name, text in type_texts.items():
        try:
            parse_type(text)
        except WorkflowError as error:
            raise ValueError(f"'{name}' has an unknown type: {text}") from error
    return type_texts


FieldTypes = Annotated[
    dict[str, str],
    AfterValidator(_types),
    Field(description="types of fields; a field without a type here is string"),
]


def schema_of(
    keys: Schema, fields: Sequence[str] | None, types: Mapping[str, str], step: str
) -> Schema:
    """The key columns and the fields; a field without a type is text. Raises ConfigError (E0404) if
    no fields are named.
    """
    if fields is None and not types:
        raise ConfigError(
            f"step '{step}' does not say which fields to look up",
            code="E0404",
            step=step,
            help="name them: mapping: {fields: [...]}, or in `schema` of its source",
        )
    names = [name for name in (fields or types) if name not in keys]
    types_by_name: dict[str, DataType] = {each.name: each.type for each in keys}
    types_by_name |= {name: parse_type(types[name]) if name in types else STRING for name in names}
    return Schema.of(types_by_name)


Answers = tuple[pl.DataFrame, dict[int, DataError]]
"""The rows of the keys whose values could be read, and the errors of the others, by their place."""


def of_texts(
    keys: pl.DataFrame, texts: Mapping[str, Sequence[str | None]], schema: Schema, system: str
) -> Answers:
    """Rows of fields that are text in the system. A field that does not fit its type in the schema is
    E0501; the error names the key."""
    frame = keys.with_columns(
        pl.Series(name, values, dtype=pl.String) for name, values in texts.items()
    )
    columns = [TextColumn(name, schema[name], declared=True) for name in texts]
    table = frame.with_columns(loose(column).alias(column.name) for column in columns)
    errors: dict[int, DataError] = {}
    for column in columns:
        is_misfit = table[column.name].is_null() & (frame[column.name] != "").fill_null(False)
        for place in is_misfit.arg_true():
            message = misfit(column.name, column.type, frame[column.name][place])
            errors.setdefault(place, _misread(message, keys.row(place), system))
    return _without(table.select(schema.names), errors), errors


def of_objects(
    keys: pl.DataFrame, objects: Sequence[Mapping[str, Any]], schema: Schema, system: str
) -> Answers:
    """Rows of fields that are JSON values; errors as `of_texts` gives them."""
    fields = [name for name in schema.names if name not in keys.columns]
    if not fields:
        return keys.select(schema.names), {}
    plain = [{n: _text_if(o.get(n), schema[n]) for n in fields} for o in objects]
    lines = b"\n".join(map(line_of, plain))
    plan = NdjsonPlan(tuple(TextColumn(n, schema[n], declared=True) for n in fields), tuple(fields))
    errors: dict[int, DataError] = {}
    try:
        frame = plan.scan(lines).collect(engine="in-memory")
    except pl.exceptions.PolarsError:
        rows = plan.salvage(lines, str)
        errors = {each.row: _misread(each.message, keys.row(each.row), system) for each in rows.bad}
        keys, frame = _without(keys, errors), rows.good
    return pl.concat([keys, frame], how="horizontal").select(schema.names), errors


def _without(frame: pl.DataFrame, places: Collection[int]) -> pl.DataFrame:
    """The rows that are not at these places."""
    if not places:
        return frame
    rows = pl.int_range(frame.height, eager=True)
    return frame.filter(~rows.is_in([*places]))


def _text_if(value: Any, type_: DataType) -> Any:
    """For a column of text, the value's JSON text unless it is a text; otherwise the value."""
    if value is None or type(value) is str or not type_.is_text:
        return value
    return text_of(value)


def _misread(problem: str, key: tuple[Any, ...], system: str) -> DataError:
    key_text = ", ".join(str(part) for part in key)
    return DataError(
        f"{system} has for the key {key_text}: {problem}",
        code="E0501",
        help="change its type in 'schema', or fix the value",
    )


def placed(keys: pl.DataFrame, places: Sequence[int]) -> pl.DataFrame:
    """The keys at these places; a place may be repeated."""
    return keys[pl.Series(places, dtype=pl.UInt32)] if places else keys.clear()
