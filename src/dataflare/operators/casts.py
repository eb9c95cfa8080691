"""Casts of columns with the meaning of CAST: a value that does not fit is a fault of its row."""

from __future__ import annotations

from dataflare.errors import ExpressionError, InternalError
from dataflare.expr import Typed, check
from dataflare.model.types import DataType, Schema
from dataflare.operators.names import spot_of
from dataflare.operators.primitives import quote


def cast(step: str, column: str, type_: DataType, schema: Schema, at: object = None) -> Typed:
    """The column as a type. at: the name that an error points to. Raises ExpressionError."""
    text = quote(column)
    if schema[column] != type_:
        text = f"CAST({text} AS {type_})"
    try:
        typed = check(text, schema, step=step)
        typed.lower()
    except (ExpressionError, InternalError) as error:
        raise ExpressionError(
            f"step '{step}' cannot cast {schema[column]} to {type_}",
            code="E0204",
            step=step,
            spot=spot_of(at),
            help="derive the column from an expression instead",
        ) from error
    return typed
