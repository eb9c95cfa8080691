"""The `stdout` destination: rows for a terminal or for the next program in a pipe.

Always true: rows are printed when they arrive, not when their epoch is committed, so after a crash
some are printed twice; when the reader of the pipe has ended, the remaining rows are dropped and
`on_unread` of the run is called. With a key, a table of the newest rows is drawn over itself on a terminal, and printed
once at the end elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflare.connectors.stdout.live_table import NewestRows, Screen
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
from dataflare.sdk.runtime import Runtime, current
from dataflare.sdk.threads import in_thread

OPERATION_COLUMN = "_op"
_WIDTH_MAX = 40
_INLINE_ROWS = 500
_REDRAW_S = 0.25


class StdoutConfig(BaseModel):
    """Options of a `stdout` destination."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["table", "ndjson", "csv"] = Field(
        "table", description="aligned columns, one JSON object a line, or CSV"
    )
    limit: int | None = Field(
        None,
        ge=0,
        description="print this many rows and drop the others; with a key: show this many, the last to change "
        "(20 on a terminal)",
    )
    mode: Literal["append", "upsert", "mirror"] = Field(
        "append",
        description="append prints each row; upsert keeps a table of the newest row of each key; mirror removes "
        "deleted rows from it too",
    )
    key: list[str] | None = Field(
        None, min_length=1, description="the columns that tell rows apart, for upsert and mirror"
    )

    @model_validator(mode="after")
    def _key_with_table(self) -> Self:
        if self.mode == "append":
            if self.key is not None:
                raise ValueError("key is for mode: upsert or mirror")
        elif self.key is None:
            raise ValueError(f"mode: {self.mode} needs a key, the columns that tell rows apart")
        elif self.format != "table":
            raise ValueError(f"mode: {self.mode} draws a table; leave out format: {self.format}")
        return self


class StdoutDestination(DestinationConnector):
    """Standard output."""

    type = "stdout"
    beside_job = of_command = True
    Config = StdoutConfig
    summary = "Prints rows as a table, NDJSON or CSV, or keeps a table of the newest rows on the terminal."
    example = """\
show:
  type: stdout
  inputs: [orders]
  config: {format: ndjson}
"""

    def capabilities(self) -> DestinationCapabilities:
        reason = "rows are printed immediately, and again after a crash"
        if self.config.key is not None:
            reason = "a table of the rows that this process wrote"
        return DestinationCapabilities(
            Delivery.FLEETING if self.config.key is not None else Delivery.REPEATING,
            reason,
            changelog=True,
            local=True,
        )

    @property
    def mode(self) -> str | None:
        """None: nothing is kept to which rows could be added, or from which a run could delete."""
        return None

    @property
    def keeps_last(self) -> Literal["upsert", "mirror"] | None:
        mode = self.config.mode
        return None if mode == "append" else mode

    def effects(self) -> Sequence[str]:
        if self.config.mode == "upsert":
            return ("shows the newest row of each key; deletes are ignored",)
        if self.config.mode == "mirror":
            return ("shows the newest row of each key, without those that were deleted",)
        return ()

    async def validate(self, schema: Schema) -> None:
        missing = [name for name in self.config.key or () if name not in schema]
        if missing:
            raise ConfigError(
                f"the rows have no column '{missing[0]}', which 'key' names",
                code="E0411",
                step=self.context.step,
                notes=[f"they have: {', '.join(schema.names)}"],
                help="name columns that the rows have",
            )

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        if self.config.key is not None:
            newest = NewestRows(self.config.key, deletes=self.config.mode == "mirror")
            return TableWriter(newest, context.schema, self.config.limit)
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

    takes_at_once = True

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
        text = data.decode("utf-8")
        if not _written(self._runtime, visible(text) if _is_terminal(self._runtime) else text):
            self._closed = True


class TableWriter(Writer):
    """Keeps the newest row of each key. On a terminal the table is drawn again when rows have changed, a few times
    a second; elsewhere it is printed once, at the end."""

    takes_at_once = True

    def __init__(self, newest: NewestRows, schema: Schema, limit: int | None) -> None:
        self._newest, self._schema, self._limit = newest, schema, limit
        self._runtime = current()
        self._screen = Screen() if _is_terminal(self._runtime) else None
        self._due: asyncio.TimerHandle | None = None
        self._unread = False

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        if batch.num_rows <= _INLINE_ROWS:
            self._newest.apply(batch.frame)
        else:
            await in_thread(self._newest.apply, batch.frame)
        if self._screen is not None and self._due is None:
            self._due = asyncio.get_running_loop().call_later(_REDRAW_S, self._show)
        return WriteStats(batch.num_rows)

    async def aclose(self) -> None:
        self._show()

    def _show(self) -> None:
        """Draw or print the table."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._unread:
            return
        rows = self._newest.rows
        if rows is None:
            rows = pl.DataFrame(schema=self._schema.to_polars())
        room = self._screen.room(self._limit) if self._screen is not None else self._limit
        hidden = self._newest.dropped + (0 if room is None else max(0, rows.height - room))
        shown = rows if room is None else rows.tail(room)
        text = _table(self._newest.by_key(shown).select(self._schema.names), self._schema)
        if hidden:
            text += f"and {hidden:,} rows that changed earlier\n"
        if self._screen is not None:
            text = self._screen.drawn(visible(text))
        self._unread = not _written(self._runtime, text)


def _table(rows: pl.DataFrame, schema: Schema) -> str:
    table = TableText()
    lines = table.encode(rows)
    return (table.header(schema) + lines).decode("utf-8")


def _is_terminal(runtime: Runtime) -> bool:
    return (runtime.stdout or sys.stdout).isatty()


def _written(runtime: Runtime, text: str) -> bool:
    """Write the text to the run's standard output; False if its reader has ended."""
    stream = runtime.stdout or sys.stdout
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        if stream is sys.stdout:
            _drop_what_is_left()
        if runtime.on_unread is not None:
            runtime.on_unread()
        return False
    return True


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
