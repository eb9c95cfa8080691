"""The result of reading a failing chunk row by row: the good rows, and an error for each bad
row."""

from __future__ import annotations

import polars as pl
from msgspec import Struct

from dataflare.model.bad_rows import BadRows
from dataflare.model.types import DataType

RAW_MAX = 1 << 20
"""A bad row keeps at most this many bytes of its text."""
_SHOWN_MAX = 80
_CUT = 77
_PLAIN = r"^[ -&(-\[\]-~]*$"
"""Text that Python's repr() puts between single quotes as it is."""


def raw_text(text: bytes, num_bytes: int | None = None) -> str:
    """The text of a bad row as a dead letter keeps it: whole up to `RAW_MAX` bytes, otherwise its
    beginning and a note. num_bytes: of the whole row, if `text` is only its beginning."""
    size = num_bytes or len(text)
    beginning = text[:RAW_MAX].decode(errors="replace")
    return (
        beginning
        if size <= RAW_MAX
        else f"{beginning}… (cut: the first {RAW_MAX:,} of {size:,} bytes)"
    )


class SortedRows(Struct, frozen=True):
    """good: the rows that could be read; good_rows: their index in the chunk."""

    good: pl.DataFrame
    good_rows: pl.Series
    bad: BadRows


def misfit(name: str, type_: DataType, value: object) -> str:
    """The message for a field that does not fit its column's type."""
    value_text = repr(value) if len(str(value)) <= _SHOWN_MAX else repr(str(value)[:_CUT] + "...")
    return f"column '{name}': {value_text} {_unlike(type_)}"


def misfits(name: str, type_: DataType, text: pl.Expr, altered: pl.Expr | None = None) -> pl.Expr:
    """Like `misfit`, for a column of texts. altered: the texts that are numbers of that type, but
    would change when parsed."""
    whole = text.str.len_chars() <= _SHOWN_MAX
    short = pl.when(whole).then(text).otherwise(text.str.slice(0, _CUT) + "...")
    plain = short.str.contains(_PLAIN)
    # repr() is a slow Python call, so it is used only for the few texts that need it.
    odd = pl.when(~plain).then(short).map_elements(repr, return_dtype=pl.String)
    value_text = pl.when(plain).then(pl.lit("'") + short + pl.lit("'")).otherwise(odd)
    reason = pl.lit(f" {_unlike(type_)}")
    if altered is not None:
        lossy_reason = (
            f" would change as {_article(type_)} {type_}; 'schema: {{{name}: string}}' keeps it"
        )
        reason = pl.when(altered).then(pl.lit(lossy_reason)).otherwise(reason)
    return pl.lit(f"column '{name}': ") + value_text + reason


def _unlike(type_: DataType) -> str:
    return f"is not {_article(type_)} {type_}"


def _article(type_: DataType) -> str:
    return "an" if str(type_)[0] in "aei" else "a"
