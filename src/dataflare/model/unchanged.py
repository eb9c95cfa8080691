"""Values that a change leaves out because they did not change: a log may not have them.

Always true: UNCHANGED lists, by row, the columns of which the value is not known; these are NULL in the row. The row is
the second half of an update which keeps its key. A batch has the column only if some of its rows lack a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from dataflare.model.types import RESERVED

UNCHANGED = f"{RESERVED}unchanged"
_TYPE = pl.List(pl.String)
_PLACE = f"{RESERVED}known_at"


def marked(frame: pl.DataFrame, flags: Mapping[str, pl.Series]) -> pl.DataFrame:
    """The rows, which lack values. flags: by column, in which rows it is so."""
    lists = pl.concat_list(
        [pl.when(pl.lit(rows)).then(pl.lit(name)) for name, rows in flags.items()]
    ).list.drop_nulls()
    return frame.with_columns(pl.when(lists.list.len() > 0).then(lists).alias(UNCHANGED))


def filled(frame: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The rows, each value that is left out taken from the last row with its key before it that has one. Those that lack
    a value then are marked still."""
    if UNCHANGED not in frame.columns:
        return frame
    left: dict[str, pl.Series] = {}
    for name in frame[UNCHANGED].drop_nulls().explode().unique().drop_nulls():
        if name not in frame.columns:
            continue
        lacks = pl.col(UNCHANGED).list.contains(name).fill_null(False)
        known = pl.when(~lacks).then(pl.int_range(pl.len(), dtype=pl.UInt32))
        places = frame.select(known.alias(_PLACE), *key).select(
            pl.col(_PLACE).forward_fill().over(list(key))
        )[_PLACE]
        left[name] = places.is_null()
        frame = frame.with_columns(frame[name].gather(places).alias(name))
    left = {name: rows for name, rows in left.items() if rows.any()}
    return marked(frame, left) if left else frame.drop(UNCHANGED)


def renamed(frame: pl.LazyFrame, columns: Sequence[tuple[str, str]]) -> list[pl.Expr]:
    """UNCHANGED behind a choice of columns (new name and old one), if the rows have it."""
    if UNCHANGED not in frame.collect_schema().names():
        return []
    names = {old: new for new, old in columns}
    element = pl.element().replace_strict(names, default=None, return_dtype=pl.String)
    lists = pl.col(UNCHANGED).list.eval(element.drop_nulls())
    return [pl.when(lists.list.len() > 0).then(lists).alias(UNCHANGED)]


def no_marks() -> pl.Expr:
    """UNCHANGED of rows that have all values."""
    return pl.lit(None, _TYPE).alias(UNCHANGED)
