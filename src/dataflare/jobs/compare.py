"""Compare expected rows with actual rows. Pure.

Always true: a row is compared by the columns that its expectation names; each actual row matches at
most one expected row; a value is compared as a value of its column's type.
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
        value: dict[str, Any] = {"kind": self.kind}
        if self.expected is not None:
            value["expected"] = dict(self.expected)
        if self.actual is not None:
            value["actual"] = dict(self.actual)
        return value | ({"columns": self.columns} if self.columns else {})


class Arrived(Struct, frozen=True):
    """The actual rows. Those of a changelog have their kind in the column `_op`."""

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
        """The rows as plain values, with these columns or with all."""
        names = list(columns) or list(self.schema.names)
        values = [
            [_normal(value, type_) for value in _plain(self.frame[name], type_)]
            for name, type_ in ((name, self.schema[name]) for name in names)
        ]
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def compare(
    expected: Sequence[Mapping[str, Any]], arrived: Arrived, name: str, *, ordered: bool = False
) -> list[Difference]:
    """The differences between expected and actual rows; empty if there are none.

    ordered: the order of rows is compared too. Raises WorkflowError (E0203) for an unknown column.
    """
    expected_rows = [_typed_row(row, arrived.schema, name) for row in expected]
    actual = arrived.rows(list(dict.fromkeys(column for row in expected_rows for column in row)))
    if ordered:
        return _in_order(expected_rows, actual)
    missing, unexpected = _unmatched(expected_rows, actual)
    return _differences([expected_rows[i] for i in missing], [actual[i] for i in unexpected])


def _in_order(
    expected: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    differences = []
    for index in range(max(len(expected), len(actual))):
        expected_row = expected[index] if index < len(expected) else None
        actual_row = actual[index] if index < len(actual) else None
        if expected_row is None or actual_row is None:
            kind = "unexpected" if expected_row is None else "missing"
            differences.append(Difference(kind, expected_row, actual_row))
        elif not _matches(expected_row, actual_row):
            differences.append(Difference("different", expected_row, actual_row))
    return differences


def _differences(
    missing: list[Mapping[str, Any]], unexpected: list[Mapping[str, Any]]
) -> list[Difference]:
    """Rows that are equal in at least half of their columns are reported as one row that differs."""
    differences = []
    for expected_row in missing:
        best = _likest(expected_row, unexpected)
        if best is not None:
            differences.append(Difference("different", expected_row, unexpected.pop(best)))
        else:
            differences.append(Difference("missing", expected_row, None))
    return differences + [Difference("unexpected", None, actual_row) for actual_row in unexpected]


def _likest(expected: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The index of the row with the most values in common with `expected`, if these are at least half."""
    alike = [sum(_same(value, row[c]) for c, value in expected.items()) for row in rows]
    best = max(alike, default=0)
    return alike.index(best) if best and best * 2 >= len(expected) else None


class Revision(Struct, frozen=True):
    """The changes that turn expected rows into actual rows. changed: by index of an expected row, the
    columns with another value. rows: all rows after the changes.

    Always true: rows are removed, or rows are added, never both.
    """

    changed: Mapping[int, Mapping[str, Any]]
    removed: Sequence[int]
    added: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]


def revised(
    expected: Sequence[Mapping[str, Any]], arrived: Arrived, name: str, *, ordered: bool = False
) -> Revision:
    """The revision after which `compare` finds no difference, with as few changes as possible."""
    expected_rows = [_typed_row(row, arrived.schema, name) for row in expected]
    columns = list(dict.fromkeys(column for row in expected_rows for column in row))
    actual = arrived.rows(columns)
    if ordered:
        common = min(len(expected_rows), len(actual))
        pairs = {i: i for i in range(common)}
        missing, unexpected = (
            list(range(common, len(expected_rows))),
            list(range(common, len(actual))),
        )
    else:
        missing, unexpected = _unmatched(expected_rows, actual)
        pairs = _paired(expected_rows, actual, missing, unexpected)
    changed = {}
    for i, j in pairs.items():
        new_values = {
            c: actual[j][c]
            for c, value in expected_rows[i].items()
            if not _same(value, actual[j][c])
        }
        if new_values:
            changed[i] = new_values
    added = [actual[j] for j in unexpected]
    rows = [
        {**row, **changed.get(i, {})} for i, row in enumerate(expected_rows) if i not in missing
    ]
    return Revision(changed, missing, added, [*rows, *added])


def _paired(
    expected: Sequence[Mapping[str, Any]],
    actual: Sequence[Mapping[str, Any]],
    missing: list[int],
    unexpected: list[int],
) -> dict[int, int]:
    """Pair missing expected rows with unexpected actual rows, similar rows first. Paired rows are removed
    from both lists."""
    pairs = {}
    for i in list(missing):
        best = _likest(expected[i], [actual[j] for j in unexpected])
        if best is not None:
            pairs[i] = unexpected.pop(best)
            missing.remove(i)
    while missing and unexpected:
        pairs[missing.pop(0)] = unexpected.pop(0)
    return pairs


def _unmatched(
    expected: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]
) -> tuple[list[int], list[int]]:
    """The indexes of expected rows and of actual rows without a match."""
    if len({tuple(row) for row in expected}) <= 1:
        return _unmatched_alike(expected, actual)
    matches: dict[int, int] = {}
    candidates = [
        [a for a, actual_row in enumerate(actual) if _matches(expected_row, actual_row)]
        for expected_row in expected
    ]
    missing = [w for w in range(len(expected)) if not _placed(w, candidates, matches)]
    return missing, [a for a in range(len(actual)) if a not in matches]


def _unmatched_alike(
    expected: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]
) -> tuple[list[int], list[int]]:
    """As `_unmatched`, if all expected rows name the same columns. Then it is enough to count rows."""
    names = list(expected[0]) if expected else []
    unmatched = Counter(_key(row, names) for row in expected) if names else Counter()
    unexpected = []
    for index, row in enumerate(actual):
        key = _key(row, names)
        if unmatched[key] > 0:
            unmatched[key] -= 1
        else:
            unexpected.append(index)
    missing = []
    for index in range(len(expected) - 1, -1, -1):
        key = _key(expected[index], names)
        if unmatched[key] > 0:
            unmatched[key] -= 1
            missing.append(index)
    return missing[::-1], unexpected


def _placed(start: int, candidates: Sequence[Sequence[int]], matches: dict[int, int]) -> bool:
    """Find an actual row for an expected one, and move other matches if needed: an augmenting path,
    breadth first (Kuhn's algorithm)."""
    owner_of: dict[int, int] = {}
    queue = [start]
    for expected in queue:
        for actual in candidates[expected]:
            if actual in owner_of:
                continue
            owner_of[actual] = expected
            if actual in matches:
                queue.append(matches[actual])
                continue
            free: int | None = actual
            while free is not None:
                owner = owner_of[free]
                before = next((g for g, w in matches.items() if w == owner), None)
                matches[free] = owner
                free = before if owner != start else None
            return True
    return False


def _matches(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> bool:
    return all(_same(value, actual[column]) for column, value in expected.items())


def _key(row: Mapping[str, Any], names: Sequence[str]) -> Hashable:
    return tuple(_hashable(row[name]) for name in names)


def _same(value: Any, other: Any) -> bool:
    return _hashable(value) == _hashable(other)


def _hashable(value: Any) -> Hashable:
    """A hashable form of a value. Two forms are equal if and only if the values are; floats to 12 digits."""
    match value:
        case bool():
            return ("bool", value)
        case float():
            return "nan" if value != value else float(f"{value:.12g}")
        case dict():
            return tuple((name, _hashable(each)) for name, each in sorted(value.items()))
        case list() | tuple():
            return tuple(_hashable(each) for each in value)
    hashable: Hashable = value
    return hashable


# -- values --------------------------------------------------------------------------------------


def _typed_row(row: Mapping[str, Any], schema: Schema, name: str) -> dict[str, Any]:
    typed_row = {}
    for column, value in row.items():
        if column not in schema:
            raise WorkflowError(
                f"'{name}' has no column '{column}'",
                code="E0203",
                spot=key_spot_of(row, column),
                notes=[f"its columns: {', '.join(schema.names)}"],
                help=did_you_mean(column, schema.names),
            )
        typed_row[str(column)] = _normal(_typed(value, schema[column]), schema[column])
    return typed_row


def _typed(value: Any, type_: DataType) -> Any:
    """An expected value converted to its column's type. Unchanged if it cannot be converted."""
    schema = Schema((Field("value", type_),))
    for form in (value, _other_form(value, type_)):
        with contextlib.suppress(DataFlareError):
            return _plain(frame_of([{"value": form}], schema, "test")["value"], type_)[0]
    return value


def _other_form(value: Any, type_: DataType) -> Any:
    """The probable meaning of a value of another kind: 1.0 for 1, "1.5" for 1.5, 7 for the text 7."""
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


def _plain(values: pl.Series, type_: DataType) -> list[Any]:
    """The values in Python. A time with nanoseconds is text, because Python's own types would drop them."""
    if _counted(type_) == type_.to_polars():
        return values.to_list()
    return [_told(each, type_) for each in values.cast(_counted(type_)).to_list()]


def _counts(type_: DataType) -> bool:
    return type_.unit == "ns" or type_.name == "time"


def _counted(type_: DataType) -> pl.DataType:
    """The type with its times in nanoseconds as whole numbers."""
    if _counts(type_):
        return pl.Int64()
    if type_.name == "list" and type_.item is not None:
        return pl.List(_counted(type_.item))
    if type_.name == "struct":
        return pl.Struct({field.name: _counted(field.type) for field in type_.fields})
    return type_.to_polars()


def _told(value: Any, type_: DataType) -> Any:
    """A value of a column whose times are whole numbers."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_told(each, type_.item or type_) for each in value]
    if isinstance(value, dict):
        return {field.name: _told(value[field.name], field.type) for field in type_.fields}
    if not _counts(type_):
        return value
    whole = pl.Series([value // 1_000 * 1_000]).cast(type_.to_polars()).item()
    if value % 1_000 == 0:
        return whole
    if type_.name == "duration":
        return f"{value} ns"
    if isinstance(whole, datetime) and whole.tzinfo is not None:
        whole = whole.astimezone(UTC).replace(tzinfo=None)
    text = whole.replace(microsecond=0).isoformat()
    return f"{text}.{value % 1_000_000_000:09}{'Z' if type_.timezone else ''}"


def _normal(value: Any, type_: DataType) -> Any:
    """A value in the form in which it is compared and shown."""
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
