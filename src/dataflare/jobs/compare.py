"""Compare expected rows with the rows that came. Pure.

Always true: each row is compared by the columns that its expectation names, and each actual row
answers at most one expected row; a value is compared as a value of its column's type.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.inline.values import frame_of
from dataflare.errors import DataFlareError, WorkflowError, did_you_mean
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import STRING, DataType, Field, Schema
from dataflare.workflow.nodes import key_spot_of

_OPERATION = "_op"


class Difference(Struct, frozen=True):
    """kind: missing (expected has it), unexpected (actual has it), or different (both have it)."""

    kind: str
    expected: Mapping[str, Any] | None
    actual: Mapping[str, Any] | None

    @property
    def columns(self) -> list[str]:
        """The columns in which the two rows differ."""
        if self.expected is None or self.actual is None:
            return []
        return [c for c, value in self.expected.items() if not _same(value, self.actual[c])]

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"kind": self.kind}
        if self.expected is not None:
            made["expected"] = dict(self.expected)
        if self.actual is not None:
            made["actual"] = dict(self.actual)
        return made | ({"columns": self.columns} if self.columns else {})


class Arrived(Struct, frozen=True):
    """The rows that came. A changelog's have their kind in the column `_op`."""

    schema: Schema
    frame: pl.DataFrame

    @classmethod
    def of(cls, frame: pl.DataFrame, schema: Schema) -> Arrived:
        if KIND_COLUMN not in frame.columns:
            return cls(schema, frame.select(schema.names))
        kinds = {int(kind): kind.name.lower() for kind in RowKind}
        kind = pl.col(KIND_COLUMN).replace_strict(kinds, return_dtype=pl.String)
        return cls(
            Schema((*schema, Field(_OPERATION, STRING))),
            frame.select(*schema.names, kind.alias(_OPERATION)),
        )

    def rows(self, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
        """As plain values, of these columns or of all."""
        names = list(columns) or list(self.schema.names)
        return [
            {name: _normal(row[name], self.schema[name]) for name in names}
            for row in self.frame.select(names).iter_rows(named=True)
        ]


def compare(
    expected: Sequence[Mapping[str, Any]], arrived: Arrived, name: str, *, ordered: bool = False
) -> list[Difference]:
    """What differs between expected rows and those that came; nothing when all is as expected.

    ordered: the rows must come in the expected order. Raises WorkflowError (E0203) for a column
    that is not there.
    """
    wanted = [_typed_row(row, arrived.schema, name) for row in expected]
    actual = arrived.rows(list(dict.fromkeys(column for row in wanted for column in row)))
    if ordered:
        return _in_order(wanted, actual)
    missing, unexpected = _unmatched(wanted, actual)
    return _differences([wanted[i] for i in missing], [actual[i] for i in unexpected])


def _in_order(
    wanted: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    found = []
    for index in range(max(len(wanted), len(actual))):
        want = wanted[index] if index < len(wanted) else None
        got = actual[index] if index < len(actual) else None
        if want is None or got is None:
            kind = "unexpected" if want is None else "missing"
            found.append(Difference(kind, want, got))
        elif not _matches(want, got):
            found.append(Difference("different", want, got))
    return found


def _differences(
    missing: list[Mapping[str, Any]], unexpected: list[Mapping[str, Any]]
) -> list[Difference]:
    """Rows that are alike in at least half of their columns are told as one that differs."""
    found = []
    for want in missing:
        best = _likest(want, unexpected)
        if best is not None:
            found.append(Difference("different", want, unexpected.pop(best)))
        else:
            found.append(Difference("missing", want, None))
    return found + [Difference("unexpected", None, got) for got in unexpected]


def _likest(want: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Which row has most columns in common with `want`, and at least half of them."""
    alike = [sum(_same(value, got[c]) for c, value in want.items()) for got in rows]
    best = max(alike, default=0)
    return alike.index(best) if best and best * 2 >= len(want) else None


class Revision(Struct, frozen=True):
    """How an expectation's rows become those that came. changed: of an expected row, by its index,
    the columns with another value. rows: all of them as they are then.

    Always true: rows are taken away, or rows are added, never both.
    """

    changed: Mapping[int, Mapping[str, Any]]
    removed: Sequence[int]
    added: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]


def revised(
    expected: Sequence[Mapping[str, Any]], arrived: Arrived, name: str, *, ordered: bool = False
) -> Revision:
    """The revision that makes `compare` find nothing, with as few changes as there can be."""
    wanted = [_typed_row(row, arrived.schema, name) for row in expected]
    columns = list(dict.fromkeys(column for row in wanted for column in row))
    actual = arrived.rows(columns)
    if ordered:
        both = min(len(wanted), len(actual))
        pairs = {i: i for i in range(both)}
        missing, unexpected = list(range(both, len(wanted))), list(range(both, len(actual)))
    else:
        missing, unexpected = _unmatched(wanted, actual)
        pairs = _paired(wanted, actual, missing, unexpected)
    changed = {}
    for i, j in pairs.items():
        other = {
            c: actual[j][c] for c, value in wanted[i].items() if not _same(value, actual[j][c])
        }
        if other:
            changed[i] = other
    added = [actual[j] for j in unexpected]
    rows = [{**row, **changed.get(i, {})} for i, row in enumerate(wanted) if i not in missing]
    return Revision(changed, missing, added, [*rows, *added])


def _paired(
    wanted: Sequence[Mapping[str, Any]],
    actual: Sequence[Mapping[str, Any]],
    missing: list[int],
    unexpected: list[int],
) -> dict[int, int]:
    """A row that came for each expected one that did not, those that are alike first. What is paired
    leaves both lists."""
    pairs = {}
    for i in list(missing):
        best = _likest(wanted[i], [actual[j] for j in unexpected])
        if best is not None:
            pairs[i] = unexpected.pop(best)
            missing.remove(i)
    while missing and unexpected:
        pairs[missing.pop(0)] = unexpected.pop(0)
    return pairs


def _unmatched(
    wanted: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]
) -> tuple[list[int], list[int]]:
    """The expected rows that nothing answers and the actual rows that answer nothing."""
    if len({tuple(row) for row in wanted}) <= 1:
        return _unmatched_alike(wanted, actual)
    taken: dict[int, int] = {}
    candidates = [[a for a, got in enumerate(actual) if _matches(want, got)] for want in wanted]
    missing = [w for w in range(len(wanted)) if not _placed(w, candidates, taken)]
    return missing, [a for a in range(len(actual)) if a not in taken]


def _unmatched_alike(
    wanted: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]
) -> tuple[list[int], list[int]]:
    """All expected rows name the same columns: counting them is enough."""
    names = list(wanted[0]) if wanted else []
    left = Counter(_key(row, names) for row in wanted) if names else Counter()
    unexpected = []
    for index, row in enumerate(actual):
        key = _key(row, names)
        if left[key] > 0:
            left[key] -= 1
        else:
            unexpected.append(index)
    missing = []
    for index in range(len(wanted) - 1, -1, -1):
        key = _key(wanted[index], names)
        if left[key] > 0:
            left[key] -= 1
            missing.append(index)
    return missing[::-1], unexpected


def _placed(start: int, candidates: Sequence[Sequence[int]], taken: dict[int, int]) -> bool:
    """Find an actual row for an expected one, moving others if need be: an augmenting path, breadth
    first (Kuhn's algorithm)."""
    came: dict[int, int] = {}
    waiting = [start]
    for want in waiting:
        for got in candidates[want]:
            if got in came:
                continue
            came[got] = want
            if got in taken:
                waiting.append(taken[got])
                continue
            free: int | None = got
            while free is not None:
                owner = came[free]
                before = next((g for g, w in taken.items() if w == owner), None)
                taken[free] = owner
                free = before if owner != start else None
            return True
    return False


def _matches(want: Mapping[str, Any], got: Mapping[str, Any]) -> bool:
    return all(_same(value, got[column]) for column, value in want.items())


def _key(row: Mapping[str, Any], names: Sequence[str]) -> Hashable:
    return tuple(_hashable(row[name]) for name in names)


def _same(one: Any, other: Any) -> bool:
    return _hashable(one) == _hashable(other)


def _hashable(value: Any) -> Hashable:
    """A value that equals another just when they are the same value; floats to 12 digits."""
    match value:
        case bool():
            return ("bool", value)
        case float():
            return "nan" if value != value else float(f"{value:.12g}")
        case dict():
            return tuple((name, _hashable(each)) for name, each in sorted(value.items()))
        case list() | tuple():
            return tuple(_hashable(each) for each in value)
    made: Hashable = value
    return made


# -- values --------------------------------------------------------------------------------------


def _typed_row(row: Mapping[str, Any], schema: Schema, name: str) -> dict[str, Any]:
    made = {}
    for column, value in row.items():
        if column not in schema:
            raise WorkflowError(
                f"'{name}' has no column '{column}'",
                code="E0203",
                spot=key_spot_of(row, column),
                notes=[f"its columns: {', '.join(schema.names)}"],
                help=did_you_mean(column, schema.names),
            )
        made[str(column)] = _normal(_typed(value, schema[column]), schema[column])
    return made


def _typed(value: Any, type_: DataType) -> Any:
    """An expected value as one of its column's type; itself if it cannot be one."""
    schema = Schema((Field("value", type_),))
    for form in (value, _other_form(value, type_)):
        with contextlib.suppress(DataFlareError):
            return frame_of([{"value": form}], schema, "test").item()
    return value


def _other_form(value: Any, type_: DataType) -> Any:
    """What may be meant by a value of another kind: 1.0 for 1, "1.5" for 1.5, 7 for the text 7."""
    with contextlib.suppress(ValueError):
        if type_.is_integer and isinstance(value, str):
            return int(value)
        if type_.is_integer and isinstance(value, float) and value.is_integer():
            return int(value)
        if type_.is_float and isinstance(value, str):
            return float(value)
        if type_.name == "bool" and value in ("true", "false"):
            return value == "true"
        if type_ == STRING and isinstance(value, bool):
            return str(value).lower()
        if type_ == STRING and isinstance(value, int | float | Decimal | date | datetime | time):
            return value.isoformat() if isinstance(value, date | time) else str(value)
    return value


def _normal(value: Any, type_: DataType) -> Any:
    """A value in the one form in which it is compared and shown."""
    match value:
        case str() if type_.name == "json":
            try:
                return json.loads(value)
            except ValueError:
                return value
        case str():
            return str(value)
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC)
        case pl.Series():
            return [_normal(each, type_.item or type_) for each in value]
        case list() | tuple():
            return [_normal(each, type_.item or type_) for each in value]
        case dict() if type_.fields:
            types = {field.name: field.type for field in type_.fields}
            return {name: _normal(each, types.get(name, type_)) for name, each in value.items()}
    return value
