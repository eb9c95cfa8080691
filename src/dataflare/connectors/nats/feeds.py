"""Read a stream: by its sequence, or as a durable consumer that acknowledges.

Always true: read by its sequence, a stream gives its messages in order, and a position is a sequence; no message is
passed over unless `lost_messages` is skip, and then it is told how many were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from nats import errors as said
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from dataflare.connectors.nats.client import close, nats_errors
from dataflare.connectors.nats.config import NatsSourceConfig
from dataflare.errors import Retry, SystemError_
from dataflare.formats.messages.envelope import HEADERS
from dataflare.model.progress import Position
from dataflare.model.types import INT64, STRING, Schema, timestamp
from dataflare.sdk.brokers.queue import Delivered, QueueSession
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.source import EndOfSplit

TOLD = Schema.of(
    [
        ("subject", STRING),
        ("sequence", INT64),
        ("timestamp", timestamp("us", "UTC")),
        ("id", STRING),
        ("headers", HEADERS),
    ]
)
"""What NATS says of a message beside its value."""
_WAIT_S = 1.0
_INACTIVE_S = 60.0
MSG_ID = "Nats-Msg-Id"


def message_of(raw: Any) -> Message:
    """raw: as the client has it."""
    about = raw.metadata
    headers = raw.headers or {}
    told = {
        "subject": raw.subject,
        "sequence": about.sequence.stream,
        "timestamp": about.timestamp,
        "id": headers.get(MSG_ID),
        "headers": [{"key": name, "value": value.encode()} for name, value in headers.items()]
        if headers
        else None,
    }
    place = f"{about.stream} sequence {about.sequence.stream}"
    return Message(raw.data, told, place, len(raw.data) + 128)


class Pulling:
    """Asks a consumer for messages. consumer: how it is made; name: of one that is there."""

    def __init__(self, connection: Any, config: NatsSourceConfig, step: str) -> None:
        self.connection, self.config, self.step = connection, config, step
        self._jetstream = connection.jetstream(timeout=config.timeout)
        self._subscription: Any = None

    async def begin(self, made: ConsumerConfig) -> None:
        with nats_errors(self.config.server, self.connection):
            self._subscription = await self._jetstream.pull_subscribe(
                self.config.subject or "",
                durable=made.durable_name,
                stream=self.config.stream,
                config=made,
            )

    async def fetch(self, most: int, wait_s: float) -> list[Any]:
        """Messages, or none when there was none so long. Raises SystemError_ where the consumer is gone."""
        with nats_errors(self.config.server, self.connection):
            try:
                found: list[Any] = await self._subscription.fetch(most, timeout=max(wait_s, 0.01))
            except (TimeoutError, said.TimeoutError):
                return []
        return found

    async def info(self) -> Any:
        """What the server says of the consumer. Raises where the connection is broken or the consumer is gone."""
        with nats_errors(self.config.server, self.connection):
            try:
                return await self._subscription.consumer_info()
            except NotFoundError as error:
                raise SystemError_(
                    f"the consumer of stream '{self.config.stream}' of NATS at {self.config.server} is gone",
                    code="E0607",
                    step=self.step,
                    retry=Retry.LATER,
                    help="see whether the server was restarted, or the consumer was deleted",
                ) from error

    async def first_sequence(self) -> int:
        """The first sequence that the stream still has."""
        with nats_errors(self.config.server, self.connection):
            info = await self._jetstream.stream_info(self.config.stream)
        return int(info.state.first_seq)


class SequenceFeed(Feed):
    """after: the sequence of the last message before those to read; was_read: whether it was read up to there. stop: the
    last sequence to read, or None. created: when the stream was made."""

    def __init__(
        self,
        pulling: Pulling,
        *,
        after: int,
        was_read: bool,
        stop: int | None,
        created: str,
    ) -> None:
        self._pulling, self._config = pulling, pulling.config
        self._after, self._was_read, self._stop, self._created = after, was_read, stop, created
        self.bounded = stop is not None
        self._warnings: dict[str, int] = {}

    @property
    def warnings(self) -> Mapping[str, int]:
        return self._warnings

    async def begin(self) -> None:
        await self._pulling.begin(
            ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._after + 1,
                ack_policy=AckPolicy.NONE,
                inactive_threshold=_INACTIVE_S,
                filter_subject=self._config.subject,
            )
        )
        await self._check_lost(None)

    def position(self) -> Position:
        return Position({"sequence": self._after, "created": self._created})

    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        loop = asyncio.get_running_loop()
        end = None if wait_s is None else loop.time() + wait_s
        while True:
            if self._stop is not None and self._after >= self._stop:
                raise EndOfSplit
            left_s = _WAIT_S if end is None else min(_WAIT_S, end - loop.time())
            if left_s <= 0:
                return []
            found = await self._pulling.fetch(most, left_s)
            if found:
                return await self._given([message_of(each) for each in found])
            if left_s >= _WAIT_S or self._stop is not None:
                await self._pulling.info()
            if self._stop is not None and await self._is_read():
                raise EndOfSplit

    async def _given(self, messages: list[Message]) -> Sequence[Message]:
        first = messages[0].told["sequence"]
        if first > self._after + 1 and (self._was_read or self._config.start == "earliest"):
            await self._check_lost(first)
        if self._stop is not None:
            stop = self._stop
            messages = [each for each in messages if each.told["sequence"] <= stop]
            if not messages:
                self._after = stop
                raise EndOfSplit
        self._after, self._was_read = messages[-1].told["sequence"], True
        return messages

    async def _check_lost(self, until: int | None) -> None:
        """Whether messages behind the position are gone. until: the sequence of the next one that came."""
        if not self._was_read:
            return
        oldest = await self._pulling.first_sequence()
        lost = min(oldest, oldest if until is None else until) - self._after - 1
        if lost <= 0:
            return
        config = self._config
        some = "" if config.subject is None else ", of any subject"
        if config.lost_messages == "fail":
            raise SystemError_(
                f"{lost:,} messages of stream '{config.stream}' of NATS at {config.server} were removed before they "
                f"were read{some}",
                code="E0605",
                step=self._pulling.step,
                help="keep more in the stream (max_msgs, max_age), and set lost_messages: skip to go on with the oldest",
            )
        text = f"{config.stream}: messages were removed from the stream before they were read"
        self._warnings[text] = self._warnings.get(text, 0) + lost
        self._after += lost

    async def _is_read(self) -> bool:
        """Whether no message up to the stop is left, where the last ones are of other subjects or were deleted."""
        info = await self._pulling.info()
        return int(info.num_pending or 0) == 0

    async def aclose(self) -> None:
        await close(self._pulling.connection)


class DurableSession(QueueSession):
    """A durable consumer. The server confirms each acknowledgement."""

    def __init__(self, pulling: Pulling) -> None:
        self._pulling = pulling
        self._quiet = self._open = 0
        self._confirmations: Any = None
        self._unconfirmed = self._asked = self._settled = 0
        self._confirmed = asyncio.Event()

    async def begin(self, deliver: Mapping[str, Any]) -> int:
        """Make the consumer, or find it. deliver: where a new one begins. Gives how many messages it leaves without
        an acknowledgement."""
        config = self._pulling.config
        made = ConsumerConfig(
            durable_name=config.durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=config.ack_wait,
            max_ack_pending=config.prefetch,
            filter_subject=config.subject,
            **deliver,
        )
        await self._pulling.begin(made)
        info = await self._pulling.info()
        # A consumer that was there before has its own times.
        waits_s = (info.config.ack_wait or config.ack_wait, *(info.config.backoff or ()))
        self.redelivers_s = 2 * max(waits_s)
        connection = self._pulling.connection
        self._confirmations = await connection.subscribe(connection.new_inbox(), cb=self._confirm)
        return int(info.config.max_ack_pending or config.prefetch)

    async def _confirm(self, _: Any) -> None:
        self._unconfirmed -= 1
        if self._unconfirmed == 0:
            self._confirmed.set()

    async def receive(self, most: int, wait_s: float) -> Sequence[Delivered]:
        found = await self._pulling.fetch(most, wait_s)
        if not found:
            self._quiet += 1
            if self._quiet % 2 == 0:
                await self._pulling.info()
            return ()
        self._quiet = 0
        self._open += len(found)
        given = [(message_of(each), each) for each in found]
        return [Delivered(m, str(m.told["sequence"]), raw) for m, raw in given]

    async def acknowledge(self, tags: Sequence[Any]) -> int:
        self._open -= len(tags)
        self._asked += len(tags)
        connection = self._pulling.connection
        if connection.is_closed:
            return self._settled
        # The server may confirm only the last of several deliveries of one message.
        lasts = {raw.metadata.sequence.stream: raw.reply for raw in tags}
        self._unconfirmed = len(lasts)
        self._confirmed.clear()
        try:
            for reply in lasts.values():
                await connection.publish(reply, reply=self._confirmations.subject)
            async with asyncio.timeout(self._pulling.config.timeout):
                await connection.flush(self._pulling.config.timeout)
                await self._confirmed.wait()
            self._settled = self._asked
        except (said.Error, OSError):
            await close(connection)  # the reader sees it, and reads again what was not acknowledged
        return self._settled

    async def is_empty(self) -> bool:
        """What another reader has not acknowledged is delivered again, and waited for."""
        return await self.unacknowledged() <= self._open

    async def unacknowledged(self) -> int:
        """How many messages the consumer has to deliver, or has delivered without an acknowledgement."""
        info = await self._pulling.info()
        return int(info.num_pending or 0) + int(info.num_ack_pending or 0)

    async def aclose(self) -> None:
        await close(self._pulling.connection)
