"""The `stdin` source: each line of standard input is a message."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import polars as pl
from pydantic import Field, model_validator

from dataflare.connectors.stdin.lines import Input
from dataflare.errors import ConfigError, DataError, DataFlareError, SystemError_
from dataflare.formats.messages.contract import Decoder
from dataflare.model.progress import Position, Split
from dataflare.model.types import INT64, Schema, timestamp
from dataflare.model.units import Duration, Size
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.brokers.source import BrokerSource
from dataflare.sdk.messages.build import decoder
from dataflare.sdk.messages.config import ValueSourceOptions
from dataflare.sdk.push.framing import TooLong
from dataflare.sdk.source import EndOfSplit, Replay, SourceCapabilities
from dataflare.sdk.threads import in_thread

_SAMPLE = 1_000
TOLD = Schema.of([("line", INT64), ("time", timestamp("us", "UTC"))])
"""What is known of a line beside its text: its number among those that are not empty, and when it was read."""


class StdinConfig(ValueSourceOptions):
    """Options of a `stdin` source."""

    header: bool = Field(False, description="csv: the first line has the names of the columns")
    bounded: bool = Field(
        False,
        description="true: the input has an end, as a file has, and rows are committed when it was read to there: all or "
        "none. false: rows are committed as they come, and a crash loses those that were not",
    )
    max_line: Size = Field(4 << 20, ge=1, description="a longer line is an error")
    wait: Duration = Field(
        10.0,
        gt=0,
        description="how long to wait for the first line, where columns are found in the lines or in the header",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.value_format in ("avro", "protobuf"):
            raise ValueError(f"format: {self.value_format} has bytes, which do not fit in lines")
        if self.format == "cloudevents" and self.cloudevents.mode == "binary":
            raise ValueError("lines have no headers, so cloudevents: {mode: binary} cannot be")
        if self.header and self.value_format != "csv":
            raise ValueError("'header' is for format: csv")
        if self.header and self.csv.columns is not None:
            raise ValueError("'csv: columns' and 'header' both name the columns")
        return self


class _Standard:
    """The standard input of this process, which one step may read."""

    input: Input | None = None
    step = ""


class StdinSource(BrokerSource):
    """Standard input."""

    type = "stdin"
    beside_job = of_command = True
    Config = StdinConfig
    summary = "Reads lines of standard input, as another program writes them into a pipe."
    example = """\
events:
  type: stdin
  config: {format: json}
  schema: {id: int64, event: string}
"""
    told = TOLD
    tries_again = False

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            replay=Replay.NONE,
            replay_reason="what was read from a pipe is gone from it",
            bounded=self.config.bounded,
            chunks=True,
        )

    @property
    def label(self) -> str:
        return "standard input"

    async def validate(self) -> None:
        if sys.stdin is not None and sys.stdin.isatty() and self.contract is None:
            raise ConfigError(
                f"step '{self.context.step}' reads what is typed, and its columns are not known",
                code="E0405",
                step=self.context.step,
                help="list the columns in 'schema', or let another program write: cat FILE | dataflare run ...",
            )
        self._input()

    def _input(self) -> Input:
        """Raises ConfigError (E0405) where another step reads it."""
        standard, step = _Standard, self.context.step
        if standard.input is not None and standard.step not in ("", step):
            raise ConfigError(
                f"steps '{standard.step}' and '{step}' both read standard input, whose lines come once",
                code="E0405",
                step=step,
                help=f"use step '{standard.step}' as the input of both",
            )
        if standard.input is None:
            standard.input = Input(0, int(self.config.max_line))
        standard.step = step
        return standard.input

    async def sample(self) -> Sequence[Message]:
        with _Errors(self.context.step):
            lines = await in_thread(self._input().head, _SAMPLE, self.config.wait)
        return [Message(line, {}, "", len(line)) for line in lines]

    async def schema(self) -> Schema:
        if self.config.header:
            # The header is before the lines that types are found in.
            await self._header()
        return await super().schema()

    async def _header(self) -> Sequence[str]:
        with _Errors(self.context.step):
            line = await in_thread(self._input().take_header, self.config.wait)
        if line is None:
            raise ConfigError(
                f"no line has come from standard input within {self.config.wait:g} s, so the columns are not known",
                code="E0405",
                step=self.context.step,
                help="raise 'wait', or list the columns in 'schema' and leave 'header' out",
            )
        names = _names(line, self.config.csv.delimiter, self.config.csv.quote)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(
                f"the header of standard input names the column '{twice}' twice",
                code="E0405",
                step=self.context.step,
                help="name the columns in 'csv: {columns: [...]}', leave 'header' out, and drop the first row",
            )
        return names

    def needs_sample(self) -> bool:
        return super().needs_sample() or self.config.header

    def value_decoder(self, sample: pl.Series) -> Decoder:
        if not self.config.header:
            return super().value_decoder(sample)
        header = self._input().header or b""
        names = _names(header, self.config.csv.delimiter, self.config.csv.quote)
        options = self.config.csv.model_copy(update={"columns": names})
        return decoder(
            self.config.model_copy(update={"csv": options}),
            self.context,
            topic=self.label,
            contract=self.contract,
            sample=sample,
            learned=self.learned,
        )

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split("stdin", {})]

    async def feed(self, split: Split, position: Position | None) -> Feed:
        return StdinFeed(self._input(), self.context.step, bounded=self.config.bounded)

    async def aclose(self) -> None:
        _Standard.step = ""


class StdinFeed(Feed):
    """The lines that come."""

    def __init__(self, input_: Input, step: str, *, bounded: bool) -> None:
        self._input, self._step, self.bounded = input_, step, bounded

    def position(self) -> Position:
        return Position({"lines": self._input.taken})

    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        first = self._input.taken + 1
        with _Errors(self._step):
            lines = await self._input.take(most, wait_s)
        if lines is None:
            raise EndOfSplit
        now = datetime.now(UTC)
        return [
            Message(line, {"line": n, "time": now}, f"stdin line {n}", len(line) + 128)
            for n, line in enumerate(lines, first)
        ]


def _names(header: bytes, delimiter: str, quote: str | None) -> Sequence[str]:
    text = header.decode("utf-8-sig", "replace")
    if quote is None:
        return text.split(delimiter)
    return next(csv.reader([text], delimiter=delimiter, quotechar=quote))


class _Errors:
    """Convert what reading raises."""

    def __init__(self, step: str) -> None:
        self._step = step

    def __enter__(self) -> None:
        return None

    def __exit__(self, type_: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TooLong):
            raise self._too_long() from error
        if isinstance(error, OSError):
            raise SystemError_(
                f"standard input cannot be read: {error.strerror or error}",
                code="E0607",
                step=self._step,
                help="let another program write into it: cat FILE | dataflare run ...",
            ) from error

    def _too_long(self) -> DataFlareError:
        return DataError(
            "standard input has a line that is longer than 'max_line'",
            code="E0503",
            step=self._step,
            help="raise 'max_line', or see whether the input has lines",
        )
