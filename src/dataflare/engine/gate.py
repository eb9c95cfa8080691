"""What a task reads next from its channels, as plain state: no waiting, no event loop.

Messages are put in by channel and come out as events. The gate knows which channels wait for a
barrier, which watermark holds for each input, and which rows an unaligned barrier has overtaken.

Always true:
- the messages of a channel come out in the order in which they were put in;
- an aligned barrier comes out once, when every live channel has shown it; no row behind it comes out
  before, and no row in front of it after;
- an unaligned barrier comes out as soon as every live channel has it, with the rows in front of it,
  which come out later all the same;
- the watermark never goes back;
- a channel is idle when it says so, and all channels do whose origins are among its own. So when a source wakes, no way
  from it is taken for idle because its news has come another way first: its results would be late;
- when the last channel falls idle, the watermark is the greatest of any origin. So it does not depend on which one fell
  idle first.

Aligned and unaligned barriers: Carbone et al., "State Management in Apache Flink" (VLDB 2017), and
FLIP-76. Idle inputs: Akidau et al., "The Dataflow Model" (VLDB 2015), and Flink's StatusWatermarkValve.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from itertools import islice

from msgspec import Struct, field

from dataflare.model.batch import SharedDataBatch, is_truncation
from dataflare.model.progress import Barrier, End, Idle, Mark, Watermark

Message = SharedDataBatch | Mark


class Rows(Struct, frozen=True):
    """A batch of an input. channel: where it came from, for its credit. parts: with their channels, the batches that it
    was made of, where there are several."""

    port: int
    batch: SharedDataBatch
    channel: int
    parts: tuple[tuple[int, SharedDataBatch], ...] = ()


class Time(Struct, frozen=True):
    """The watermark of all inputs together. Microseconds since 1970, UTC."""

    event_time_us: int


class Cut(Struct, frozen=True):
    """The state belongs to the barrier's epoch now. in_flight: port and batch of the rows that an
    unaligned barrier overtook, in the order of their channels."""

    barrier: Barrier
    in_flight: tuple[tuple[int, SharedDataBatch], ...] = ()


class Ended(Struct, frozen=True):
    """Nothing more comes from an input."""

    port: int


Event = Rows | Time | Cut | Ended | Idle


class _Channel(Struct):
    """origins: what its rows come from. quiet: it has said that it is idle; idle: so have all with no other origins.
    ready: it stands in the line of channels to read. blocked: it has shown its barrier and waits for the
    others. messages: a list, because a deque of nothing takes 760 bytes, and a plan may have a million channels. closed: its end was put in; ended: and has come out. overtaken: it holds an unaligned barrier."""

    port: int
    origins: frozenset[str]
    messages: list[Message] = field(default_factory=list)
    ready: bool = False
    blocked: bool = False
    closed: bool = False
    ended: bool = False
    quiet: bool = False
    idle: bool = False
    overtaken: bool = False
    watermark: int | None = None


class _Port(Struct):
    """An input: the channels that lead to it, and the least watermark of those that are not idle.

    order: watermarks with their channels, as a heap; entries that no longer hold are dropped when
    they come to its top. unset: channels that are not idle and have no watermark yet.
    """

    live: int = 0
    idle: int = 0
    unset: int = 0
    cancelled: bool = False
    order: list[tuple[int, int]] = field(default_factory=list)


class GateState:
    """ports: by channel, the number of the input it leads to. Inputs and channels count from 0."""

    def __init__(self, ports: Sequence[int] = ()) -> None:
        self._channels: list[_Channel] = []
        self._ports: list[_Port] = []
        self._ready: deque[int] = deque()
        self._pending: deque[Event] = deque()
        self._live = 0  # channels whose end has not come out
        self._showing = 0  # channels that wait behind an aligned barrier
        self._quiet = 0  # channels that have said that they are idle, and have not ended
        self._lacking = 0  # channels that may still bring an unaligned one
        self._barrier: Barrier | None = None
        self._overtaking: Barrier | None = None
        self._told_idle = False
        self.watermark: int | None = None
        """The watermark of all inputs that was told last."""
        for port in ports:
            self.add(port)

    def add(self, port: int, origins: frozenset[str] = frozenset()) -> int:
        """The number of one more channel. Called before anything was put in. origins: the readers of sources that its
        rows come from; without any it is an origin itself."""
        while len(self._ports) <= port:
            self._ports.append(_Port())
        number = len(self._channels)
        self._channels.append(_Channel(port, origins or frozenset([f"channel {number}"])))
        its_port = self._ports[port]
        its_port.live, its_port.unset = its_port.live + 1, its_port.unset + 1
        self._live, self._lacking = self._live + 1, self._lacking + 1
        return number

    @property
    def ended(self) -> bool:
        """Whether every channel has ended and every event was told."""
        return not self._live and not self._pending

    def port_watermark(self, port: int) -> int | None:
        """The least watermark of an input's channels that are not idle; None while there is none."""
        its_port = self._ports[port]
        if its_port.unset:
            return None
        while its_port.order:
            event_time_us, number = its_port.order[0]
            channel = self._channels[number]
            if channel.watermark == event_time_us and not (channel.idle or channel.ended):
                return event_time_us
            heapq.heappop(its_port.order)
        return None

    def port_of(self, number: int) -> int:
        """The input that a channel leads to."""
        return self._channels[number].port

    def put(self, number: int, message: Message) -> bool:
        """Take a message of a channel. False: its reader needs no more rows, and the batch is dropped."""
        channel = self._channels[number]
        if type(message) is SharedDataBatch:
            if self._ports[channel.port].cancelled:
                return False
        elif type(message) is End:
            channel.closed = True
            self._lacking -= not channel.overtaken
        elif type(message) is Barrier and not message.aligned:
            channel.overtaken = True
            self._overtaking = message
            self._lacking -= 1
        channel.messages.append(message)
        if not channel.ready and not channel.blocked:
            channel.ready = True
            self._ready.append(number)
        return True

    def is_clear(self, number: int) -> bool:
        """Whether a batch of a channel that is put now would be the next event."""
        channel = self._channels[number]
        return not (
            self._pending
            or self._ready
            or channel.messages
            or channel.blocked
            or self._overtaking is not None
            or self._ports[channel.port].cancelled
        )

    def pass_through(self, number: int, batch: SharedDataBatch) -> Rows:
        """`put` and `next` in one, where `is_clear`."""
        channel = self._channels[number]
        if channel.quiet:
            self._wake(channel)
        return Rows(channel.port, batch, number)

    def cancel(self, port: int) -> list[tuple[int, SharedDataBatch]]:
        """Say that no more rows of an input are needed. Gives the batches that wait, with their
        channels: they will not come out."""
        self._ports[port].cancelled = True
        dropped: list[tuple[int, SharedDataBatch]] = []
        for number, channel in enumerate(self._channels):
            if channel.port == port:
                rows = [each for each in channel.messages if type(each) is SharedDataBatch]
                dropped.extend((number, batch) for batch in rows)
                if rows:
                    marks = [each for each in channel.messages if type(each) is not SharedDataBatch]
                    channel.messages = marks
        return dropped

    def next(self) -> Event | None:
        """The next event, or None until more is put in."""
        if self._pending:
            return self._pending.popleft()
        if self._overtaking is not None and not self._lacking:
            return self._overtaking_cut(self._overtaking)
        while self._ready:
            number = self._ready.popleft()
            channel = self._channels[number]
            channel.ready = False
            if not channel.messages:
                continue
            message = channel.messages.pop(0)
            if type(message) is SharedDataBatch:
                if channel.messages:
                    channel.ready = True
                    self._ready.append(number)
                if channel.quiet:
                    self._wake(channel)
                return Rows(channel.port, message, number)
            self._pending.extend(self._mark(number, channel, message))
            if channel.messages and not channel.blocked and not channel.ready:
                channel.ready = True
                self._ready.append(number)
            if self._pending:
                return self._pending.popleft()
        return None

    def more_rows(self, first: Rows, rows_max: int) -> list[tuple[int, SharedDataBatch]]:
        """Take the batches that come out next, with their channels, as long as they belong to the input of `first`, have
        its columns, and no more than `rows_max` rows together. A TRUNCATE stays alone."""
        found: list[tuple[int, SharedDataBatch]] = []
        if is_truncation(first.batch.frame):
            return found
        columns = first.batch.frame.schema
        while self._ready and not self._pending and self._overtaking is None:
            number = self._ready[0]
            channel = self._channels[number]
            message = channel.messages[0] if channel.messages else None
            if type(message) is not SharedDataBatch or channel.port != first.port or channel.quiet:
                break
            rows_max -= message.num_rows
            if rows_max < 0 or message.frame.schema != columns or is_truncation(message.frame):
                break
            self.next()
            found.append((number, message))
        return found

    # -- marks -------------------------------------------------------------------------------------

    def _mark(self, number: int, channel: _Channel, mark: Message) -> Sequence[Event]:
        if type(mark) is Watermark:
            return self._watermark(number, channel, mark.event_time_us)
        if type(mark) is Barrier:
            channel.blocked = True
            if not mark.aligned:
                # It stays in its channel, to be found at the cut.
                channel.messages.insert(0, mark)
                return ()
            self._showing += 1
            self._barrier = mark
            return self._aligned_cut()
        if type(mark) is End:
            return self._end(channel)
        assert type(mark) is Idle
        self._quiet += not (channel.quiet or channel.ended)
        channel.quiet = True
        self._rest(channel)
        return self._advance()

    def _watermark(self, number: int, channel: _Channel, event_time_us: int) -> Sequence[Event]:
        if channel.quiet:
            self._wake(channel)
        if channel.watermark is None or event_time_us > channel.watermark:
            port = self._ports[channel.port]
            if channel.watermark is None:
                port.unset -= 1
            channel.watermark = event_time_us
            heapq.heappush(port.order, (event_time_us, number))
        return self._advance()

    def _rest(self, channel: _Channel) -> None:
        """A channel is quiet or has ended: let those be idle that may be now."""
        if not self._quiet:
            return
        live = [each for each in self._channels if not each.ended]
        at_rest: dict[frozenset[str], bool] = {}
        for each in live:
            origins = each.origins
            if each.idle or not each.quiet or not channel.origins <= origins:
                continue
            if origins not in at_rest:
                at_rest[origins] = all(o.quiet for o in live if o.origins <= origins)
            if at_rest[origins]:
                each.idle = True
                port = self._ports[each.port]
                port.idle += 1
                if each.watermark is None:
                    port.unset -= 1

    def _wake(self, channel: _Channel) -> None:
        """A quiet channel has something again. It holds the watermark back, and so do all that have its origins."""
        self._quiet -= channel.quiet and not channel.ended
        channel.quiet = False
        self._told_idle = False
        for number, each in enumerate(self._channels):
            if each.idle and not each.ended and channel.origins <= each.origins:
                each.idle = False
                port = self._ports[each.port]
                port.idle -= 1
                if each.watermark is None:
                    port.unset += 1
                else:
                    heapq.heappush(port.order, (each.watermark, number))

    def _end(self, channel: _Channel) -> Sequence[Event]:
        channel.ended = True
        self._quiet -= channel.quiet
        self._live -= 1
        port = self._ports[channel.port]
        port.live -= 1
        if channel.idle:
            port.idle -= 1
        elif channel.watermark is None:
            port.unset -= 1
        self._rest(channel)
        ended = () if port.live else (Ended(channel.port),)
        return (*ended, *self._advance(), *self._aligned_cut()) if self._live else ended

    def _advance(self) -> Sequence[Event]:
        """What follows from a changed watermark: the time of all inputs, if it is later than before."""
        least: int | None = None
        holding = False
        for number, port in enumerate(self._ports):
            if port.live == port.idle:
                continue
            holding = True
            event_time_us = self.port_watermark(number)
            if event_time_us is None:
                return ()
            least = event_time_us if least is None else min(least, event_time_us)
        if holding:
            return self._moved_to(least)
        if self._told_idle or not self._live:
            return ()
        self._told_idle = True
        return (*self._moved_to(self._greatest()), Idle())

    def _greatest(self) -> int | None:
        """The greatest watermark of any origin. That of an origin is the least of the channels that have it; of those
        that have ended the greatest, where no other has it."""
        marks = []
        for origins in {channel.origins for channel in self._channels}:
            having = [channel for channel in self._channels if origins <= channel.origins]
            live = [channel.watermark for channel in having if not channel.ended]
            known = [mark for mark in live or [c.watermark for c in having] if mark is not None]
            if live and len(known) == len(live):
                marks.append(min(known))
            elif not live and known:
                marks.append(max(known))
        return max(marks, default=None)

    def _moved_to(self, event_time_us: int | None) -> Sequence[Event]:
        """The time of all inputs, if it is later than before."""
        if event_time_us is None or (
            self.watermark is not None and event_time_us <= self.watermark
        ):
            return ()
        self.watermark = event_time_us
        return (Time(event_time_us),)

    # -- barriers ----------------------------------------------------------------------------------

    def _aligned_cut(self) -> Sequence[Cut]:
        if not self._showing or self._showing < self._live:
            return ()
        assert self._barrier is not None
        cut = Cut(self._barrier)
        self._showing = 0
        self._release()
        return (cut,)

    def _overtaking_cut(self, barrier: Barrier) -> Cut:
        in_flight: list[tuple[int, SharedDataBatch]] = []
        for channel in self._channels:
            place = _place(channel.messages, barrier.epoch)
            rows = islice(channel.messages, place)
            in_flight += [(channel.port, m) for m in rows if type(m) is SharedDataBatch]
            if place is not None:
                del channel.messages[place]
            channel.overtaken = False
        self._overtaking = None
        self._lacking = sum(not channel.closed for channel in self._channels)
        self._release()
        return Cut(barrier, tuple(in_flight))

    def _release(self) -> None:
        """Read the channels that waited for a barrier again."""
        self._barrier = None
        for number, channel in enumerate(self._channels):
            if channel.blocked:
                channel.blocked = False
                if channel.messages and not channel.ready:
                    channel.ready = True
                    self._ready.append(number)


def _place(messages: Sequence[Message], epoch: int) -> int | None:
    """Where the barrier of an epoch stands; None where it is not."""
    for place, message in enumerate(messages):
        if type(message) is Barrier and message.epoch == epoch:
            return place
    return None
