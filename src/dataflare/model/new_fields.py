"""Fields that are in the rows but not in the columns of their source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

Columns = Mapping[str, Any]
"""New columns in the rows, by name. The JSON values are read by the source's format only."""


class NewFields(Struct, frozen=True):
    """The fields of one chunk that are not in the columns. A field that is always NULL is not new.

    rows: the numbers of the rows that have a value in some new field, ascending. fields: by path
    (`late`, `address.zip`), the numbers of the rows that have a value there. raw: the text of row i, to
    show to the user. sample: what `columns` needs of this chunk. columns: a function from the samples
    of several chunks to the columns that would hold the new fields; they are new, or wider than
    before. A field inside a column whose type the user declared is in `fields` only.
    """

    rows: Sequence[int]
    fields: Mapping[str, Sequence[int]]
    raw: Callable[[int], str]
    sample: Any
    columns: Callable[[Sequence[Any]], Columns]


def typed_fields(
    columns: Mapping[str, str], rows: Sequence[int], raw: Callable[[int], str]
) -> NewFields:
    """New fields whose types are known, as where the schema of a table has changed. columns: name to type; the
    source gets them as `learned`. rows: those that have values there."""

    def together(samples: Sequence[Mapping[str, str]]) -> Columns:
        return {name: type_ for sample in samples for name, type_ in sample.items()}

    return NewFields(rows, dict.fromkeys(columns, rows), raw, dict(columns), together)


class FieldsAppeared(Exception):
    """Ends an attempt so that the workflow is planned again with more columns. Not a failure.

    columns: by source and name. fields: by source, the paths of the new fields, to show to the user.
    """

    def __init__(self, columns: Mapping[str, Columns], fields: Mapping[str, Sequence[str]]) -> None:
        super().__init__("; ".join(f"{step}: {', '.join(each)}" for step, each in fields.items()))
        self.columns, self.fields = columns, fields
