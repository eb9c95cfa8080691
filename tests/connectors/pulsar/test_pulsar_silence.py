"""A topic that is silent before its last message, by a consumer that is not a real one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from optional_packages import package

from dataflare.errors import Retry, SystemError_
from dataflare.sdk.brokers.reader import Message
from dataflare.sdk.source import EndOfSplit

package("pulsar")
from dataflare.connectors.pulsar.sessions import (  # noqa: E402
    NOWHERE,
    TOLD,
    Came,
    OrderedFeed,
    Place,
)

CONFIG = SimpleNamespace(server="broker:6650", timeout=0.01)


class Consumer:
    """Gives messages at these places, and nothing then."""

    config, topic = CONFIG, "orders"

    def __init__(self, *places: Place) -> None:
        self._left = [
            Came(Message(b"x", dict.fromkeys(TOLD.names), str(place), 1), place, place)
            for place in places
        ]

    async def receive(self, most: int, wait_s: float) -> list[Came]:
        await asyncio.sleep(0)
        taken, self._left = self._left[:most], self._left[most:]
        return taken

    async def last(self) -> Place:
        return (1, 9, -1)


def taken(after: Place, *places: Place) -> int:
    """How many messages come before the split ends."""

    async def take() -> int:
        consumer: Any = Consumer(*places)
        feed, count = OrderedFeed(consumer, after, (1, 9, -1)), 0
        try:
            while True:
                count += len(await feed.take(10, None))
        except EndOfSplit:
            return count

    return asyncio.run(take())


@pytest.mark.parametrize(
    ("after", "places"), [((1, 4, -1), []), (NOWHERE, [(1, 3, -1), (1, 4, -1)])]
)
def test_silence_before_the_last_message_is_an_error(after: Place, places: list[Place]) -> None:
    with pytest.raises(
        SystemError_, match=r"behind message 1:4:-1.* up to message 1:9:-1"
    ) as caught:
        taken(after, *places)
    assert (caught.value.code, caught.value.retry) == ("E0608", Retry.LATER)


def test_the_last_message_is_the_end() -> None:
    assert taken((1, 4, -1), (1, 5, -1), (1, 9, -1)) == 2


def test_a_subscription_that_has_nothing_has_ended() -> None:
    assert taken(NOWHERE) == 0
