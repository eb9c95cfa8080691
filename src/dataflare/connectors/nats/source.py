"""The `nats` source: a stream of JetStream, one split.

Always true: positions are those of the checkpoints; a durable consumer is told what a checkpoint has, and never before.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from dataflare.connectors.nats.client import close, connect, nats_errors
from dataflare.connectors.nats.config import FromSequence, FromTime, NatsSourceConfig
from dataflare.connectors.nats.feeds import (
    TOLD,
    DurableSession,
    Pulling,
    SequenceFeed,
    message_of,
)
from dataflare.errors import ConfigError, SystemError_
from dataflare.model.progress import Position, Split
from dataflare.sdk.brokers.queue import QueueSession, QueueSource
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.source import Replay, SourceCapabilities

_SAMPLE = 200


class _Stream(Struct, frozen=True):
    """What is known of the stream. created: when it was made; another one with its name has another time."""

    created: str
    first: int
    last: int
    messages: int
    is_work_queue: bool


class NatsSource(QueueSource):
    """A stream."""

    type = "nats"
    Config = NatsSourceConfig
    summary = "Reads a stream of NATS JetStream, by its sequence or as a durable consumer."
    example = """\
orders:
  type: nats
  config:
    connection: nats://localhost:4222
    stream: ORDERS
    subject: orders.*
    metadata: [subject, sequence]
  schema: {id: int64, amount: "decimal(12, 2)"}
"""
    told = TOLD
    places_differ = True

    def capabilities(self) -> SourceCapabilities:
        replay, reason = Replay.EXACT, "a stream has its messages by sequence"
        if self.config.durable is not None:
            replay = Replay.REDELIVERED
            reason = "they are acknowledged after it, and known by their sequence"
        return SourceCapabilities(
            replay=replay,
            replay_reason=reason,
            bounded=self.config.stop is not None,
            chunks=True,
            at_once=True,
        )

    def effects(self) -> Sequence[str]:
        if self.config.stop is None:
            return ()
        return ["reads the messages that are there when the run starts; the next run goes on there"]

    @property
    def label(self) -> str:
        return str(self.config.stream)

    # -- what is there -----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        connection = await connect(self.config, self.context)
        try:
            with nats_errors(self.config.server, connection):
                yield connection
        finally:
            await close(connection)

    async def validate(self) -> None:
        await self._stream()

    async def inspect(self) -> Mapping[str, str]:
        stream = await self._stream()
        shown = f"{stream.messages:,} messages, sequence {stream.first:,} to {stream.last:,}"
        return {"server": f"NATS at {self.config.server}", f"stream {self.config.stream}": shown}

    async def _stream(self) -> _Stream:
        async with self._connected() as connection:
            jetstream = connection.jetstream(timeout=self.config.timeout)
            try:
                info = await jetstream.stream_info(self.config.stream)
            except NotFoundError as error:
                raise SystemError_(
                    f"there is no stream '{self.config.stream}' in NATS at {self.config.server}",
                    code="E0604",
                    step=self.context.step,
                    help="look at 'stream'; streams are made with the tools of NATS",
                ) from error
        state = info.state
        found = _Stream(
            str(info.created),
            int(state.first_seq),
            int(state.last_seq),
            int(state.messages),
            info.config.retention == "workqueue",
        )
        if found.is_work_queue and self.config.durable is None:
            raise ConfigError(
                f"stream '{self.config.stream}' is a work queue, which is read by a durable consumer",
                code="E0405",
                step=self.context.step,
                help="name one: durable: dataflare",
            )
        return found

    # -- columns -----------------------------------------------------------------------------------

    async def sample(self) -> Sequence[Message]:
        found: list[Message] = []
        async with self._connected() as connection:
            jetstream = connection.jetstream(timeout=self.config.timeout)
            sequence = 1
            while len(found) < _SAMPLE:
                try:
                    raw = await jetstream.get_msg(
                        self.config.stream, sequence, self.config.subject or ">", next=True
                    )
                except NotFoundError:
                    break
                found.append(Message(raw.data or b"", {}, "", 0))
                sequence = raw.seq + 1
        return found

    # -- splits ------------------------------------------------------------------------------------

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        stream, name = await self._stream(), self.config.stream
        at = (carried or {}).get(name)
        if at is not None:
            self._check_created(at["created"], stream)
        if self.config.durable is not None:
            stop = None
            if self.config.stop is not None:
                stop = await self._pending()
            return [self.queue_split(name, carried, stop, created=stream.created)]
        after = int(at["sequence"]) if at is not None else await self._start(stream)
        data = {"after": after, "was_read": at is not None, "created": stream.created}
        stop = stream.last if self.config.stop is not None else None
        return [Split(name, {**data, "stop": stop})]

    def _check_created(self, created: str, stream: _Stream) -> None:
        if created != stream.created:
            raise SystemError_(
                f"stream '{self.config.stream}' of NATS at {self.config.server} was deleted and made again: the place "
                "up to which it was read belongs to the old one",
                code="E0605",
                step=self.context.step,
                help="run with --fresh to read the new stream from its start",
            )

    async def _start(self, stream: _Stream) -> int:
        """The sequence of the last message before those that the first run reads."""
        start = self.config.start
        if isinstance(start, FromSequence):
            return start.sequence - 1
        if start == "latest":
            return stream.last
        if isinstance(start, FromTime):
            return await self._before(stream)
        return stream.first - 1

    async def _before(self, stream: _Stream) -> int:
        """The sequence before the first message at or after the time of `start`."""
        async with self._connected() as connection:
            pulling = Pulling(connection, self.config, self.context.step)
            await pulling.begin(
                ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=5.0, **self._deliver())
            )
            found = await pulling.fetch(1, 0.5)
        return int(message_of(found[0]).told["sequence"]) - 1 if found else stream.last

    def _deliver(self) -> dict[str, Any]:
        """Where a new consumer begins."""
        start = self.config.start
        if isinstance(start, FromSequence):
            return {
                "deliver_policy": DeliverPolicy.BY_START_SEQUENCE,
                "opt_start_seq": start.sequence,
            }
        if isinstance(start, FromTime):
            # Times of messages have nanoseconds, and `start` and the column have microseconds, rounded.
            return {
                "deliver_policy": DeliverPolicy.BY_START_TIME,
                "opt_start_time": start.time - timedelta(microseconds=1),
            }
        policy = DeliverPolicy.NEW if start == "latest" else DeliverPolicy.ALL
        return {"deliver_policy": policy}

    async def _pending(self) -> int:
        """How many messages the durable consumer has not acknowledged."""
        async with self._connected() as connection:
            session = DurableSession(Pulling(connection, self.config, self.context.step))
            await session.begin(self._deliver())
            return await session.unacknowledged()

    async def feed(self, split: Split, position: Position | None) -> Feed:
        if self.config.durable is not None:
            self._check_created(split.data["created"], await self._stream())
            return await super().feed(split, position)
        at = split.data if position is None else position.value
        self._check_created(at["created"], await self._stream())
        connection = await connect(self.config, self.context)
        made = SequenceFeed(
            Pulling(connection, self.config, self.context.step),
            after=int(at["after"] if position is None else at["sequence"]),
            was_read=position is not None or split.data["was_read"],
            stop=split.data["stop"],
            created=at["created"],
        )
        try:
            await made.begin()
        except BaseException:
            await made.aclose()
            raise
        return made

    def about(self, split: Split) -> Mapping[str, Any]:
        return {"created": split.data["created"]}

    async def session(self, split: Split) -> tuple[QueueSession, int]:
        connection = await connect(self.config, self.context)
        made = DurableSession(Pulling(connection, self.config, self.context.step))
        try:
            return made, await made.begin(self._deliver())
        except BaseException:
            await made.aclose()
            raise

    # -- positions ---------------------------------------------------------------------------------

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        names = ("given", "seen", "created") if self.config.durable else ("sequence", "created")
        return {id_: {n: p.value[n] for n in names} for id_, p in positions.items()}

    async def committed(self, positions: Mapping[str, Position]) -> None:
        if self.config.durable is not None:
            await super().committed(positions)

    def end_of(self, split: Split) -> Position | None:
        data = split.data
        if data["stop"] is None or self.config.durable is not None:
            return None
        end = max(data["after"], data["stop"])
        return Position({"sequence": end, "created": data["created"], "number": 0})
