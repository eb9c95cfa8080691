"""The gate against a plain model that looks at every channel each time, over random interleavings."""

from __future__ import annotations

import random
from collections import Counter

import polars as pl
import pytest

from dataflare.engine.gate import Cut, Ended, GateState, Rows, Time
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import END, IDLE, Barrier, End, Idle, Watermark

EMPTY = pl.DataFrame()
NEVER = -(1 << 40)


class Model:
    """The gate by its rules alone: it looks at every channel each time, and counts nothing.

    line: the channels with something to read, in turns. standing: those that wait behind a barrier.
    """

    def __init__(self, ports: list[int], origins: list[frozenset[str]]) -> None:
        self.ports, self.origins = ports, origins
        self.all = range(len(ports))
        self.queues: list[list] = [[] for _ in ports]
        self.line: list[int] = []
        self.watermarks: list[int | None] = [None for _ in ports]
        self.idle = [False for _ in ports]
        self.ended = [False for _ in ports]
        self.closed = [False for _ in ports]
        self.standing: set[int] = set()
        self.told: int | None = None
        self.told_idle = False
        self.owed: list = []

    def put(self, number: int, message) -> None:
        self.queues[number].append(message)
        self.closed[number] |= isinstance(message, End)
        self._line_up()

    def next(self):
        if self.owed:
            return self.owed.pop(0)
        cut = self._overtaking_cut()
        while cut is None and self.line:
            number = self.line.pop(0)
            if not self.queues[number]:
                continue  # its barrier was taken out
            message = self.queues[number].pop(0)
            if isinstance(message, Barrier):
                self.queues[number].insert(0, message)
                self.standing.add(number)
                cut = self._aligned_cut()
                if cut is not None:
                    return cut
                continue
            self.owed += self._taken(number, message)
            self._line_up()
            if self.owed:
                return self.owed.pop(0)
        return cut

    def _line_up(self) -> None:
        for number in self.all:
            if self.queues[number] and number not in [*self.line, *self.standing]:
                self.line.append(number)

    def _taken(self, number: int, message) -> list:
        if isinstance(message, SharedDataBatch):
            self._wake(number)
            return [Rows(self.ports[number], message, number)]
        if isinstance(message, Watermark):
            self._wake(number)
            known = self.watermarks[number]
            self.watermarks[number] = max(message.event_time_us, NEVER if known is None else known)
            return self._progress()
        if isinstance(message, Idle):
            self.idle[number] = True
            return self._progress()
        self.ended[number] = True
        same = [n for n in self.all if self.ports[n] == self.ports[number]]
        told = [Ended(self.ports[number])] if all(self.ended[n] for n in same) else []
        told += self._progress()
        cut = self._aligned_cut()
        return told if cut is None else [*told, cut]

    def _wake(self, number: int) -> None:
        self.told_idle = self.told_idle and not self.idle[number]
        self.idle[number] = False

    def rests(self, number: int) -> bool:
        """Whether it and all live channels without other origins are idle."""
        inside = [n for n in self.all if self.origins[n] <= self.origins[number]]
        return all(self.idle[n] for n in inside if not self.ended[n])

    def _greatest(self) -> list[int]:
        marks = []
        for origins in self.origins:
            having = [n for n in self.all if origins <= self.origins[n]]
            live = [self.watermarks[n] for n in having if not self.ended[n]]
            if live and None not in live:
                marks.append(min(live))
            elif not live:
                marks += [mark for n in having if (mark := self.watermarks[n]) is not None]
        return marks

    def _progress(self) -> list:
        live = [n for n in self.all if not self.ended[n]]
        marks = [self.watermarks[n] for n in live if not self.rests(n)]
        if not marks:
            if self.told_idle or not live:
                return []
            self.told_idle = True
            known = self._greatest()
            if not known or max(known) <= (NEVER if self.told is None else self.told):
                return [IDLE]
            self.told = max(known)
            return [Time(self.told), IDLE]
        if None in marks or min(marks) <= (NEVER if self.told is None else self.told):
            return []
        self.told = min(marks)
        return [Time(self.told)]

    def _aligned_cut(self) -> Cut | None:
        live = [n for n in self.all if not self.ended[n]]
        if not live or not all(n in self.standing and self.queues[n][0].aligned for n in live):
            return None
        barrier = [self.queues[n].pop(0) for n in live].pop()
        self.standing.clear()
        self._line_up()
        return Cut(barrier)

    def _overtaking_cut(self) -> Cut | None:
        barriers = [m for q in self.queues for m in q if isinstance(m, Barrier) and not m.aligned]
        if not barriers:
            return None
        barrier, rows = barriers[0], []
        for number in self.all:
            queue = self.queues[number]
            if barrier not in queue and not self.closed[number]:
                return None
            before = queue[: queue.index(barrier)] if barrier in queue else queue
            rows += [(self.ports[number], m) for m in before if isinstance(m, SharedDataBatch)]
        for queue in self.queues:
            if barrier in queue:
                queue.remove(barrier)
        self.standing.clear()
        self._line_up()
        return Cut(barrier, tuple(rows))


class Senders:
    """What puts messages into channels: each with rows and marks in any order, and every barrier."""

    def __init__(self, chance: random.Random, channels: int) -> None:
        self.chance = chance
        self.time = [0] * channels
        self.epoch = [0] * channels
        self.open = set(range(channels))
        self.aligned: dict[int, bool] = {}

    def message(self, cut: int):
        """A channel and its next message, or None. cut: the last epoch that came out."""
        if not self.open:
            return None
        number = self.chance.choice(sorted(self.open))
        draw = self.chance.random()
        if draw < 0.45:
            return number, SharedDataBatch(EMPTY)
        if draw < 0.65:
            self.time[number] += self.chance.randrange(-1, 5)
            return number, Watermark(self.time[number])
        if draw < 0.75:
            return number, IDLE
        if draw < 0.96:
            if self.epoch[number] > cut:
                return None  # one epoch at a time
            self.epoch[number] = cut + 1
            aligned = self.aligned.setdefault(cut + 1, self.chance.random() < 0.6)
            return number, Barrier(cut + 1, aligned=aligned)
        self.open.discard(number)
        return number, END


@pytest.mark.parametrize("part", range(4))
def test_the_gate_does_what_its_rules_say_over_random_interleavings(part: int) -> None:
    kinds: Counter[str] = Counter()
    for seed in range(part * 1_000, part * 1_000 + 1_000):
        chance = random.Random(seed)
        ports = [0, *sorted(chance.choices([0, 0, 1], k=chance.randrange(4)))]
        origins = [frozenset(chance.choices("abc", k=chance.randint(1, 3))) for _ in ports]
        gate, model, senders = GateState(), Model(ports, origins), Senders(chance, len(ports))
        for number, port in enumerate(ports):
            assert gate.add(port, origins[number]) == number
        cut = 0
        for _ in range(chance.randrange(10, 150)):
            sent = senders.message(cut) if chance.random() < 0.55 else None
            if sent is not None:
                assert gate.put(*sent)
                model.put(*sent)
                continue
            event, expected = gate.next(), model.next()
            assert event == expected, f"seed {seed}"
            kinds[type(event).__name__] += 1
            if isinstance(event, Cut):
                cut = event.barrier.epoch
                kinds["overtaken rows"] += len(event.in_flight)
        assert gate.ended == (all(model.ended) and not model.owed), f"seed {seed}"
        for port in set(ports):
            marks = [
                model.watermarks[n]
                for n in model.all
                if ports[n] == port and not model.ended[n] and not model.rests(n)
            ]
            least = None if not marks or None in marks else min(marks)
            assert gate.port_watermark(port) == least, f"seed {seed}"
    assert {"Rows", "Time", "Cut", "Ended", "Idle", "NoneType", "overtaken rows"} <= kinds.keys()


def test_a_cancelled_input_gives_marks_and_no_more_rows() -> None:
    gate = GateState([0, 1])
    waiting, other = SharedDataBatch(EMPTY), SharedDataBatch(EMPTY)
    gate.put(0, waiting)
    gate.put(0, Watermark(5))
    gate.put(1, other)
    assert gate.cancel(0) == [(0, waiting)]
    assert gate.put(0, SharedDataBatch(EMPTY)) is False
    gate.put(0, Barrier(1))
    gate.put(1, Barrier(1))
    gate.put(0, END)
    assert [gate.next(), gate.next()] == [Rows(1, other, 1), Cut(Barrier(1))]
    assert gate.next() == Ended(0)
    assert gate.next() is None


def test_a_batch_that_an_unaligned_barrier_overtakes_is_kept_and_still_processed() -> None:
    gate = GateState([0, 0])
    ahead, behind, early = (SharedDataBatch(EMPTY) for _ in range(3))
    barrier = Barrier(3, aligned=False)
    for message in (ahead, barrier, behind):
        gate.put(0, message)
    gate.put(1, early)
    gate.put(1, END)
    assert gate.next() == Cut(barrier, ((0, ahead), (0, early)))
    rows = [gate.next(), gate.next(), gate.next()]
    assert [each.batch for each in rows] == [ahead, early, behind]  # type: ignore[union-attr]


@pytest.mark.parametrize("last", [IDLE, END])
@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
def test_when_all_inputs_are_idle_time_is_the_greatest_whichever_fell_idle_first(
    order, last
) -> None:
    """One of them ends instead; then the others are idle, and it is as far as it came."""
    gate = GateState([0, 0, 1])
    for number, time in enumerate((5, 40, 20)):
        gate.put(number, Watermark(time))
    for number in order:
        gate.put(number, last if number == order[0] else IDLE)
    times = []
    while (event := gate.next()) is not None:
        times.append(event)
    assert times[-2:] == [Time(40), IDLE]
    assert gate.watermark == 40
    gate.put(order[1], Watermark(30))
    assert gate.next() is None, "time does not go back"


def test_ways_from_one_source_wake_together() -> None:
    """News come by the fast way first. The slow one, still idle, will bring results from before it."""
    source, both = frozenset("s"), frozenset("st")
    gate = GateState()
    fast, slow, joined = gate.add(0, source), gate.add(1, source), gate.add(1, both)
    for number in (fast, slow, joined):
        gate.put(number, Watermark(10))
        gate.put(number, IDLE)
    assert [gate.next() for _ in range(3)] == [Time(10), IDLE, None]
    gate.put(fast, Watermark(90))
    gate.put(slow, Watermark(90))
    assert gate.next() is None, "what is joined with another source is behind"
    gate.put(fast, IDLE)
    gate.put(slow, IDLE)
    assert [gate.next(), gate.next()] == [IDLE, None], "it may have rows from before 90"
    gate.put(joined, Watermark(90))
    assert gate.next() == Time(90)


def test_a_source_that_is_idle_holds_back_only_what_comes_from_it_alone() -> None:
    gate = GateState()
    one, other = gate.add(0, frozenset("s")), gate.add(0, frozenset("t"))
    gate.put(one, Watermark(10))
    gate.put(other, Watermark(20))
    gate.put(one, IDLE)
    assert [gate.next(), gate.next()] == [Time(10), Time(20)]
