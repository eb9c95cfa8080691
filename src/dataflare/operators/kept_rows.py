"""Steps that keep rows of their inputs: what their tables mean, how rows are used after a change, how they are shown.

A column that is new in an input is NULL in the rows that are kept already; one that is gone is dropped from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.model import unchanged
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.event_time import NEVER, TIME_COLUMN, moment_of
from dataflare.model.types import Schema
from dataflare.model.unchanged import UNCHANGED
from dataflare.model.units import shown_duration
from dataflare.state.layout import Adaptation, Held, TableLayout, columns_of
from dataflare.state.tables import Tables
from dataflare.state.weighted import WEIGHT, WeightedRows, cancelled

_SLICE_ROWS = 65_536


def layout_of(schema: Schema, keys: Sequence[str] = ()) -> TableLayout:
    """The entry of a table of rows with these columns."""
    return TableLayout({key: f"{schema[key]}" for key in keys}, columns_of(schema), of_rows=True)


def deletes_of_all(
    rows: WeightedRows, keys: Sequence[str], frame: pl.DataFrame, gone: str | None = None
) -> Iterator[pl.DataFrame]:
    """A TRUNCATE as deletes by key of all rows that are kept, some at a time. frame: the TRUNCATE. gone: the column that
    is true where a kept row is not there any more."""
    left = [
        part.filter(pl.col(WEIGHT) > 0 if gone is None else (pl.col(WEIGHT) > 0) & ~pl.col(gone))
        .select(keys)
        .unique(maintain_order=True)
        for part in map(cancelled, rows.parts())
    ]
    others = [name for name in frame.columns if name not in (*keys, KIND_COLUMN)]
    for part in (each for whole in left for each in whole.iter_slices(_SLICE_ROWS)):
        yield part.with_columns(
            *(pl.lit(None, frame.schema[name]).alias(name) for name in others),
            pl.lit(RowKind.DELETE, pl.UInt8).alias(KIND_COLUMN),
        ).select(frame.columns)


LACKS = (
    "a large value of it did not change, so the log does not have it, and no row with its key has come before",
    "E0553",
)
"""Why a row is refused of which a value is not known, and the code."""


def filled(
    kept: pl.DataFrame, changes: pl.DataFrame, keys: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Changes with the values that they leave out as unchanged, from the rows that are kept and from changes before; and
    those of which a value is not known."""
    if UNCHANGED not in changes.columns:
        return changes, changes.clear()
    both = unchanged.filled(pl.concat([kept, changes], how="diagonal"), keys)
    whole = both.slice(kept.height).select(*(n for n in changes.columns if n in both.columns))
    if UNCHANGED not in whole.columns:
        return whole, whole.clear()
    lacks = pl.col(UNCHANGED).is_not_null()
    return whole.filter(~lacks).drop(UNCHANGED), whole.filter(lacks).drop(UNCHANGED)


def nulls(schema: Schema) -> pl.DataFrame:
    """A row that has only NULLs."""
    return pl.DataFrame({n: [None] for n in schema.names}, schema=schema.to_polars())


def new_columns(held: Held, table: str) -> str | None:
    """Why a table whose rows may be deleted cannot get columns that its rows do not have; None if it gets none."""
    move = held.moves.get(table)
    added = [name for name in move.added if not name.startswith("__dataflare")] if move else []
    if not added:
        return None
    return (
        f"column '{added[0]}' is new in rows that it keeps, and a delete of such a row has a value there by which the row "
        "would not be found"
    )


def other_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Why rows that are kept would be taken for those of another input; None if they are not."""
    old, new = before["inputs"], now["inputs"]
    for place, name in enumerate(old):
        if name in new and place < len(new) and new[place] != name:
            return f"its inputs were {', '.join(old)}, and are {', '.join(new)}: rows that it keeps would change sides"
    return None


def adapted_join(before: Mapping[str, Any], now: Mapping[str, Any], held: Held) -> Adaptation | str:
    """Of a join by time or at the end of its inputs. `within` may change where no row can come out as one without a
    match whose pair was given before."""
    reason = other_inputs(before, now)
    if reason is not None:
        return reason
    if before["form"] != now["form"]:
        return f"it was a join {before['form']}, and is one {now['form']}"
    old_kind, kind = before["kind"], now["kind"]
    if old_kind != kind:
        return (
            f"it was {_article(old_kind)} join, and is {_article(kind)} join: which rows have come out already is "
            "decided by the kind"
        )
    notes: list[str] = []
    old, new = before["within"], now["within"]
    if old != new and any(held.rows.values()):
        grows = any(is_wider for is_wider in (new[0] > old[0], new[1] > old[1]))
        if kind in ("left", "right", "full") or (grows and kind != "inner"):
            return (
                f"its `within` has changed, and {_article(kind)} join says which rows have no match: some of them "
                "would be decided by pairs of the other `within`"
            )
        time = _settled(held)
        if grows and time is not None:
            notes.append(
                f"rows before {time} find no further pairs: those that they would have are gone"
            )
    if "max_age" in now and before["max_age"] != now["max_age"]:
        old_age, age = before["max_age"], now["max_age"]
        if old_age is not None and (age is None or age > old_age):
            notes.append(f"versions older than {shown_duration(old_age)} may be gone already")
    return Adaptation(tuple(notes))


def _settled(held: Held) -> str | None:
    time = max(held.all_of("time"), default=NEVER)
    return f"{moment_of(time):%Y-%m-%d %H:%M:%S} UTC" if time != NEVER else None


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def shown(
    tables: Tables, named: Mapping[str, tuple[str, Sequence[str]]]
) -> dict[str, Iterator[pl.DataFrame]]:
    """Tables of rows under other names, with their event time. named: by the name that is shown, the name of the
    table and its keys."""
    return {
        name: map(plain, tables.rows(table, keys).frames()) for name, (table, keys) in named.items()
    }


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows as a user knows them."""
    time = "event_time" if "event_time" not in frame.columns else "_event_time"
    columns = [pl.col(name) for name in frame.columns if not name.startswith("__dataflare")]
    if TIME_COLUMN in frame.columns:
        columns.append(pl.col(TIME_COLUMN).cast(pl.Datetime("us", "UTC")).alias(time))
    return frame.select(columns)
