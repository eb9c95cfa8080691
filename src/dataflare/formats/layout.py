"""Where each record of a chunk begins and ends, and what is wrong with it, as columns.

Always true: records are in order and leave out only blank lines; without quotes in the chunk no
record is looked at one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from dataflare.formats.records import is_blank, requote, scan_records

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

    def text(self, row: int) -> bytes:
        """A record without its line end."""
        start, end = self.records[START][row], self.records[END][row]
        return self.data[start:end].rstrip(b"\r\n")

    def start(self, row: int) -> int:
        found: int = self.records[START][row]
        return found

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


def layout_of(data: bytes, delimiter: str, quote: str | None, width: int) -> Layout:
    """The records of a chunk. Blank lines are records only where there is one column."""
    if quote is None or quote.encode() not in data:
        records = _unquoted(data, delimiter)
        if width > 1:
            size = pl.col(END) - pl.col(START)
            records = records.filter((pl.col(FIELDS) > 1) | (size > 2) | ~_is_blank(records, data))
    else:
        found = [
            (r.start, r.end, r.fields, r.problem, r.stray)
            for r in scan_records(data, delimiter, quote)
            if width == 1 or r.fields > 1 or not is_blank(data, r)
        ]
        records = pl.DataFrame(found, schema=_SCHEMA, orient="row")
    return Layout(data, records, delimiter, quote)


def _unquoted(data: bytes, delimiter: str) -> pl.DataFrame:
    """Lines are records: their ends and delimiters are found and counted in columnar passes."""
    whole = data if data.endswith(b"\n") or not data else data + b"\n"
    code = pl.Series([whole], dtype=pl.Binary).cast(pl.List(pl.UInt8)).explode()
    newline = code == 10
    tokens = code.filter(newline | (code == ord(delimiter)))
    ends = newline.arg_true().cast(pl.Int64) + 1
    places = (tokens == 10).arg_true().cast(pl.Int64)
    return pl.DataFrame({END: ends, "place": places}).select(
        pl.col(END).shift(1, fill_value=0).alias(START),
        pl.col(END).clip(upper_bound=len(data)),
        (pl.col("place") - pl.col("place").shift(1, fill_value=-1)).alias(FIELDS),
        pl.lit(None, dtype=pl.String).alias(PROBLEM),
        pl.lit(False).alias(STRAY),
    )


def _is_blank(records: pl.DataFrame, data: bytes) -> pl.Series:
    """Which records of at most two bytes are nothing but a line end."""
    short = records.select((pl.col(END) - pl.col(START) <= 2) & (pl.col(FIELDS) == 1)).to_series()
    blank = [
        not data[start:end].strip(b"\r\n")
        for start, end in records.filter(short).select(START, END).iter_rows()
    ]
    places = short.arg_true()
    return pl.Series([False]).new_from_index(0, len(records)).scatter(places, blank)
