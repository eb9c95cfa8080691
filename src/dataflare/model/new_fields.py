"""Fields that rows have and the columns of their source lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

Columns = Mapping[str, Any]
"""Columns that were found in the rows, by name, as JSON that only the source's format reads."""


class NewFields(Struct, frozen=True):
    """What one chunk has beyond the columns. A field that is NULL wherever it stands is not new.

    rows: the numbers of the rows that have a value in some new field, ascending. fields: by path
    (`late`, `address.zip`), the numbers of the rows that have a value there. raw: the text of row i, for
    people. sample: what `columns` needs of this chunk. columns: from the samples of several chunks,
    the columns that would hold the new fields; they are new, or wider than before. A field that
    no column may hold, because the user gave the type of the column around it, is in `fields` only.
    """

    rows: Sequence[int]
    fields: Mapping[str, Sequence[int]]
    raw: Callable[[int], str]
    sample: Any
    columns: Callable[[Sequence[Any]], Columns]


class FieldsAppeared(Exception):
    """Ends an attempt so that the workflow is planned again with more columns. Not a failure.

    columns: by source and name. fields: by source, the paths of the new fields, for people.
    """

    def __init__(self, columns: Mapping[str, Columns], fields: Mapping[str, Sequence[str]]) -> None:
        super().__init__("; ".join(f"{step}: {', '.join(each)}" for step, each in fields.items()))
        self.columns, self.fields = columns, fields
