"""Write rows without those that a database refuses, and tell of these. Pure, except for the caller's
functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.errors import DataError
from dataflare.formats.text_write import python_row
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import RESERVED
from dataflare.model.unchanged import UNCHANGED
from dataflare.sdk.bisection import Bisection, Pace, Refusal
from dataflare.sdk.destination import RefusedRow
from dataflare.sdk.max_errors import Bound
from dataflare.sdk.sql.names import HELP

_LEAVING = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)


def sift(
    count: int,
    attempt: Callable[[int, int], None],
    pace: Pace,
    *,
    suspects: Callable[[DataError, int, int], Sequence[int]] = lambda error, first, behind: (),
    first_only: bool = False,
    bound: Bound | None = None,
) -> list[Refusal]:
    """Write rows 0 to `count`, except the refused ones; returns the refused ones in order.

    attempt(first, behind): write these rows, or raise DataError and write none of them.
    suspects(error, first, behind): rows that may be the cause of an error of `attempt`, in order,
    if known; wrong ones only cost time. first_only: stop at the first refused row.
    bound: raises DataError (E0530) for more refused rows.
    """
    search = Bisection(count, pace, bound=None if first_only else bound)
    while (part := search.part) is not None:
        try:
            attempt(*part)
        except DataError as error:
            search.refuse(error, suspects(error, *part))
            if first_only and search.refused:
                break
        else:
            search.took()
    return search.refused


def rowwise(frame: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The rows of a changelog without the first half of each update that does not change the key.
    Such a frame can be divided anywhere; a refused update leaves the old row."""
    if KIND_COLUMN not in frame.columns or not key:
        return frame
    kind = pl.col(KIND_COLUMN)
    same = pl.all_horizontal(pl.col(n).eq_missing(pl.col(n).shift(-1)) for n in key)
    before = kind == RowKind.UPDATE_BEFORE.value
    after = kind.shift(-1) == RowKind.UPDATE_AFTER.value
    return frame.filter(~(before & after & same).fill_null(False))


def with_row(error: DataError, row: Mapping[str, Any], key: Sequence[str]) -> DataError:
    """The error with its row: the key, or the first columns."""
    names = key or [name for name in row if not name.startswith(RESERVED)][:3]
    key_text = ", ".join(f"{name} = {row[name]!r}" for name in names)
    notes = [f"the row: {key_text}", *error.notes]
    return DataError(error.message, code=error.code, help=error.help or HELP, notes=notes)


def refused_rows(
    refusals: Sequence[Refusal], frames: Iterable[pl.DataFrame], key: Sequence[str]
) -> tuple[list[RefusedRow], list[int]]:
    """The result of `Writer.settle`, and the numbers of all rows to leave out: also the first half
    of an update if its second half is refused.

    refusals: with numbers of rows in all of `frames`, in order. Raises the error of a refused
    delete: a dead letter of it would be replayed as a row.
    """
    waiting = sorted(refusals, key=lambda refusal: refusal.row, reverse=True)
    refused: list[RefusedRow] = []
    numbers: list[int] = []
    first = 0
    for frame in frames:
        while waiting and waiting[-1].row < first + frame.height:
            refusal = waiting.pop()
            at = refusal.row - first
            row, error = python_row(frame, at), refusal.error
            kind = row.pop(KIND_COLUMN, None)
            row.pop(UNCHANGED, None)
            if kind in _LEAVING:
                raise with_row(error, row, key)
            if kind == RowKind.UPDATE_AFTER.value and at > 0:
                before = python_row(frame, at - 1)
                paired = before[KIND_COLUMN] == RowKind.UPDATE_BEFORE.value
                if paired and all(before[name] == row[name] for name in key):
                    numbers.append(refusal.row - 1)
            numbers.append(refusal.row)
            notes = "; ".join(note for note in error.notes if not note.startswith("the row:"))
            text = f"{error.message}: {notes}" if notes else error.message
            refused.append(RefusedRow(row, error.code, text))
        first += frame.height
    return refused, numbers
