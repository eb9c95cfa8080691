"""Partitions: what `partition_by` says, and the partition of each row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    TruncateTransform,
    YearTransform,
)

from dataflare.errors import ConfigError

_FORM = re.compile(r"(\w+)\(\s*(?:(\d+)\s*,\s*)?(.+?)\s*\)")
_PLAIN: dict[str, Any] = {
    "year": YearTransform, "month": MonthTransform, "day": DayTransform, "hour": HourTransform,
}  # fmt: skip
_NUMBERED: dict[str, Any] = {"bucket": BucketTransform, "truncate": TruncateTransform}
_FIRST_ID = 1000


def spec_of(texts: Sequence[str], schema: IcebergSchema) -> PartitionSpec:
    """The spec of a new table. Raises ConfigError (E0411)."""
    fields: list[PartitionField] = []
    for number, text in enumerate(texts):
        column, transform, name = _parsed(text)
        found = next((f for f in schema.fields if f.name == column), None)
        if found is None:
            raise _wrong(text, f"there is no column '{column}'", schema)
        if not transform.can_transform(found.field_type):
            raise _wrong(text, f"the column is {found.field_type}", schema)
        fields.append(
            PartitionField(
                source_id=found.field_id,
                field_id=_FIRST_ID + number,
                transform=transform,
                name=name,
            )
        )
    sources = [field.source_id for field in fields]
    if len(set(sources)) < len(sources):
        raise _wrong(", ".join(texts), "two of them are of one column", schema)
    return PartitionSpec(*fields)


def _parsed(text: str) -> tuple[str, Any, str]:
    """Column, transform, and the name of the partition's field."""
    form = _FORM.fullmatch(text.strip())
    if form is None:
        return text, IdentityTransform(), text
    kind, number, column = form.groups()
    if kind in _PLAIN and number is None:
        return column, _PLAIN[kind](), f"{column}_{kind}"
    if kind in _NUMBERED and number is not None and int(number):
        return column, _NUMBERED[kind](int(number)), f"{column}_{kind}"
    raise ConfigError(
        f"'partition_by' has '{text}'",
        code="E0411",
        help="write a column, year(c), month(c), day(c), hour(c), bucket(16, c) or truncate(4, c)",
    )


def _wrong(text: str, why: str, schema: IcebergSchema) -> ConfigError:
    return ConfigError(
        f"'partition_by' has '{text}', and {why}",
        code="E0411",
        notes=[f"it receives: {', '.join(f.name for f in schema.fields)}"],
        help="name a column of the rows, with a transform that its type has",
    )
