"""Read what a service gives only when it is asked: requests on threads, one after the other.

Always true: messages are given in the order of the answers; a feed that comes to its end gives a position that says so before it
ends, also where nothing was read.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Literal

from botocore.exceptions import ClientError
from msgspec import Struct

from dataflare.sdk.aws.client import BUSY, aws_errors, code_of
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.source import EndOfSplit

_BUSY_S, _BUSY_MAX_S = 0.25, 10.0
_REFRESH_S = 1_800.0
"""How old the position becomes where nothing happens: by its time it is known whether messages were removed meanwhile."""


Over = Literal["no", "at_stop", "for_ever"]
"""Whether more will come: a run may read no further, or there is no more for any run."""


class Answer(Struct, frozen=True):
    """What a request gave. again_s: how long to wait before the next one, where this one gave no message."""

    messages: Sequence[Message]
    over: Over = "no"
    again_s: float = 0.0


class PolledFeed(Feed):
    """place, option: of the system and the option that names what is read, for errors. ended: earlier runs have read all."""

    def __init__(self, threads: Executor, place: str, option: str, *, ended: bool) -> None:
        self._threads, self._place, self._option = threads, place, option
        self._waiting: Sequence[Message] = ()
        self._not_before = 0.0
        self._gave_at = time.monotonic()
        self._over: Over = "for_ever" if ended else "no"
        self._told_end = False

    @abstractmethod
    def _get(self) -> Answer:
        """Make the next request. On a thread. May raise the client's exceptions."""

    @abstractmethod
    def _gave(self, last: Message) -> None:
        """This message was the last that was taken."""

    @property
    def is_at_end(self) -> bool:
        """Whether all was given that will ever be there."""
        return self._over == "for_ever" and not self._waiting

    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        loop = asyncio.get_running_loop()
        end = None if wait_s is None else loop.time() + wait_s
        while not self._waiting:
            if self._told_end:
                raise EndOfSplit
            if self._over != "no":
                self._told_end = True
                return []
            if end is None and time.monotonic() - self._gave_at > _REFRESH_S:
                self._gave_at = time.monotonic()
                return []
            pause = self._not_before - loop.time()
            if end is not None and loop.time() + max(pause, 0) >= end:
                await asyncio.sleep(max(0.0, end - loop.time()))
                return []
            if pause > 0:
                await asyncio.sleep(pause)
            answer = await loop.run_in_executor(self._threads, self._asked)
            self._waiting, self._over = answer.messages, answer.over
            if not self._waiting:
                self._not_before = loop.time() + answer.again_s
        found, self._waiting = self._waiting[:most], self._waiting[most:]
        self._gave(found[-1])
        self._gave_at = time.monotonic()
        return found

    def _asked(self) -> Answer:
        busy_s = _BUSY_S
        while True:
            with aws_errors(self._place, self._option):
                try:
                    return self._get()
                except ClientError as error:
                    if code_of(error) not in BUSY or busy_s > _BUSY_MAX_S:
                        raise
            time.sleep(busy_s)
            busy_s *= 2
