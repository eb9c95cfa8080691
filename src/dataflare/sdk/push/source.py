"""A source to which others send. A connector derives from `PushSource`, and brings its fields and its listener.

Always true: there is one split, whose position is a place in the log; what is acknowledged is in the log; messages go
from the log when a checkpoint that has them is committed.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from dataflare.formats.messages.contract import Decoder
from dataflare.formats.messages.envelope import Envelope
from dataflare.model.progress import Position, Split
from dataflare.model.types import INT64, Field, Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.messages.build import decoder, envelope, needs_sample
from dataflare.sdk.messages.letters import SupportsMessages
from dataflare.sdk.push.log import PushLog, first_messages, trim
from dataflare.sdk.push.reader import Listener, LogReader
from dataflare.sdk.source import (
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsCommits,
)
from dataflare.sdk.threads import in_thread

_SAMPLE_MESSAGES = 1_000
_SPLIT = "log"


class PushSource(SourceConnector, SupportsCommits, SupportsMessages):
    """Its Config has `LogConfig`, and `ValueSourceOptions` unless it decodes by itself."""

    fields: ClassVar[Schema]
    """What the log has of a message, in this order; the first is `value`. A later version may add some at the end."""
    finds_new_fields = True

    def __init__(self, config: Any, context: ConnectorContext) -> None:
        super().__init__(config, context)
        self._envelope: Envelope | None = None
        self._temporary: Path | None = None

    @abstractmethod
    def listener(self) -> Listener:
        """What takes the messages. No I/O."""

    @abstractmethod
    def heard_at(self) -> str:
        """Where it listens or what it is connected to, in words for messages: '127.0.0.1:8080/orders'."""

    def capabilities(self) -> SourceCapabilities:
        return self.capabilities_of(
            bounded=False, reason="messages are in a log on disk before they are acknowledged"
        )

    @staticmethod
    def capabilities_of(*, bounded: bool, reason: str) -> SourceCapabilities:
        """Those of every source with a log."""
        return SourceCapabilities(
            replay=Replay.EXACT,
            replay_reason=reason,
            bounded=bounded,
            local=True,
            chunks=True,
            at_once=True,
        )

    def effects(self) -> Sequence[str]:
        return [f"takes messages at {self.heard_at()}"]

    # -- columns -----------------------------------------------------------------------------------

    async def schema(self) -> Schema:
        return (await self.made_envelope()).schema

    async def made_envelope(self) -> Envelope:
        if self._envelope is None:
            self._envelope = await in_thread(self._make_envelope)
        return self._envelope

    def told_of_messages(self) -> Schema:
        return Schema((*self.fields.fields[1:], Field("offset", INT64)))

    def _make_envelope(self) -> Envelope:
        return envelope(self.config, self.context, self._decoder(), self.told_of_messages())

    def _decoder(self) -> Decoder:
        sample = None
        if needs_sample(self.config):
            folder = self._folder()
            messages = first_messages(folder, _SAMPLE_MESSAGES) if folder is not None else []
            sample = pl.Series([message[0] for message in messages], dtype=pl.Binary)
        return decoder(
            self.config,
            self.context,
            topic=self.heard_at(),
            contract=self.contract,
            sample=sample,
            learned=self.learned,
        )

    # -- the log -----------------------------------------------------------------------------------

    def _folder(self) -> Path | None:
        """The log's folder; None for a run that keeps nothing."""
        if self.config.log.path is not None:
            return self.context.path(self.config.log.path)
        if self.context.folder is None:
            return None
        return self.context.folder / "push" / self.context.step

    def _open_log(self) -> PushLog:
        folder = self._folder()
        if self.context.folder is None or folder is None:
            # A preview takes messages, and keeps none.
            folder = self._temporary = Path(tempfile.mkdtemp(prefix="dataflare-"))
        return PushLog(folder, bytes_max=self.config.log.max_size, step=self.context.step)

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split(_SPLIT, {"start": (carried or {}).get(_SPLIT)})]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        if position is None and split.data["start"] is not None:
            position = Position(split.data["start"])
        reader = LogReader(
            self._open_log,
            self.listener,
            await self.made_envelope(),
            self.fields,
            position,
            step=self.context.step,
            bytes_max=self.config.log.max_size,
            skips_lost=self.config.log.lost == "skip",
            closed=self._remove_temporary,
        )
        try:
            await reader.start()
        except BaseException:
            with contextlib.suppress(OSError):
                self._remove_temporary()
            raise
        return reader

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        return {id_: position.value for id_, position in positions.items()}

    async def committed(self, positions: Mapping[str, Position]) -> None:
        folder = self._folder()
        for position in positions.values():
            if folder is not None:
                await in_thread(trim, folder, position.value["offset"])
