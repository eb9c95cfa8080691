"""Read a queue whose broker wants an acknowledgement for each message.

A session lives until the source is closed, longer than the readers: a broker takes acknowledgements only over the
connection that delivered, and the last checkpoint is committed when the readers have ended.

Always true: the messages that are delivered and not acknowledged are never more than the limit; a message is
acknowledged after the checkpoint that has it. What is not acknowledged when a session ends is delivered again.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from dataflare.model.progress import Position, Split
from dataflare.sdk.brokers.ledger import NOTHING, Ledger
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.brokers.source import BrokerSource
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.source import EndOfSplit, SupportsCommits

_LOOK_S = 0.5


class Delivered(Struct, frozen=True):
    """A message as it came. id: what tells it from all others, if anything does. tag: by which it is acknowledged."""

    message: Message
    id: str | None
    tag: Any


class QueueSession(ABC):
    """A connection to a queue. Of one event loop."""

    redelivers_s: float = 0.0
    """After how many seconds the broker delivers again what an earlier session did not acknowledge, at the latest; 0: at
    once, before it delivers anything else."""

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the broker gives nothing more of some kind until what was given is acknowledged."""
        return False

    @abstractmethod
    async def receive(self, most: int, wait_s: float) -> Sequence[Delivered]:
        """What was delivered, at most so many; waits so long at most until there is one. Raises SystemError_ when
        the connection is gone."""

    @abstractmethod
    async def acknowledge(self, tags: Sequence[Any]) -> int:
        """The broker may forget these. Where the connection is gone nothing happens: they are delivered again. Returns how
        many of all tags of the session, from the first on, the broker has certainly taken by now. Not called twice at
        the same time."""

    async def is_empty(self) -> bool:
        """Whether the broker has nothing to deliver, for a source with an end."""
        return False

    async def stop(self) -> None:
        """Receive no more; acknowledgements go on."""

    @abstractmethod
    async def aclose(self) -> None:
        """End the connection."""


class QueueFeed(Feed):
    """limit: how many messages may be without an acknowledgement. stop: after how many messages it ends, or None.
    start: how many were given before the first. about: what else its positions have.
    expects_ids: whether users are told of messages without an id."""

    def __init__(
        self,
        session: QueueSession,
        ledger: Ledger,
        *,
        limit: int,
        start: int,
        stop: int | None,
        name: str,
        about: Mapping[str, Any],
        expects_ids: bool,
    ) -> None:
        self._expects_ids, self._nameless = expects_ids, 0
        self._about = about
        self.session, self._ledger, self._limit = session, ledger, limit
        self._stop, self._name = None if stop is None else start + stop, name
        self.bounded = stop is not None
        self._room = asyncio.Event()
        self._acknowledging = asyncio.Lock()
        self._remembers_until: float | None = None
        self._came_after = 0

    @property
    def warnings(self) -> Mapping[str, int]:
        told = {
            f"{self._name}: messages that were delivered again were left out": self._ledger.repeated,
            f"{self._name}: messages without an id, which may come twice": self._nameless,
        }
        return {text: number for text, number in told.items() if number}

    @property
    def wants_checkpoint(self) -> bool:
        waiting = self._ledger.unacknowledged
        return waiting * 2 >= self._limit or (waiting > 0 and self.session.wants_checkpoint)

    def position(self) -> Position:
        return Position({**self._about, **self._ledger.position()})

    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        loop = asyncio.get_running_loop()
        end = None if wait_s is None else loop.time() + wait_s
        while True:
            left_s = _LOOK_S if end is None else max(0.0, min(_LOOK_S, end - loop.time()))
            if self._stop is not None:
                most = min(most, self._stop - self._ledger.given)
            if most <= 0:
                raise EndOfSplit
            room = self._limit - self._ledger.unacknowledged
            if room > 0:
                asked_at = loop.time()
                found = await self.session.receive(min(most, room), left_s)
                self._forget_in_time(asked_at, len(found), waited=left_s >= _LOOK_S)
            else:
                found = ()
                await self._wait_room(left_s)
            given = [each.message for each in found if self._ledger.admit(each.id, each.tag)]
            if not self._acknowledging.locked():  # else it is done with the next
                await self._acknowledge()
            if self._expects_ids:
                self._nameless += sum(each.id is None for each in found)
            if given or (end is not None and loop.time() >= end):
                return given
            if not found and room > 0 and self.bounded and await self.session.is_empty():
                raise EndOfSplit

    def _forget_in_time(self, asked_at: float, received: int, *, waited: bool) -> None:
        """What an earlier session left is delivered when its time is over, before what came later. So it has come when
        there was nothing to receive, or as many messages as can be without an acknowledgement."""
        if self._remembers_until is None:
            self._remembers_until = asked_at + self.session.redelivers_s
        if asked_at < self._remembers_until or self._came_after >= self._limit:
            return
        self._came_after += received
        if waited and not received:
            self._came_after = self._limit
        if self._came_after >= self._limit:
            self._ledger.may_forget()

    async def _wait_room(self, wait_s: float) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._room.wait()
        except TimeoutError:
            return

    async def committed(self, given: int) -> None:
        """A checkpoint has the first `given` messages."""
        self._ledger.committed(given)
        await self._acknowledge()

    async def _acknowledge(self) -> None:
        """Also what came again, and is in a checkpoint that is committed already."""
        async with self._acknowledging:
            tags = self._ledger.acknowledged()
            if tags:
                self._room.set()
                crash_point("broker.before_acknowledge")
                self._ledger.settled(await self.session.acknowledge(tags))

    async def aclose(self) -> None:
        await self.session.stop()


class QueueSource(BrokerSource, SupportsCommits):
    """A source whose splits are queues."""

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self._feeds: dict[str, QueueFeed] = {}
        self._committed: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_feeds": {}}

    @abstractmethod
    async def session(self, split: Split) -> tuple[QueueSession, int]:
        """A new session, and how many messages it may have without an acknowledgement."""

    async def sample(self) -> Sequence[Message]:
        return ()

    @property
    def expects_ids(self) -> bool:
        """Whether each message should have an id, so that one without is told."""
        return True

    def about(self, split: Split) -> Mapping[str, Any]:
        """What positions have beside what was given, to know the queue again."""
        return {}

    @property
    def window(self) -> int:
        """How many ids of acknowledged messages are remembered."""
        return int(self.config.window)

    def queue_split(
        self, id_: str, carried: Mapping[str, Any] | None, stop: int | None, **data: Any
    ) -> Split:
        """carried: as the last run gave it. stop: how many messages are read, or None."""
        at = (carried or {}).get(id_, NOTHING)
        return Split(id_, {**data, "at": dict(at), "stop": stop})

    async def feed(self, split: Split, position: Position | None) -> Feed:
        before = self._feeds.pop(split.id, None)
        if before is not None:
            await before.session.aclose()
        session, limit = await self.session(split)
        at = split.data["at"] if position is None else position.value
        made = QueueFeed(
            session,
            Ledger(
                at,
                self.window,
                self._committed.get(split.id, int(split.data["at"]["given"])),
            ),
            limit=limit,
            start=int(split.data["at"]["given"]),
            stop=split.data["stop"],
            name=split.id,
            about=self.about(split),
            expects_ids=self.expects_ids,
        )
        self._feeds[split.id] = made
        return made

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        names = ("given", "seen")
        return {id_: {n: p.value[n] for n in names} for id_, p in positions.items()}

    async def committed(self, positions: Mapping[str, Position]) -> None:
        for id_, position in positions.items():
            given = self._committed[id_] = int(position.value["given"])
            feed = self._feeds.get(id_)
            if feed is not None:
                await feed.committed(given)

    async def aclose(self) -> None:
        feeds, self._feeds = self._feeds, {}
        for feed in feeds.values():
            await feed.session.aclose()
