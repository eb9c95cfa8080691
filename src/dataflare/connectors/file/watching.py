"""How a chunk of a file reports new fields: the arguments `new_fields` and `watched` of `Chunk`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.file.reading import Added, with_added
from dataflare.formats.row_text import row_text
from dataflare.formats.text_write import python_row
from dataflare.model.new_fields import NewFields

if TYPE_CHECKING:
    from dataflare.formats.csv_read import CsvPlan
    from dataflare.formats.ndjson_read import NdjsonPlan


def watched_lines(
    plan: NdjsonPlan,
    data: bytes,
    added: Added,
    output: Sequence[str],
    repeats: Callable[[str], None],
) -> dict[str, Any]:
    """The arguments for lines of JSON. repeats: gets a key that stands twice in one object."""
    from dataflare.formats import ndjson_watch

    def watched() -> tuple[pl.LazyFrame, NewFields | None]:
        rows, fields = ndjson_watch.watched(plan, data, repeats)
        return with_added(rows, added, output), fields

    return {
        "new_fields": lambda: ndjson_watch.new_fields(plan.columns, data, repeats),
        "watched": watched,
    }


def watched_records(
    plan: CsvPlan, extra: Sequence[str], data: bytes, added: Added, output: Sequence[str]
) -> dict[str, Any]:
    """The arguments for delimited text. extra: columns of the file that are not in the source."""

    def raw(row: int) -> str:
        return plan.text_of(data, row)

    def watched() -> tuple[pl.LazyFrame, NewFields | None]:
        rows = replace(plan, output=(*plan.output, *extra)).scan(data).collect(engine="streaming")
        fields = columns_found(rows.select(extra), None, raw)
        return with_added(rows.lazy().select(plan.output), added, output), fields

    def new_fields() -> NewFields | None:
        saved = replace(plan, output=tuple(extra)).salvage(data, str)
        return columns_found(saved.good, saved.good_rows, raw)

    return {"new_fields": new_fields, "watched": watched}


def watched_table(
    scan: Callable[[], pl.LazyFrame],
    rows: Callable[[], pl.LazyFrame],
    extra: Sequence[str],
    everything: Callable[[], pl.LazyFrame],
) -> dict[str, Any]:
    """The arguments for a piece of a table. scan: the columns of the source and `extra`. rows: the
    columns of the source. extra: columns of the file that are not in the source. everything: all
    columns of the file, for the text of a row."""
    return watched_columns(
        rows,
        lambda: scan().select(extra).collect(engine="streaming"),
        lambda row: row_text(python_row(everything().slice(row, 1).collect(engine="streaming"))),
    )


def watched_columns(
    rows: Callable[[], pl.LazyFrame],
    extras: Callable[[], pl.DataFrame],
    raw: Callable[[int], str],
) -> dict[str, Any]:
    """The arguments for any rows. extras: the columns that are not in the source. raw: the text of
    a row."""

    def new_fields() -> NewFields | None:
        return columns_found(extras(), None, raw)

    return {"new_fields": new_fields, "watched": lambda: (rows(), new_fields())}


def columns_found(
    frame: pl.DataFrame, numbers: pl.Series | None, raw: Callable[[int], str]
) -> NewFields | None:
    """The rows with a value in columns that are not in the source; None if there are none. numbers:
    of the frame's rows in the chunk. Such columns are not learned: under `evolve` the survey has
    them."""
    numbers = numbers if numbers is not None else pl.int_range(frame.height, eager=True)
    rows_by_column = {
        name: rows.to_list()
        for name in frame.columns
        if (rows := numbers.filter(frame[name].is_not_null())).len()
    }
    if not rows_by_column:
        return None
    every = sorted(set().union(*rows_by_column.values()))
    return NewFields(every, rows_by_column, raw, None, lambda samples: {})
