"""Cells of delimited text that hold lists and structs as JSON.

Always true: a cell is read by the rules of NDJSON (`ndjson_read`), so no digit is lost, and what does not fit
its type is not changed. A struct's cell with a field that the type lacks does not fit.
"""

from __future__ import annotations

import polars as pl

from dataflare.model.types import DataType

_NAME = "v"


def json_cells(type_: DataType, texts: pl.Series) -> pl.Series:
    """The cells as values of a list or a struct; NULL for a cell that does not fit. Each cell is decoded
    by itself, because a part of a text could end a line of JSON."""
    from dataflare.formats.json_values import BadJson, decode, line_of
    from dataflare.formats.ndjson_read import NdjsonPlan
    from dataflare.formats.ndjson_watch import new_fields_of
    from dataflare.formats.text_types import TextColumn

    rows: dict[int, dict[str, object]] = {}
    for place, text in enumerate(texts):
        if text is None:
            continue
        try:
            rows[place] = {_NAME: decode(text.encode())}
        except BadJson:
            continue
    plan = NdjsonPlan((TextColumn(_NAME, type_, declared=True),), (_NAME,))
    unknown = new_fields_of(plan.columns, rows.items(), [b""] * len(texts))
    for place in unknown.rows if unknown is not None else ():
        del rows[place]
    places = [*rows]
    data = b"\n".join(map(line_of, rows.values()))
    try:
        values = plan.scan(data).collect(engine="in-memory")[_NAME]
    except pl.exceptions.PolarsError:
        result = plan.salvage(data, str)
        values = result.good[_NAME]
        places = [places[row] for row in result.good_rows]
    index = pl.repeat(None, len(texts), dtype=pl.UInt32, eager=True)
    if places:
        index = index.scatter(places, pl.int_range(len(places), dtype=pl.UInt32, eager=True))
    return values.gather(index).alias(texts.name)
