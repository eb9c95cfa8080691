"""Which messages of a queue are given and acknowledged, over crashes at any moment."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from dataflare.sdk.brokers.ledger import NOTHING, Ledger


class Broker:
    """Delivers what was not acknowledged again to a new connection. shuffles: in any order."""

    def __init__(self, messages: int, rng: random.Random, shuffles: bool) -> None:
        self._shuffles = shuffles
        self._left = list(range(messages))
        self._rng = rng
        self.acknowledged: set[int] = set()
        self.connect()

    def connect(self) -> None:
        self._to_deliver = [m for m in self._left if m not in self.acknowledged]
        if self._shuffles:
            self._rng.shuffle(self._to_deliver)

    def deliver(self, most: int) -> list[int]:
        taken, self._to_deliver = self._to_deliver[:most], self._to_deliver[most:]
        return taken

    def acknowledge(self, messages: list[int], *, lost_after: int) -> None:
        """The connection is lost after so many."""
        self.acknowledged |= set(messages[:lost_after])


@given(st.integers(0, 10**6))
def test_each_message_is_in_one_checkpoint_and_acknowledged_after_it(seed: int) -> None:
    rng = random.Random(seed)
    total = rng.randint(1, 60)
    window = rng.choice([0, 3, 100])
    # Where the old messages come in the midst of new ones, the window must reach over these.
    broker = Broker(total, rng, shuffles=window > total)
    checkpoint = dict(NOTHING)
    committed: list[int] = []
    for attempt in range(200):
        broker.connect()
        ledger = Ledger(
            json.loads(json.dumps(checkpoint)), window, rng.choice([0, checkpoint["given"]])
        )
        fresh: list[int] = []
        while True:
            event = rng.random()
            if event < 0.5:
                for message in broker.deliver(rng.randint(1, 9)):
                    if ledger.admit(f"id {message}", message):
                        fresh.append(message)
            elif event < 0.9:
                # A checkpoint, its commit, and the acknowledgements, of which the last may be lost.
                checkpoint = ledger.position()
                committed += fresh
                fresh = []
                ledger.committed(checkpoint["given"])
                tags = ledger.acknowledged()
                assert set(tags) <= set(committed)
                lost_after = rng.randint(0, len(tags)) if rng.random() < 0.3 else len(tags)
                broker.acknowledge(tags, lost_after=lost_after)
                if lost_after < len(tags) or len(broker.acknowledged) == total:
                    break
            elif attempt < 150:
                break  # a crash: what no checkpoint has is delivered again
        if len(broker.acknowledged) == total:
            break
    assert sorted(committed) == list(range(total))


def test_ids_are_forgotten_when_the_window_is_full_and_not_before() -> None:
    ledger = Ledger(NOTHING, 2)
    for n in range(5):
        assert ledger.admit(str(n), n)
    ledger.committed(4)
    assert ledger.acknowledged() == [0, 1, 2, 3]
    # After 0 three were acknowledged; after 1 two were; 4 is not acknowledged.
    assert [ledger.admit(str(n), n) for n in (1, 2, 3, 4)] == [False] * 4
    assert ledger.admit("0", 0)
    assert ledger.repeated == 4


def test_messages_without_an_id_are_all_given() -> None:
    ledger = Ledger(NOTHING, 10)
    assert ledger.admit(None, 1)
    assert ledger.admit(None, 2)
    assert ledger.position() == {"given": 2, "seen": ""}
    ledger.committed(2)
    assert ledger.acknowledged() == [1, 2]


def test_a_broker_that_delivers_after_a_time_is_known_again_behind_more_messages_than_the_window():
    """The ids of a position are remembered until the time is over, and then as all others."""
    first = Ledger(NOTHING, 2)
    assert all(first.admit(f"m{n}", n) for n in range(3))
    ledger = Ledger(first.position(), 2, keeps=True)
    assert all(ledger.admit(f"n{n}", n) for n in range(10))
    ledger.committed(13)
    assert len(ledger.acknowledged()) == 10
    assert not ledger.admit("m1", "again")
    assert ledger.acknowledged() == ["again"]
    assert not ledger.admit("n9", "again")
    assert ledger.admit("n0", "forgotten")
    ledger.may_forget()
    ledger.acknowledged()
    assert ledger.admit("m1", "forgotten")
