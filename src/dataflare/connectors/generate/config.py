"""The options of the `generate` source, and the types of its columns without a contract."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from dataflare.model.types import (
    BOOL,
    FLOAT64,
    INT64,
    RESERVED,
    TIMESTAMP_UTC,
    DataType,
    from_polars,
)
from dataflare.model.units import Duration, Rate

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _start(value: Any) -> Any:
    if isinstance(value, str) and value != "now":
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            value = None
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if value != "now":
        raise ValueError("expected now, or a time such as 2024-01-31T12:00:00Z")
    return value


class TimeColumn(BaseModel):
    """Event times that increase with the row number."""

    model_config = ConfigDict(extra="forbid")

    start: Annotated[Literal["now"] | datetime, BeforeValidator(_start)] = Field(
        description="the time of row 0 (UTC unless it has a zone), or now: when the row was due"
    )
    step: Duration = Field(0.001, description="from one row to the next; not used by start: now")
    jitter: Duration = Field(
        0.0,
        description="a random amount from 0 to this is subtracted, so that rows are out of order",
    )

    @property
    def start_us(self) -> int:
        assert isinstance(self.start, datetime)
        return (self.start - _EPOCH) // _MICROSECOND

    @property
    def step_us(self) -> int:
        return round(self.step * 1e6)

    @property
    def jitter_us(self) -> int:
        return round(self.jitter * 1e6)


class GeneratedColumn(BaseModel):
    """How one column is generated: one of the kinds, and `nulls`."""

    model_config = ConfigDict(extra="forbid")

    sequence: int | None = Field(None, description="int64: this plus the row number")
    int_: tuple[int, int] | None = Field(
        None, alias="int", description="int64 between two numbers, both included"
    )
    float_: tuple[float, float] | None = Field(
        None,
        alias="float",
        description="float64 from the first number up to the second, which is not included",
    )
    bool_: float | None = Field(
        None, alias="bool", ge=0, le=1, description="true with this probability"
    )
    choice: list[Any] | None = Field(None, min_length=1, description="one of these values")
    time: TimeColumn | None = Field(
        None, description="timestamp[us, UTC] that increases row by row"
    )
    nulls: float = Field(0.0, ge=0, le=1, description="the fraction of values that are NULL")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = self.model_fields_set - {"nulls"}
        if len(kinds) != 1 or getattr(self, next(iter(kinds))) is None:
            raise ValueError("expected one of sequence, int, float, bool, choice or time")
        for bound in (self.sequence, *(self.int_ or ())):
            if bound is not None and not -(2**63) <= bound < 2**63:
                raise ValueError("expected whole numbers that fit 64 bits")
        if self.int_ and self.int_[0] > self.int_[1]:
            raise ValueError("expected the smaller number first")
        if self.float_ and not (
            self.float_[0] < self.float_[1] and math.isfinite(self.float_[1] - self.float_[0])
        ):
            raise ValueError("expected two numbers, the smaller first")
        if self.choice:
            choices(self.choice)
        return self


class GenerateConfig(BaseModel):
    """Options of a `generate` source."""

    model_config = ConfigDict(extra="forbid")

    columns: dict[str, GeneratedColumn] = Field(
        min_length=1, description="how each column is generated, by its name"
    )
    rows: int | None = Field(
        None, ge=0, lt=2**62, description="the number of rows; none: without end"
    )
    rate: Rate | None = Field(None, description="the rate of rows, such as 10000/s")
    seed: int = Field(0, description="another seed gives other values")

    @field_validator("columns")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not name or name.startswith(RESERVED):
                raise ValueError(f"column names must not be empty or begin with '{RESERVED}'")
        return value


def choices(values: list[Any]) -> pl.Series:
    """The values as a column. Raises ValueError if they have no type in common."""
    present = [value for value in values if value is not None]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in present)
    for plain in (bool, int, str, datetime, date):
        if present and all(
            type(v) is plain or (plain is str and isinstance(v, str)) for v in present
        ):
            return pl.Series([str(v) if isinstance(v, str) else v for v in values])
    if present and numbers:
        return pl.Series([None if v is None else float(v) for v in values])
    raise ValueError("expected values of one type: texts, numbers, times, or true and false")


def own_type(column: GeneratedColumn) -> DataType:
    """The type of a column without a contract."""
    if column.choice is not None:
        return from_polars(choices(column.choice).dtype)
    if column.float_ is not None:
        return FLOAT64
    if column.bool_ is not None:
        return BOOL
    return TIMESTAMP_UTC if column.time is not None else INT64
