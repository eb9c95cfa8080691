"""Where each record of a chunk begins and ends, and what is wrong with it, as columns.

Always true: records are in order and leave out only blank lines. Records are looked at one by one
only where a quote stands in the wrong place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from dataflare.formats.records import is_blank, requote, scan_records

_NEWLINE, _RETURN = 10, 13
START, END, FIELDS, PROBLEM, STRAY = "start", "end", "fields", "problem", "stray"
_SCHEMA = {
    START: pl.Int64,
    END: pl.Int64,
    FIELDS: pl.Int64,
    PROBLEM: pl.String,
    STRAY: pl.Boolean,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The records of `data`, a row each: start, end, fields, problem (or NULL), stray."""

    data: bytes
    records: pl.DataFrame
    delimiter: str
    quote: str | None

    def texts(self, rows: Sequence[int]) -> list[tuple[int, bytes]]:
        """Where each of these records begins, and its text without the line end."""
        found = self.records.select(START, END)[list(rows)]
        return [(start, self.data[start:end].rstrip(b"\r\n")) for start, end in found.iter_rows()]

    def starts(self) -> list[int]:
        """Where each record begins."""
        return self.records[START].to_list()

    def sound(self, width: int) -> pl.Series:
        """Which records can be read and have `width` fields."""
        return self.records[PROBLEM].is_null() & (self.records[FIELDS] == width)

    def joined(self, kept: pl.Series) -> bytes:
        """The text of the records kept, stray quotes quoted; neighbours are copied in one piece."""
        records = self.records
        if kept.all() and not records[STRAY].any() and self._has_no_gaps():
            return self.data
        fresh = records.filter(kept).with_columns(
            run=(pl.col(START) != pl.col(END).shift(1)) | pl.col(STRAY) | pl.col(STRAY).shift(1)
        )
        runs = fresh.group_by(pl.col("run").fill_null(True).cum_sum(), maintain_order=True).agg(
            pl.col(START).first(), pl.col(END).last(), pl.col(STRAY).first()
        )
        parts: list[bytes] = []
        for start, end, stray in runs.select(START, END, STRAY).iter_rows():
            text = self.data[start:end]
            if stray and self.quote is not None:
                text = requote(text, self.delimiter, self.quote)
            parts.append(text if text.endswith(b"\n") else text + b"\n")
        return b"".join(parts)

    def _has_no_gaps(self) -> bool:
        records = self.records
        return int((records[END] - records[START]).sum()) == len(self.data)


def line_ends(data: bytes) -> pl.Series:
    """Where the newlines stand."""
    code = pl.Series([data], dtype=pl.Binary).cast(pl.List(pl.UInt8)).explode()
    return (code == _NEWLINE).arg_true()


def layout_of(
    data: bytes, delimiter: str, quote: str | None, width: int, ends: pl.Series | None = None
) -> Layout:
    """The records of a chunk. Blank lines are records only where there is one column.

    ends: the line ends, where it is known that each line has `width` fields.
    """
    mark = quote if quote is not None and quote.encode() in data else None
    if ends is not None and mark is None:
        return Layout(data, _of_lines(data, ends, width), delimiter, quote)
    records = _in_columns(data, delimiter, mark)
    if records is None:
        assert quote is not None
        found = [
            (r.start, r.end, r.fields, r.problem, r.stray)
            for r in scan_records(data, delimiter, quote)
            if width == 1 or r.fields > 1 or not is_blank(data, r.start, r.end)
        ]
        records = pl.DataFrame(found, schema=_SCHEMA, orient="row")
    elif width > 1:
        records = _without_blank(records, data)
    return Layout(data, records, delimiter, quote)


def _of_lines(data: bytes, ends: pl.Series, width: int) -> pl.DataFrame:
    """Each line as a record of `width` fields."""
    after = ends.cast(pl.Int64) + 1
    if data and not data.endswith(b"\n"):
        after = after.append(pl.Series([len(data)]))
    return pl.DataFrame({START: after.shift(1, fill_value=0), END: after}).with_columns(
        pl.lit(width, dtype=pl.Int64).alias(FIELDS),
        pl.lit(None, dtype=pl.String).alias(PROBLEM),
        pl.lit(False).alias(STRAY),
    )


def _in_columns(data: bytes, delimiter: str, quote: str | None) -> pl.DataFrame | None:
    """Line ends and delimiters outside quotes, found and counted in columnar passes; None when a
    quote stands where it should not."""
    whole = data if data.endswith(b"\n") or not data else data + b"\n"
    code = pl.Series([whole], dtype=pl.Binary).cast(pl.List(pl.UInt8)).explode()
    wanted = (code == _NEWLINE) | (code == ord(delimiter))
    if quote is not None:
        wanted |= code == ord(quote)
    tokens = pl.DataFrame({"code": code.filter(wanted), "place": wanted.arg_true()})
    if quote is not None:
        line_end = (code == _RETURN) & (code == _NEWLINE).shift(-1, fill_value=True)
        after = (wanted | line_end).shift(-1, fill_value=True).filter(wanted)
        before = wanted.shift(1, fill_value=True).filter(wanted)
        marks = tokens["code"] == ord(quote)
        opening, closing = (
            before.filter(marks).gather_every(2),
            after.filter(marks).gather_every(2, 1),
        )
        if len(opening) != len(closing) or not (opening.all() and closing.all()):
            return None
        outside = (marks.cast(pl.UInt32).cum_sum() & 1) == 0
        tokens = tokens.filter(outside & ~marks)
    ends = tokens.with_row_index("token").filter(pl.col("code") == _NEWLINE)
    token, place = pl.col("token").cast(pl.Int64), pl.col("place").cast(pl.Int64)
    return ends.select(
        (place + 1).shift(1, fill_value=0).alias(START),
        (place + 1).clip(upper_bound=len(data)).alias(END),
        (token - token.shift(1, fill_value=-1)).alias(FIELDS),
        pl.lit(None, dtype=pl.String).alias(PROBLEM),
        pl.lit(False).alias(STRAY),
    )


def _without_blank(records: pl.DataFrame, data: bytes) -> pl.DataFrame:
    """Leave out records that are nothing but a line end."""
    short = records.select((pl.col(END) - pl.col(START) <= 2) & (pl.col(FIELDS) == 1)).to_series()
    if not short.any():
        return records
    places = short.arg_true()
    blank = [
        is_blank(data, start, end) for start, end in records[places].select(START, END).iter_rows()
    ]
    return records.filter(~pl.repeat(False, len(records), eager=True).scatter(places, blank))
