"""Which messages of a queue are given and acknowledged, over crashes at any moment."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from dataflare.sdk.brokers.ledger import NOTHING, Ledger


class Broker:
    """Delivers what was not acknowledged again to a new connection, but late, behind messages that are new; and some over the
    same connection."""

    def __init__(self, messages: int, rng: random.Random) -> None:
        self._new = list(range(messages))
        self._delivered: list[int] = []
        self._rng = rng
        self.acknowledged: set[int] = set()
        self.connect()

    def connect(self) -> None:
        self.late = [m for m in self._delivered if m not in self.acknowledged]
        self._rng.shuffle(self.late)
        self._confirmed, self.hears = 0, True
        self._here: list[int] = []

    def deliver(self, most: int) -> list[int]:
        late = self.late if not self._new or self._rng.random() < 0.3 else []
        source = late or self._new
        taken, source[:most] = source[:most], []
        self._delivered += [m for m in taken if source is self._new]
        open_ = [m for m in self._here if m not in self.acknowledged]
        again = self._rng.sample(open_, min(len(open_), 2)) if self._rng.random() < 0.2 else []
        self._here += taken
        return [*taken, *again]

    def acknowledge(self, messages: list[int], *, lost_after: int) -> int:
        """The acknowledgements after so many are lost, and those that come later over the connection. Returns how many are
        confirmed."""
        if self.hears:
            self.acknowledged |= set(messages[:lost_after])
            self._confirmed += lost_after
            self.hears = lost_after == len(messages)
        return self._confirmed


@given(st.integers(0, 10**6))
def test_each_message_is_in_one_checkpoint_and_acknowledged_after_it(seed: int) -> None:
    """Over crashes and connections that go on without a word from the other side, whatever the window."""
    rng = random.Random(seed)
    total = rng.randint(1, 60)
    window = rng.choice([0, 3, 100])
    broker = Broker(total, rng)
    checkpoint = dict(NOTHING)
    committed: list[int] = []
    for attempt in range(200):
        broker.connect()
        told = rng.choice([0, checkpoint["given"]])
        ledger = Ledger(json.loads(json.dumps(checkpoint)), window, told)
        fresh: list[int] = []
        while len(broker.acknowledged) < total:
            event = rng.random()
            if event < 0.5:
                for message in broker.deliver(rng.randint(1, 9)):
                    if ledger.admit(f"id {message}", message):
                        fresh.append(message)
                if not broker.late:
                    ledger.may_forget()
                tags = ledger.acknowledged()
                assert set(tags) <= set(committed)
                ledger.settled(broker.acknowledge(tags, lost_after=len(tags)))
            elif event < 0.9:
                # A checkpoint, its commit, and the acknowledgements, of which the last may be lost.
                checkpoint = ledger.position()
                committed += fresh
                fresh = []
                told = checkpoint["given"]
                ledger.committed(told)
                tags = ledger.acknowledged()
                assert set(tags) <= set(committed)
                lost_after = rng.randint(0, len(tags)) if rng.random() < 0.3 else len(tags)
                ledger.settled(broker.acknowledge(tags, lost_after=lost_after))
            elif event < 0.95:
                # A new connection within the run: no checkpoint has what came last.
                broker.connect()
                ledger = Ledger(json.loads(json.dumps(ledger.position())), window, told)
            elif attempt < 150 or not broker.hears:
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
    ledger.settled(4)
    # After 0 three were acknowledged; after 1 two were; 4 is not acknowledged.
    assert [ledger.admit(str(n), n) for n in (1, 2, 3, 4)] == [False] * 4
    assert ledger.admit("0", 0)
    assert ledger.repeated == 4


def test_a_message_that_comes_again_is_acknowledged_after_its_checkpoint() -> None:
    """Over a new connection within a run, when no checkpoint has the message yet."""
    first = Ledger(NOTHING, 10)
    assert all(first.admit(f"m{n}", n) for n in range(3))
    ledger = Ledger(first.position(), 10, committed=0)
    assert not ledger.admit("m0", "again")
    ledger.committed(2)
    assert ledger.acknowledged() == []
    ledger.committed(3)
    assert ledger.acknowledged() == ["again"]


def test_messages_without_an_id_are_all_given() -> None:
    ledger = Ledger(NOTHING, 10)
    assert ledger.admit(None, 1)
    assert ledger.admit(None, 2)
    assert ledger.position() == {"given": 2, "seen": ""}
    ledger.committed(2)
    assert ledger.acknowledged() == [1, 2]


def test_ids_are_remembered_while_the_broker_has_not_confirmed_their_acknowledgement() -> None:
    ledger = Ledger(NOTHING, 2)
    assert all(ledger.admit(f"m{n}", n) for n in range(9))
    ledger.committed(9)
    assert ledger.acknowledged() == list(range(9))
    ledger.settled(4)
    again = Ledger(ledger.position(), 2)
    assert [again.admit(f"m{n}", n) for n in range(9)] == [True, *[False] * 8]


def test_a_broker_that_delivers_after_a_time_is_known_again_behind_more_messages_than_the_window() -> (
    None
):
    """The ids of a position are remembered until the time is over, and then as all others."""
    first = Ledger(NOTHING, 2)
    assert all(first.admit(f"m{n}", n) for n in range(3))
    ledger = Ledger(first.position(), 2)
    assert all(ledger.admit(f"n{n}", n) for n in range(10))
    ledger.committed(13)
    assert len(ledger.acknowledged()) == 10
    ledger.settled(10)
    assert not ledger.admit("m1", "again")
    assert ledger.acknowledged() == ["again"]
    ledger.settled(11)
    assert not ledger.admit("n9", "again")
    assert ledger.admit("n0", "forgotten")
    ledger.may_forget()
    assert not ledger.admit("m2", "still in the window")
    ledger.committed(20)
    ledger.settled(11 + len(ledger.acknowledged()))
    assert ledger.admit("m0", "forgotten")
