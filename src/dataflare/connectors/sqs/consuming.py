"""Receive the messages of one queue, keep them from other consumers, and delete them.

Always true: a message that was received and not deleted is extended before others see it, until the session ends; a
message is deleted after the checkpoint that has it. What is not deleted when a session ends is given back at once.

It has threads of its own, because a request waits for messages, and other calls of a run must not wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

from dataflare.connectors.sqs.client import AT_ONCE, CALLS, POLL_S, Queue
from dataflare.connectors.sqs.config import SqsSourceConfig
from dataflare.errors import DataFlareError, Retry
from dataflare.formats.messages.envelope import HEADERS
from dataflare.model.types import INT32, STRING, Schema, timestamp
from dataflare.sdk.brokers.queue import Delivered, QueueSession
from dataflare.sdk.brokers.reader import Message

_LOOK_S = 0.1
"""How long a source with an end waits before it asks an empty queue again."""
_TIME = timestamp("ms", "UTC")
TOLD = Schema.of(
    [
        ("id", STRING),
        ("queue", STRING),
        ("group", STRING),
        ("deduplication_id", STRING),
        ("sequence", STRING),
        ("timestamp", _TIME),
        ("first_received", _TIME),
        ("receive_count", INT32),
        ("sender", STRING),
        ("headers", HEADERS),
    ]
)
"""What SQS says of a message beside its body."""


def message_of(raw: Mapping[str, Any], queue: str) -> Message:
    """raw: as the client has it."""
    body, about = raw["Body"].encode(), raw.get("Attributes", {})
    told = {
        "id": raw["MessageId"],
        "queue": queue,
        "group": about.get("MessageGroupId"),
        "deduplication_id": about.get("MessageDeduplicationId"),
        "sequence": about.get("SequenceNumber"),
        "timestamp": _time(about.get("SentTimestamp")),
        "first_received": _time(about.get("ApproximateFirstReceiveTimestamp")),
        "receive_count": int(about.get("ApproximateReceiveCount", 0)),
        "sender": about.get("SenderId"),
        "headers": _headers(raw.get("MessageAttributes")),
    }
    return Message(body, told, f"{queue} message {raw['MessageId']}", len(body) + 256)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromtimestamp(int(text) / 1000, UTC)


def _headers(attributes: Mapping[str, Any] | None) -> list[dict[str, Any]] | None:
    if not attributes:
        return None
    return [{"key": name, "value": _bytes(attributes[name])} for name in sorted(attributes)]


def _bytes(attribute: Mapping[str, Any]) -> bytes:
    if "BinaryValue" in attribute:
        return bytes(attribute["BinaryValue"])
    return str(attribute["StringValue"]).encode()


class Consuming(QueueSession):
    """A queue that is read. bounded: whether reading ends when the queue is empty."""

    def __init__(self, queue: Queue, config: SqsSourceConfig, *, bounded: bool) -> None:
        self._queue, self._config, self._bounded = queue, config, bounded
        self.redelivers_s = config.visibility * 2
        self._threads = ThreadPoolExecutor(CALLS + 2, thread_name_prefix="sqs")
        self._waiting: deque[Delivered] = deque()
        self._polls: set[asyncio.Future[list[Mapping[str, Any]]]] = set()
        self._polls_max, self._quiet = 1, False
        self._held: dict[str, float] = {}
        """By receipt, until when no other consumer sees the message."""
        self._to_delete: list[str] = []
        self._asked = self._deleted = 0
        self._deleting = asyncio.Lock()
        self._failure: DataFlareError | None = None
        self._extending = asyncio.create_task(self._extend_in_time())

    @property
    def wants_checkpoint(self) -> bool:
        """A group of a FIFO queue gives nothing more until its messages are deleted."""
        return self._queue.is_fifo

    async def _call(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    # -- receiving ---------------------------------------------------------------------------------

    async def receive(self, most: int, wait_s: float) -> Sequence[Delivered]:
        if self._failure is not None:
            raise self._failure
        if self._to_delete:
            await self._delete()
        if not self._waiting:
            self._poll(most)
            await asyncio.wait(self._polls, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        self._collect()
        found = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        if found and not self._quiet:
            self._poll(most - len(found))
        return found

    def _poll(self, room: int) -> None:
        """Ask for more messages, for so many in all."""
        room -= len(self._waiting) + AT_ONCE * len(self._polls)
        while len(self._polls) < self._polls_max and (room > 0 or not self._polls):
            count = min(AT_ONCE, max(room, 1))
            room -= count
            self._polls.add(asyncio.ensure_future(self._polled(count)))

    async def _polled(self, count: int) -> list[Mapping[str, Any]]:
        if self._bounded and self._quiet:
            await asyncio.sleep(_LOOK_S)
        until = asyncio.get_running_loop().time() + self._config.visibility
        answer = await self._call(
            lambda: self._queue.ask(
                "receive_message",
                MaxNumberOfMessages=count,
                WaitTimeSeconds=0 if self._bounded else POLL_S,
                VisibilityTimeout=int(self._config.visibility),
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        )
        found: list[Mapping[str, Any]] = answer.get("Messages", [])
        self._held |= dict.fromkeys((raw["ReceiptHandle"] for raw in found), until)
        return found

    def _collect(self) -> None:
        """Take what was received. Raises what a request did."""
        done = [poll for poll in self._polls if poll.done()]
        self._polls.difference_update(done)
        for poll in done:
            if poll.exception() is None:
                found = poll.result()
                self._waiting.extend(map(self._delivered, found))
                self._quiet = not found
                more = self._polls_max * 2 if len(found) == AT_ONCE else self._polls_max
                self._polls_max = min(CALLS, more) if found else 1
        for poll in done:
            poll.result()

    def _delivered(self, raw: Mapping[str, Any]) -> Delivered:
        message = message_of(raw, self._queue.name)
        return Delivered(message, self._id(raw, message), raw["ReceiptHandle"])

    def _id(self, raw: Mapping[str, Any], message: Message) -> str:
        """What tells it from all others; the id that SQS gave where it has no other one."""
        name, told = self._config.id, message.told
        if name == "message_id":
            # A producer may set an attribute of this name, with the same value for several messages.
            return str(told["id"])
        if name == "deduplication_id":
            return f"{told['group']}\n{told['deduplication_id']}"
        attribute = raw.get("MessageAttributes", {}).get(name)
        if attribute is None:
            return str(told["id"])
        return f"{name}\n{_bytes(attribute).hex()}"

    async def is_empty(self) -> bool:
        """What another consumer has is waited for: it is deleted, or comes again. SQS's numbers are about right."""
        state = await self._call(self._queue.state)
        return not self._waiting and state.visible + state.received <= len(self._held)

    # -- acknowledging -----------------------------------------------------------------------------

    async def acknowledge(self, tags: Sequence[Any]) -> int:
        self._asked += len(tags)
        self._to_delete.extend(tags)
        await self._delete()
        if not self._to_delete:
            self._deleted = self._asked
        return self._deleted

    async def _delete(self) -> None:
        """Delete what is to be deleted. What SQS does not delete now is tried again with the next."""
        async with self._deleting:
            receipts, self._to_delete = self._to_delete, []
            left: Sequence[str] = receipts
            try:
                left = await self._batches("delete_message_batch", receipts, {})
            finally:
                self._to_delete[:0] = left
            for receipt in set(receipts).difference(left):
                self._held.pop(receipt, None)

    async def _batches(
        self, call: str, receipts: Sequence[str], more: Mapping[str, Any]
    ) -> Sequence[str]:
        """Say the same of many messages. Gives those for which it is worth saying again."""
        parts = [
            self._call(partial(self._batch, call, receipts[start : start + AT_ONCE], more))
            for start in range(0, len(receipts), AT_ONCE)
        ]
        left: list[str] = []
        for found in await asyncio.gather(*parts):
            left += found
        return left

    def _batch(self, call: str, receipts: Sequence[str], more: Mapping[str, Any]) -> Sequence[str]:
        entries = [
            {"Id": str(at), "ReceiptHandle": receipt, **more} for at, receipt in enumerate(receipts)
        ]
        try:
            answer = self._queue.ask(call, Entries=entries)
        except DataFlareError as error:
            if error.retry is Retry.NEVER:
                raise
            return receipts
        # A receipt that SQS refuses is one of a message that was deleted, or that was given to others since.
        return [
            receipts[int(each["Id"])]
            for each in answer.get("Failed", ())
            if not each["SenderFault"]
        ]

    # -- visibility --------------------------------------------------------------------------------

    async def _extend_in_time(self) -> None:
        """Until it is cancelled."""
        loop, visibility = asyncio.get_running_loop(), self._config.visibility
        while True:
            await asyncio.sleep(visibility / 4)
            begin = loop.time()
            due = [
                receipt for receipt, until in self._held.items() if until < begin + visibility / 2
            ]
            try:
                left = await self._change(due, int(visibility))
            except DataFlareError as error:
                self._failure = error
                return
            for receipt in set(due).difference(left) & self._held.keys():
                self._held[receipt] = begin + visibility

    async def _change(self, receipts: Sequence[str], visibility_s: int) -> Sequence[str]:
        more = {"VisibilityTimeout": visibility_s}
        return await self._batches("change_message_visibility_batch", receipts, more)

    async def stop(self) -> None:
        if self._polls:
            await asyncio.wait(self._polls)
        for poll in self._polls:
            if poll.exception() is None:
                self._waiting.extend(map(self._delivered, poll.result()))
        self._polls.clear()
        unread = [each.tag for each in self._waiting]
        self._waiting.clear()
        await self._give_back(unread)

    async def _give_back(self, receipts: Sequence[str]) -> None:
        """Let others see messages now. Where that fails they see them when the time is over."""
        for receipt in receipts:
            self._held.pop(receipt, None)
        try:
            await self._change(receipts, 0)
        except DataFlareError:
            return

    async def aclose(self) -> None:
        self._extending.cancel()
        await self.stop()
        try:
            await self._delete()
        except DataFlareError:
            self._to_delete.clear()  # they come again, and are known
        await self._give_back(list(self._held))
        self._threads.shutdown(wait=False)
        self._queue.close()
