"""Which columns of two tables are compared, and in which forms. Pure.

Always true: a column of one table alone, and a pair without a common form, is told and never compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.errors import WorkflowError, did_you_mean
from dataflare.jobs.diff.forms import Form, form_of
from dataflare.model.types import DataType, Schema

LEFT, RIGHT = "left", "right"
Sides = tuple[str, str]


class Pair(Struct, frozen=True):
    """A column of both tables. name: that of the left."""

    name: str
    right_name: str
    left_type: DataType
    right_type: DataType
    form: Form


class ColumnDifference(Struct, frozen=True):
    """A column that is not compared, and why."""

    name: str
    left: DataType | None
    right: DataType | None

    @property
    def why(self) -> str:
        if self.right is None:
            return f"only the left has it ({self.left})"
        if self.left is None:
            return f"only the right has it ({self.right})"
        return f"{self.left} and {self.right} have no common values"

    def to_json(self) -> dict[str, Any]:
        return {
            "column": self.name,
            "left": None if self.left is None else str(self.left),
            "right": None if self.right is None else str(self.right),
        }


class Comparison(Struct, frozen=True):
    """key: the columns that tell rows apart; none: rows are compared as a whole. values: the other columns.
    differences: columns that are not compared."""

    key: tuple[Pair, ...]
    values: tuple[Pair, ...]
    differences: tuple[ColumnDifference, ...] = ()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return (*self.key, *self.values)

    def names(self, side: str) -> list[str]:
        return [each.name if side == LEFT else each.right_name for each in self.pairs]

    def held(self, side: str) -> list[pl.Expr]:
        """The columns of a side, as `v0`, `v1` ..."""
        return [pl.col(name).alias(f"v{at}") for at, name in enumerate(self.names(side))]

    def forms(self, side: str) -> list[pl.Expr]:
        """The forms `f0`, `f1` ... of the columns `v0`, `v1` ..."""
        values = [each.form.left if side == LEFT else each.form.right for each in self.pairs]
        return [value(pl.col(f"v{at}")).alias(f"f{at}") for at, value in enumerate(values)]

    @property
    def key_forms(self) -> list[str]:
        return [f"f{at}" for at in range(len(self.key))]

    @property
    def all_forms(self) -> list[str]:
        return [f"f{at}" for at in range(len(self.pairs))]


def compared(
    left: Schema,
    right: Schema,
    key: Sequence[str],
    wanted: Sequence[str] | None,
    digits: int | None = None,
) -> Comparison:
    """Pair the columns by name; the case is ignored where only one column matches. wanted: compare these and the key
    alone. digits: floats are equal if so many of their digits are. Raises WorkflowError (E0129) for a column that is not there, and for a key that cannot be compared."""
    by_name = {name: _named(name, right) for name in left.names}
    pairs: dict[str, Pair] = {}
    differences: list[ColumnDifference] = []
    for field in left:
        name = by_name[field.name]
        if name is None:
            differences.append(ColumnDifference(field.name, field.type, None))
            continue
        form = form_of(field.type, right[name], digits)
        if form is None:
            differences.append(ColumnDifference(field.name, field.type, right[name]))
        else:
            pairs[field.name] = Pair(field.name, name, field.type, right[name], form)
    matched = set(by_name.values())
    differences += [
        ColumnDifference(field.name, None, field.type)
        for field in right
        if field.name not in matched
    ]
    keys = [_column(name, left, right) for name in key]
    for name in keys:
        if name not in pairs:
            difference = next(each for each in differences if each.name == name)
            raise _refused(f"the key column '{name}' cannot be compared: {difference.why}")
    for pair in (pairs[name] for name in keys):
        nested = {pair.left_type.name, pair.right_type.name} & {"list", "struct"}
        if nested and pair.left_type != pair.right_type:
            raise _refused(
                f"the key column '{pair.name}' is {pair.left_type} and {pair.right_type}"
            )
    if wanted is not None:
        chosen = {*keys, *(_column(name, left, right) for name in wanted)}
        pairs = {name: pair for name, pair in pairs.items() if name in chosen}
        differences = [each for each in differences if each.name in chosen]
    if not pairs:
        raise _refused("the two tables have no column in common")
    return Comparison(
        tuple(pairs[name] for name in keys),
        tuple(pair for name, pair in pairs.items() if name not in keys),
        tuple(differences),
    )


def _named(name: str, schema: Schema) -> str | None:
    """The column of this name; the case is ignored where only one matches."""
    if name in schema:
        return name
    folded = [each for each in schema.names if each.casefold() == name.casefold()]
    return folded[0] if len(folded) == 1 else None


def _column(name: str, left: Schema, right: Schema) -> str:
    """A name that the user wrote as the left table has it, else as the right one has it."""
    found = _named(name, left) or _named(name, right)
    if found is None:
        names = list(dict.fromkeys((*left.names, *right.names)))
        raise WorkflowError(
            f"none of the two tables has a column '{name}'",
            code="E0129",
            notes=[f"their columns: {', '.join(names)}"],
            help=did_you_mean(name, names),
        )
    return found


def _refused(message: str) -> WorkflowError:
    return WorkflowError(message, code="E0129", help="name other columns with --key and --columns")
