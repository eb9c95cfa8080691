"""Messages that are one record of CSV each, by the rules of CSV files (`csv_read`).

Always true: a message is one record, whatever line ends it has behind it; a line break inside quotes belongs
to its field. Messages are joined to one text only where each of them is a whole record, so none of them changes how
another one is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from dataflare.errors import ConfigError, did_you_mean
from dataflare.formats.csv_read import CsvDialect, CsvPlan
from dataflare.formats.csv_sniff import BOM, texts_of, types_of
from dataflare.formats.layout import layout_of
from dataflare.formats.messages.contract import (
    Decoded,
    Decoder,
    Encoded,
    Encoder,
    bad_messages,
    no_bad,
    sorted_bad,
)
from dataflare.formats.records import scan_records
from dataflare.formats.text_types import PLAIN, TextColumn, with_contract
from dataflare.formats.text_write import CsvText
from dataflare.model.types import Schema

_NUL = "contains a NUL byte"


class CsvDecoder(Decoder):
    """columns: the fields of a message, in order: see `csv_columns`."""

    at_once = True

    def __init__(self, columns: Sequence[TextColumn], dialect: CsvDialect) -> None:
        self.schema = Schema.of([(column.name, column.type) for column in columns])
        self._plan = CsvPlan(dialect, tuple(columns), self.schema.names)
        self._whole = _whole_record(dialect)

    def decode(self, values: pl.Series) -> Decoded:
        places = values.is_not_null().arg_true().cast(pl.UInt32).alias("message")
        records = _records(values)
        if self._are_whole(records):
            try:
                rows = self._plan.scan(_joined(records)).collect(engine="in-memory")
            except pl.exceptions.PolarsError:
                rows = None
            if rows is not None and rows.height == len(records):
                return Decoded(rows, places, no_bad())
        return self._sorted_out(values, places, records)

    def _are_whole(self, records: list[bytes]) -> bool:
        """Whether each of them is certainly one record."""
        if not records:
            return False
        data = b"".join(records)
        if not self._plan.dialect.quotes(data) and not any(each in data for each in b"\n\r\0"):
            return True
        try:
            texts = pl.Series(records, dtype=pl.Binary).cast(pl.String)
        except pl.exceptions.PolarsError:
            return False
        return bool(texts.str.contains(self._whole).all())

    def _sorted_out(self, values: pl.Series, places: pl.Series, records: list[bytes]) -> Decoded:
        """The slow way: records that are not whole are found one by one, the others are read together."""
        problems = {row: why for row, each in enumerate(records) if (why := self._problem(each))}
        is_whole = pl.Series([row not in problems for row in range(len(records))], dtype=pl.Boolean)
        whole = places.filter(is_whole)
        result = self._plan.salvage(
            _joined([each for row, each in enumerate(records) if row not in problems]), str
        )
        bad = result.bad.frame
        at = whole.gather(bad["row"].cast(pl.UInt32))
        misfit = pl.DataFrame(
            {"message": at, "code": bad["code"], "error": bad["message"], "value": values.gather(at)},
            schema=no_bad().schema,
        )  # fmt: skip
        parts = [misfit]
        for code in {code for code, _ in problems.values()}:
            rows = [row for row, (other, _) in problems.items() if other == code]
            texts = [problems[row][1] for row in rows]
            parts.append(bad_messages(values, places.gather(rows), code, texts))
        good = whole.gather(result.good_rows.cast(pl.UInt32)).alias("message")
        return Decoded(result.good, good, sorted_bad(parts))

    def _problem(self, record: bytes) -> tuple[str, str] | None:
        """Why a message is not one record with the right number of fields: a code and a text."""
        if b"\0" in record:
            return "E0504", _NUL
        try:
            record.decode()
        except UnicodeDecodeError as error:
            return "E0504", f"not valid UTF-8 at byte {error.start + 1} of the message"
        dialect, width = self._plan.dialect, len(self._plan.columns)
        found = list(scan_records(record, dialect.delimiter, dialect.quote))
        # Behind a line end that is left, another record begins, if only a blank one.
        number = len(found) + (record.endswith(b"\n") and found[-1].problem is None)
        if number > 1:
            return "E0502", f"{number} records where one was expected"
        fields = found[0].fields if found else 1
        if found and found[0].problem is not None:
            return "E0506", found[0].problem
        if fields != width:
            unit = "field" if fields == 1 else "fields"
            return "E0502", f"{fields} {unit} where {width} were expected"
        return None


class CsvEncoder(Encoder):
    """Rows to records without a line end. names: the columns in the order of their fields."""

    def __init__(self, names: Sequence[str], delimiter: str) -> None:
        self._names, self._delimiter = list(names), delimiter

    def encode(self, rows: pl.DataFrame) -> Encoded:
        rows = rows.select(self._names)
        faults = _nul_faults(rows)
        bad = no_bad()
        index = None
        if faults is not None and faults.null_count() < rows.height:
            is_bad = faults.is_not_null()
            none = pl.repeat(None, rows.height, dtype=pl.Binary, eager=True)
            texts = faults.drop_nulls().to_list()
            bad = bad_messages(none, is_bad.arg_true().cast(pl.UInt32), "E0504", texts)
            count = int((~is_bad).sum())
            index = pl.repeat(None, rows.height, dtype=pl.UInt32, eager=True).scatter(
                (~is_bad).arg_true(), pl.int_range(count, dtype=pl.UInt32, eager=True)
            )
            rows = rows.filter(~is_bad)
        records = pl.Series(self._texts(rows), dtype=pl.Binary)
        return Encoded(records if index is None else records.gather(index), bad)

    def _texts(self, rows: pl.DataFrame) -> list[bytes]:
        if not rows.height:
            return []
        data = CsvText(self._delimiter).encode(rows)
        if b'"' not in data:
            return data.split(b"\n")[: rows.height]
        layout = layout_of(data, self._delimiter, '"', blank_rows=rows.width == 1)
        return layout.texts(range(rows.height))


def csv_columns(
    names: Sequence[str] | None,
    contract: Schema | None,
    sample: pl.Series | None,
    dialect: CsvDialect,
    step: str,
) -> list[TextColumn]:
    """The columns of messages. names: their fields, in order; without them those of the contract. sample:
    messages (Binary) in which types are found. Raises ConfigError (E0405)."""
    contract = contract or Schema(())
    names = list(names) if names is not None else list(contract.names)
    if not names:
        raise ConfigError(
            f"step '{step}' reads messages of CSV, and their columns are not known",
            code="E0405",
            step=step,
            help="name them in order in 'csv: {columns: [...]}', or with their types in 'schema'",
        )
    for name in contract.names:
        if name not in names:
            raise ConfigError(
                f"'schema' names the column '{name}', which is not one of 'csv: {{columns: ...}}'",
                code="E0405",
                step=step,
                help=did_you_mean(name, names) or "add it to the columns",
            )
    records = _records(sample) if sample is not None else []
    texts = texts_of([(names, _joined(records), dialect)] if records else [], names)
    return with_contract(types_of(texts, PLAIN), contract)


def _records(values: pl.Series) -> list[bytes]:
    """The messages that are not NULL, without the marks that files begin with and lines end with."""
    records: list[bytes] = values.drop_nulls().to_list()
    ends = values.bin.ends_with(b"\n") | values.bin.starts_with(BOM)
    if not ends.any():
        return records
    return [
        each.removeprefix(BOM).removesuffix(b"\n").removesuffix(b"\r")
        if each.endswith(b"\n")
        else each.removeprefix(BOM)
        for each in records
    ]


def _joined(records: Sequence[bytes]) -> bytes:
    return b"\n".join([*records, b""])


def _whole_record(dialect: CsvDialect) -> str:
    """The pattern of texts that are one record, of any number of fields."""
    mark, quote = re.escape(dialect.delimiter), dialect.quote
    if quote is None:
        return r"\A[^\r\n\x00]*\z"
    q = re.escape(quote)
    field = rf"(?:{q}(?:[^{q}\x00]|{q}{q})*{q}|[^{q}{mark}\r\n\x00][^{mark}\r\n\x00]*|)"
    return rf"\A{field}(?:{mark}{field})*\z"


def _nul_faults(rows: pl.DataFrame) -> pl.Series | None:
    """For each row why CSV cannot hold it, or NULL."""
    texts = rows.select(pl.selectors.string() | pl.selectors.categorical()).columns
    if not texts:
        return None
    why = [
        pl.when(pl.col(name).cast(pl.String).str.contains("\0", literal=True)).then(
            pl.lit(f"a text in column '{name}' contains a NUL character, which CSV cannot hold")
        )
        for name in texts
    ]
    return rows.select(pl.coalesce(why).alias("why"))["why"]
