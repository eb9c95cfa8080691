"""Messages that are JSON objects, by the rules of lines of JSON (`ndjson_read`).

The messages of a batch become lines of one text. A line feed inside a message becomes a carriage return,
which is white space in the same places and is refused inside strings like a line feed, so each message is
one line and a line is at most one row: if there are as many rows as messages, row i is message i.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Sequence

import polars as pl

from dataflare.formats import ndjson_watch
from dataflare.formats.messages.contract import (
    Decoded,
    Decoder,
    Encoded,
    Encoder,
    bad_messages,
    no_bad,
    sorted_bad,
)
from dataflare.formats.messages.json_few import FEW, FewObjects
from dataflare.formats.ndjson_read import OF_FILES, NdjsonPlan, sniff
from dataflare.formats.text_types import TextColumn, with_contract
from dataflare.formats.text_write import NdjsonText
from dataflare.model.new_fields import Columns, NewFields
from dataflare.model.types import Schema

_EMPTY = "the message is empty"
_SHORT = 8 << 10
"""Below so many bytes a search in the whole text is faster than one in each message, which starts a query."""


class JsonDecoder(Decoder):
    """columns: see `sampled`. watch: whether fields that are not among the columns are reported."""

    at_once = True

    def __init__(self, columns: Sequence[TextColumn], *, watch: bool = True) -> None:
        self.columns = tuple(columns)
        self.schema = Schema.of([(column.name, column.type) for column in columns])
        self._plan = NdjsonPlan(self.columns, self.schema.names)
        self._few = FewObjects(self.columns)
        self._watch = watch

    def decode(self, values: pl.Series) -> Decoded:
        places = places_of(values)
        lines, data = _lines(values)
        repeats: dict[str, int] = {}

        def repeats_of(key: str) -> None:
            repeats[f"the key '{key}' is twice in one object: only its first value is read"] = 0

        few = self._few.parsed(lines, data)
        try:
            if few is not None:
                rows, new = self._plan.typed(few), None
            elif self._watch:
                scan, new = ndjson_watch.watched(self._plan, data, repeats_of)
                rows = scan.collect(engine="in-memory")
            else:
                rows, new = self._plan.scan(data).collect(engine="in-memory"), None
        except pl.exceptions.PolarsError:
            return self._salvaged(values, places, lines)
        if rows.height != len(lines):
            # A message of white space is not counted as a line.
            return self._salvaged(values, places, lines)
        return Decoded(rows, places, no_bad(), _renumbered(new, places), repeats)

    def _salvaged(self, values: pl.Series, places: pl.Series, lines: list[bytes]) -> Decoded:
        """The slow way, message by message."""
        empty = [row for row, line in enumerate(lines) if not line.strip()]
        if empty:
            is_empty = pl.Series(range(len(lines)), dtype=pl.UInt32).is_in(empty)
            empty_places, places = places.filter(is_empty), places.filter(~is_empty)
            lines = [line for line in lines if line.strip()]
        else:
            empty_places = places.clear()
        data = b"\n".join(lines)
        result = self._plan.salvage(data, str)
        bad = result.bad.frame
        at = places.gather(bad["row"].cast(pl.UInt32))
        errors = bad["message"].str.replace(OF_FILES, "; a message is one object", literal=True)
        misread = pl.DataFrame(
            {"message": at, "code": bad["code"], "error": errors, "value": values.gather(at)},
            schema=no_bad().schema,
        )  # fmt: skip
        new = ndjson_watch.new_fields(self.columns, data) if self._watch else None
        return Decoded(
            result.good,
            places.gather(result.good_rows.cast(pl.UInt32)).alias("message"),
            sorted_bad([bad_messages(values, empty_places, "E0503", _EMPTY), misread]),
            _renumbered(new, places),
        )


class JsonEncoder(Encoder):
    """Rows to JSON objects, as NDJSON files have them."""

    def encode(self, rows: pl.DataFrame) -> Encoded:
        if not rows.height:
            return Encoded(pl.Series(dtype=pl.Binary), no_bad())
        if not rows.width:
            return Encoded(pl.repeat(b"{}", rows.height, dtype=pl.Binary, eager=True), no_bad())
        if rows.height < FEW:
            return Encoded(pl.Series(NdjsonText().objects(rows), dtype=pl.Binary), no_bad())
        # Inside a text a line feed is escaped, so each line feed here ends a row.
        texts = NdjsonText().encode(rows).split(b"\n")
        return Encoded(pl.Series(texts[: rows.height], dtype=pl.Binary), no_bad())


def sampled(
    sample: pl.Series, contract: Schema | None = None, learned: Columns | None = None
) -> list[TextColumn]:
    """The columns of a sample of messages (Binary): those of the contract have its types. learned: what
    later messages added, in earlier runs."""
    columns = sniff([_lines(sample)[1]])
    contract = contract or Schema(())
    names = {column.name for column in columns}
    absent = [TextColumn(f.name, f.type, declared=True) for f in contract if f.name not in names]
    return ndjson_watch.with_learned([*with_contract(columns, contract), *absent], learned or {})


def places_of(values: pl.Series) -> pl.Series:
    """Of the messages that are not NULL."""
    if values.null_count():
        return values.is_not_null().arg_true().cast(pl.UInt32).alias("message")
    return pl.int_range(values.len(), dtype=pl.UInt32, eager=True).alias("message")


def _lines(values: pl.Series) -> tuple[list[bytes], bytes]:
    """Each message that is not NULL, on one line, and the text of all."""
    lines: list[bytes] = (values.drop_nulls() if values.null_count() else values).to_list()
    data = b"\n".join(lines)
    if len(data) < _SHORT:
        plain = BOM_UTF8 not in data and data.count(b"\n") == max(len(lines) - 1, 0)
    else:
        plain = not values.bin.starts_with(BOM_UTF8).any() and not values.bin.contains(b"\n").any()
    if plain:
        return lines, data
    lines = [line.removeprefix(BOM_UTF8).replace(b"\n", b"\r") for line in lines]
    return lines, b"\n".join(lines)


def _renumbered(new: NewFields | None, places: pl.Series) -> NewFields | None:
    """The same, with the numbers of messages in place of those of lines."""
    if new is None or places.len() == 0 or places[-1] == places.len() - 1:
        return new
    message_of = places.to_list()
    line_of = {message: line for line, message in enumerate(message_of)}
    raw = new.raw
    return NewFields(
        rows=[message_of[row] for row in new.rows],
        fields={path: [message_of[row] for row in rows] for path, rows in new.fields.items()},
        raw=lambda message: raw(line_of[message]),
        sample=new.sample,
        columns=new.columns,
    )
