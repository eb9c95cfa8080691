"""The column with the run's id in what destinations get (`settings.run_column`). Pure.

Always true: no step sees the column. A destination's task adds it to the rows that it writes, so dead letters have the row
without it, and a row that is written again has the run that wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.errors import PlanError
from dataflare.model.types import STRING, Field, Schema
from dataflare.sdk.destination import DestinationConnector


def with_run_column(schema: Schema, column: str | None) -> Schema:
    """The columns that a destination writes. column: None: those that arrive."""
    return schema if column is None else Schema((*schema, Field(column, STRING)))


def check_run_column(
    step: str, connector: DestinationConnector, schema: Schema, column: str | None
) -> None:
    """Raise PlanError (E0311) where the rows have such a column, (E0325) where it would be the key of a destination."""
    if column is None:
        return
    for name in schema.names:
        if name.lower() == column.lower():
            raise PlanError(
                f"step '{step}' would get the column '{column}' twice: settings.run_column adds it, and its rows have '{name}'",
                code="E0311",
                step=step,
                help="choose another name for settings.run_column, or rename the column in a map before",
            )
    if column in {*connector.key, *connector.capabilities().key}:
        raise PlanError(
            f"step '{step}' has the column '{column}' of settings.run_column as its key, which would be another one in each run",
            code="E0325",
            step=step,
            help="name columns as key that tell the rows apart",
        )


def refuse_lacking(step: str, lacking: Sequence[str], column: str | None, change: str) -> None:
    """Raise PlanError (E0323) where a table lacks the column and `schema_change` forbids adding it."""
    if column in lacking and change != "fail":
        raise PlanError(
            f"step '{step}' writes to a table without the column '{column}' of settings.run_column, and schema_change is {change}",
            code="E0323",
            step=step,
            help=f"add a text column '{column}' to the table, or set schema_change: evolve",
        )
