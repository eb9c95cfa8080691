"""Columns to order rows by, as `sort` and `deduplicate` take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl
from msgspec import Struct
from pydantic import Field

from dataflare.errors import PlanError
from dataflare.model.types import Schema
from dataflare.operators.base import StepConfig
from dataflare.operators.names import Name, known_columns, no_doubles, not_empty, spot_of


class OrderColumn(StepConfig):
    column: Name = Field(description="A column of the rows.")
    descending: bool = Field(default=False, description="Greatest first.")
    nulls: Literal["first", "last"] | None = Field(
        default=None, description="Where NULLs stand; last, if not given."
    )


OrderBy = Name | OrderColumn | list[Name | OrderColumn]


class Order(Struct, frozen=True):
    """Stable: rows that are equal here stay in the order in which they came."""

    columns: tuple[str, ...]
    descending: tuple[bool, ...]
    nulls_last: tuple[bool, ...]

    def sorted(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.sort(
            self.columns,
            descending=list(self.descending),
            nulls_last=list(self.nulls_last),
            maintain_order=True,
        )

    def __str__(self) -> str:
        ways = zip(self.columns, self.descending, strict=True)
        return ", ".join(f"{name} descending" if down else name for name, down in ways)


def bound_order(
    step: str, option: str, by: OrderBy, schema: Schema, *, nulls_last: bool = True
) -> Order:
    """The order over these columns. Raises PlanError for one that is not there or has no order."""
    listed = by if isinstance(by, list) else [by]
    parts = [each if isinstance(each, OrderColumn) else OrderColumn(column=each) for each in listed]
    names = [each.column for each in parts]
    not_empty(step, f"`{option}`", names)
    known_columns(step, names, schema)
    no_doubles(step, names)
    _ordered(step, names, schema)
    return Order(
        tuple(map(str, names)),
        tuple(each.descending for each in parts),
        tuple(nulls_last if each.nulls is None else each.nulls == "last" for each in parts),
    )


def _ordered(step: str, names: Sequence[str], schema: Schema) -> None:
    for name in names:
        if schema[name].name in ("list", "struct"):
            raise PlanError(
                f"step '{step}' cannot order rows by '{name}', which is {schema[name]}",
                code="E0204",
                step=step,
                spot=spot_of(name),
                help="derive a column of a plain type from it, and order by that",
            )


def refuse_endless(step: str, what: str, bounded: bool) -> None:
    """Raises PlanError where rows must be known to the last and the input has no end."""
    if not bounded:
        raise PlanError(
            f"step '{step}' {what} at the end of its input, which has none",
            code="E0316",
            step=step,
            help="bound the sources (for `generate`: rows), or leave the step out",
        )
