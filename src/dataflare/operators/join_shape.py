"""Which columns a join compares and which ones come out.

Always true: two keys are equal here exactly if their values are equal, whatever the widths of their
types, and then `model.hashing` gives both the same hash. A NULL key is equal to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl
from msgspec import Struct

from dataflare.errors import PlanError
from dataflare.model.event_time import TIME_COLUMNS
from dataflare.model.hashing import canonical_bits
from dataflare.model.types import DataType, Field, Schema
from dataflare.operators.names import known_columns, no_doubles, not_empty, spot_of
from dataflare.operators.union import wider

Kind = Literal["inner", "left", "right", "full", "semi", "anti"]

LEFT, RIGHT = 0, 1
"""The inputs in their order."""

KEPT = {
    "inner": (),
    "left": (LEFT,),
    "right": (RIGHT,),
    "full": (LEFT, RIGHT),
    "semi": (),
    "anti": (LEFT,),
}
"""By kind, the sides whose rows come out without a match."""


class JoinShape(Struct, frozen=True):
    """left_keys, right_keys: columns that must be equal, in pairs. right_names: columns of the right side
    that come out, by the name that they have there."""

    kind: Kind
    left: Schema
    right: Schema
    left_keys: tuple[str, ...]
    right_keys: tuple[str, ...]
    right_names: Mapping[str, str]
    output: Schema

    @property
    def keeps_left(self) -> bool:
        """Whether a row of the left side without a match comes out."""
        return LEFT in KEPT[self.kind]

    def keys_of(self, port: int) -> tuple[str, ...]:
        return self.left_keys if port == LEFT else self.right_keys

    def schema_of(self, port: int) -> Schema:
        return self.left if port == LEFT else self.right

    def key_columns(self, port: int) -> list[pl.Expr]:
        """The keys of a side as `key_names`, in types in which equal values of both sides are equal."""
        sides = (self.left, self.right) if port == LEFT else (self.right, self.left)
        others = self.keys_of(1 - port)
        return [
            comparable(pl.col(own), sides[0][own], sides[1][other]).alias(name)
            for own, other, name in zip(self.keys_of(port), others, self.key_names, strict=True)
        ]

    @property
    def key_names(self) -> list[str]:
        return [f"__dataflare_k{i}" for i in range(len(self.left_keys))]

    def alone(self, frame: pl.DataFrame, port: int) -> pl.DataFrame:
        """Rows of one side without a match, as they come out. Event times stay."""
        names = dict(zip(self.left_keys, self.right_keys, strict=True))
        columns: list[pl.Expr] = []
        sources = {new: old for old, new in self.right_names.items()}
        for field in self.output:
            name = field.name
            own: str | None = name if name in self.left else None
            if port == RIGHT:
                own = names.get(name) if name in self.left else sources[name]
            value = pl.lit(None) if own is None else pl.col(own)
            columns.append(value.cast(field.type.to_polars()).alias(name))
        times = [pl.col(name) for name in TIME_COLUMNS if name in frame.columns]
        return frame.select(*columns, *times)

    def whole(self) -> list[pl.Expr]:
        """The columns that come out of a pair in which the right side has the names of `right_values`."""
        return [pl.col(f.name).cast(f.type.to_polars()) for f in self.output]

    def right_values(self) -> list[pl.Expr]:
        """The columns of the right side by the names that they get."""
        return [pl.col(old).alias(new) for old, new in self.right_names.items()]

    def of_table(self, table: str) -> Schema:
        """The columns of a table of rows, whose name says the side."""
        if table == "results":
            return self.output
        return self.right if table.endswith(("1", "right", "versions")) else self.left

    @property
    def empty(self) -> pl.DataFrame:
        """The output without rows."""
        return pl.DataFrame(schema=self.output.to_polars())


def join_shape(
    step: str,
    kind: Kind,
    on: Mapping[str, str],
    left: Schema,
    right: Schema,
    suffix: str | None,
) -> JoinShape:
    """The shape, or the error of what cannot be joined (E0203, E0311, E0312, E0405)."""
    not_empty(step, "columns in `on`", on)
    known_columns(step, on, left)
    known_columns(step, on.values(), right)
    no_doubles(step, on.values())
    fields = list(left)
    for own, other in on.items():
        type_ = _key_type(step, kind, own, left[own], right[other])
        fields = [Field(f.name, type_) if f.name == own else f for f in fields]
    names: dict[str, str] = {}
    if kind not in ("semi", "anti"):
        names = _right_names(step, left, right, set(map(str, on.values())), suffix)
        fields += [Field(new, right[old]) for old, new in names.items()]
    return JoinShape(
        kind,
        left,
        right,
        tuple(map(str, on)),
        tuple(map(str, on.values())),
        names,
        Schema(tuple(fields)),
    )


def _right_names(
    step: str, left: Schema, right: Schema, keys: set[str], suffix: str | None
) -> dict[str, str]:
    """By column of the right side that is not a key, its name in the output."""
    names: dict[str, str] = {}
    for name in right.names:
        if name in keys:
            continue
        new = name if name not in left else f"{name}{suffix or ''}"
        if new in left or new in names.values():
            what = (
                f"both inputs of step '{step}' have a column '{new}'"
                if not suffix
                else f"step '{step}' would give the column '{new}' twice, also with the suffix '{suffix}'"
            )
            raise PlanError(
                what,
                code="E0311",
                step=step,
                help="set suffix: _r (or another one) for the columns of the second input, or select and "
                "rename columns in a map before",
            )
        names[name] = new
    return names


def _key_type(step: str, kind: Kind, key: str, own: DataType, other: DataType) -> DataType:
    """The type of a key in the output. Raises PlanError (E0312) for types that cannot be equal."""
    if not _may_be_equal(own, other):
        raise PlanError(
            f"step '{step}' cannot compare the key '{key}', which is {own} in the first input and {other} in "
            "the second",
            code="E0312",
            step=step,
            spot=spot_of(key),
            help="cast one of them in a map before, so that both have the same type",
        )
    if RIGHT not in KEPT[kind] or own == other:
        return own
    if own.name == "timestamp" or own.name == "duration":
        raise PlanError(
            f"the key '{key}' of step '{step}' is {own} in the first input and {other} in the second, and "
            f"a {kind} join has keys of both in one column",
            code="E0312",
            step=step,
            spot=spot_of(key),
            help="cast one of them in a map before, so that both have the same type",
        )
    return wider(own, other, key, step)


def _may_be_equal(own: DataType, other: DataType) -> bool:
    if "null" in (own.name, other.name):
        return own.name not in ("list", "struct") and other.name not in ("list", "struct")
    if own.name == "timestamp" == other.name:
        return bool(own.timezone) == bool(other.timezone)
    groups = (DataType.is_integer, DataType.is_float, DataType.is_text)
    if any(group.fget(own) and group.fget(other) for group in groups):  # type: ignore[attr-defined]
        return True
    return own.name == other.name and own.name not in ("list", "struct")


def comparable(value: pl.Expr, own: DataType, other: DataType) -> pl.Expr:
    """The value in a type that both sides of a join have; NULL where no value of the other type can be
    equal to it. own, other: types that may be equal."""
    if own.name == "null":
        return pl.lit(None, pl.UInt64 if other.is_float else other.to_polars())
    if own.is_float:
        # Polars 2.1 finds no match for NaN where both sides have one row, so floats are compared by bits.
        return canonical_bits(value, own.to_polars())
    if own == other or other.name == "null":
        return value
    if own.is_integer:
        unsigned = own.name.startswith("u") and other.name.startswith("u")
        return value.cast(pl.UInt64 if unsigned else pl.Int64, strict=False)
    if own.name == "decimal":
        scale = max(own.scale or 0, other.scale or 0)
        return value.cast(pl.Decimal(38, scale), strict=False)
    if own.name in ("timestamp", "duration"):
        factor = _per_second(own) // _per_second(other)
        number = value.cast(pl.Int64)
        if factor <= 1:
            return number
        return pl.when(number % factor == 0).then(number // factor)
    return value


_UNITS = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def _per_second(type_: DataType) -> int:
    """How many units of the column in memory are a second."""
    dtype = type_.to_polars()
    assert isinstance(dtype, pl.Datetime | pl.Duration)
    return _UNITS[dtype.time_unit]


def has_null(keys: Sequence[str]) -> pl.Expr:
    """Whether a key of the row is NULL, so that it matches nothing."""
    return pl.any_horizontal([pl.col(key).is_null() for key in keys])
