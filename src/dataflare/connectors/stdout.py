"""The `stdout` destination: rows for a terminal or for the next program in a pipe.

Always true: rows are printed when they arrive, not when their epoch is committed, so after a crash
some are printed twice; when the reader of the pipe has ended, the remaining rows are dropped and
`on_unread` of the run is called.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from dataflare.errors import ConfigError
from dataflare.formats.far_times import far_columns
from dataflare.formats.text_write import CsvText, NdjsonText, json_text, plain
from dataflare.formats.visible import CONTROLS, visible
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.types import STRING, Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Writer,
    WriteStats,
)
from dataflare.sdk.runtime import current
from dataflare.sdk.threads import in_thread

OPERATION_COLUMN = "_op"
_WIDTH_MAX = 40
_INLINE_ROWS = 500


class StdoutConfig(BaseModel):
    """Options of a `stdout` destination."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["table", "ndjson", "csv"] = Field(
        "table", description="aligned columns, one JSON object a line, or CSV"
    )
    limit: int | None = Field(None, ge=0, description="print this many rows and drop the others")


class StdoutDestination(DestinationConnector):
    """Standard output."""

    type = "stdout"
    Config = StdoutConfig
    summary = "Prints rows as a table, NDJSON or CSV."
    example = """\
show:
  type: stdout
  inputs: [orders]
  config: {format: ndjson}
"""

    def capabilities(self) -> DestinationCapabilities:
        return DestinationCapabilities(
            Delivery.REPEATING,
            "rows are printed immediately, and again after a crash",
            changelog=True,
            local=True,
        )

    async def open(self, context: DestinationContext, restored: Committable | None) -> StdoutWriter:
        fields = [(field.name, field.type) for field in context.schema]
        if context.changelog:
            if OPERATION_COLUMN in context.schema:
                raise ConfigError(
                    f"the column '{OPERATION_COLUMN}' is for the kinds of rows, and the rows "
                    "have such a column",
                    code="E0411",
                    step=context.step,
                    help="rename that column in a map before",
                )
            fields.insert(0, (OPERATION_COLUMN, STRING))
        text = _text_of(self.config.format)
        writer = StdoutWriter(text, Schema.of(fields), context.changelog, self.config.limit)
        if self.config.format != "table":
            is_csv = self.config.format == "csv"
            writer.float_losses = ("nan", "infinite inside" if is_csv else "infinite")
        return writer


class StdoutWriter(Writer):
    """Prints batches as they arrive."""

    def __init__(self, text: Text, schema: Schema, changelog: bool, limit: int | None) -> None:
        self._text, self._schema, self._changelog, self._rows_left = text, schema, changelog, limit
        self._runtime = current()
        self._begun = self._closed = False

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        if batch.num_rows <= _INLINE_ROWS:
            num_bytes = self._show(batch.frame)
        else:
            num_bytes = await in_thread(self._show, batch.frame)
        return WriteStats(batch.num_rows, num_bytes)

    async def prepare(self, epoch: int, *, final: bool) -> Committable | None:
        if final and not self._begun:
            self._print(self._text.header(self._schema))
        return None

    def _show(self, frame: pl.DataFrame) -> int:
        if self._closed or (self._rows_left == 0 and self._begun):
            return 0
        rows = _with_operation(frame) if self._changelog else frame
        rows = rows.select(self._schema.names)
        if self._rows_left is not None:
            rows = rows.head(self._rows_left)
            self._rows_left -= rows.height
        data = self._text.encode(rows)
        if not self._begun:
            data = self._text.header(self._schema) + data
            self._begun = True
        self._print(data)
        return len(data)

    def _print(self, data: bytes) -> None:
        stream = self._runtime.stdout or sys.stdout
        text = data.decode("utf-8")
        try:
            stream.write(visible(text) if stream.isatty() else text)
            stream.flush()
        except BrokenPipeError:
            self._closed = True
            if stream is sys.stdout:
                _drop_what_is_left()
            if self._runtime.on_unread is not None:
                self._runtime.on_unread()


class TableText:
    """Aligned columns, as wide as the cells of the first rows, numbers to the right. Wider cells in
    later rows shift the rest of their line."""

    def __init__(self) -> None:
        self._widths: dict[str, int] = {}

    def header(self, schema: Schema) -> bytes:
        widths = {name: self._widths.get(name, len(name)) for name in schema.names}
        heads = [
            field.name.rjust(widths[field.name])
            if field.type.is_numeric
            else field.name.ljust(widths[field.name])
            for field in schema
        ]
        rules = ["-" * width for width in widths.values()]
        return ("  ".join(heads).rstrip() + "\n" + "  ".join(rules) + "\n").encode()

    def encode(self, frame: pl.DataFrame) -> bytes:
        if not frame.height:
            return b""
        schema = Schema.from_polars(frame.schema)
        far = far_columns(frame, schema)
        cells = frame.select(_cell(field, far=field.name in far) for field in schema)
        for name in cells.columns:
            longest: Any = cells[name].str.len_chars().max()
            self._widths.setdefault(name, max(len(name), min(longest, _WIDTH_MAX)))
        padded = [
            pl.col(name).str.pad_start(self._widths[name])
            if schema[name].is_numeric
            else pl.col(name).str.pad_end(self._widths[name])
            for name in cells.columns
        ]
        line = pl.concat_str(padded, separator="  ").str.strip_chars_end(" ")
        text: str = cells.select(line.str.join("\n")).item()
        return f"{text}\n".encode()


def _cell(field: Any, *, far: bool) -> pl.Expr:
    value = plain(pl.col(field.name), field.type, far=far)
    text = json_text(value) if field.type.name in ("list", "struct") else value.cast(pl.String)
    one_line = text.str.replace_all("\n", "\\n", literal=True)
    one_line = one_line.str.replace_all("\t", " ", literal=True)
    return _shown(one_line).fill_null("null").alias(field.name)


def _shown(text: pl.Expr) -> pl.Expr:
    """The text without characters that act on a terminal; most columns have none."""
    shown = text.map_elements(visible, return_dtype=pl.String)
    return pl.when(text.str.contains(CONTROLS).any()).then(shown).otherwise(text)


Text = CsvText | NdjsonText | TableText


def _text_of(format_: str) -> Text:
    match format_:
        case "csv":
            return CsvText()
        case "ndjson":
            return NdjsonText()
    return TableText()


def _with_operation(frame: pl.DataFrame) -> pl.DataFrame:
    if KIND_COLUMN not in frame.columns:
        return frame.with_columns(pl.lit("insert").alias(OPERATION_COLUMN))
    names = {int(kind): kind.name.lower() for kind in RowKind}
    kinds = frame[KIND_COLUMN].replace_strict(names, return_dtype=pl.String)
    return frame.with_columns(kinds.alias(OPERATION_COLUMN))


def _drop_what_is_left() -> None:
    """The reader of standard output has ended: send the data in Python's buffer to the null device,
    because Python would report an error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
