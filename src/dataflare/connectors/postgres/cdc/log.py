"""Cut the messages of the log into transactions and tables. Pure.

Always true: changes stand in the order of their commits; what is not committed yet is given only when there is too
much of it to wait; transactions that end before the start are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from itertools import groupby
from types import MappingProxyType

from msgspec import Struct

_BODY = 25
_CHANGES = b"IUD"
_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")


class LoggedColumn(Struct, frozen=True):
    """is_key: it belongs to the table's replica identity."""

    name: str
    type: int
    modifier: int
    is_key: bool


class LoggedTable(Struct, frozen=True):
    """A table as the log describes it. identity: d (its primary key), i (an index), f (whole rows), n (nothing)."""

    id: int
    folder: str
    name: str
    identity: str
    columns: tuple[LoggedColumn, ...]


class Truncated(Struct, frozen=True):
    """All rows of these tables went."""

    tables: tuple[int, ...]
    transaction: int


class Piece(Struct):
    """Changes in order. transactions: the number of the transaction of each message. end: the position behind them;
    None inside a transaction. times: by transaction, when it was committed, where that is asked for."""

    messages: list[bytes]
    transactions: list[int]
    end: int | None = None
    times: Mapping[int, int] = MappingProxyType({})

    def by_table(self) -> dict[int, tuple[list[bytes], list[int]]]:
        """The messages and transactions of each table."""
        ids = {message[26:30] for message in self.messages}
        if len(ids) == 1:
            return {int.from_bytes(ids.pop(), "big"): (self.messages, self.transactions)}
        places = sorted(range(len(self.messages)), key=lambda n: self.messages[n][26:30])
        found = {}
        for id_, group in groupby(places, key=lambda n: self.messages[n][26:30]):
            numbers = list(group)
            found[int.from_bytes(id_, "big")] = (
                [self.messages[n] for n in numbers],
                [self.transactions[n] for n in numbers],
            )
        return found


Event = Piece | LoggedTable | Truncated


class Assembler:
    """Takes messages as they come. start: transactions that end at or before it are left out. timed: whether the times of
    transactions are told."""

    def __init__(self, start: int, *, timed: bool = False) -> None:
        self._start, self._timed = start, timed
        self._times: dict[int, int] = {}
        self._skips = False
        self._transaction = 0
        self._messages: list[bytes] = []
        self._transactions: list[int] = []
        self._complete = 0
        """How many of them belong to transactions that have ended."""
        self._end = start
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether a transaction has begun and not ended."""
        return self._is_open

    @property
    def held(self) -> int:
        """How many messages of the open transaction wait."""
        return len(self._messages)

    def add(self, messages: Iterable[bytes]) -> list[Event]:
        """What is complete now, in order."""
        events: list[Event] = []
        for message in messages:
            tag = message[_BODY]
            if tag in _CHANGES:
                if not self._skips:
                    self._messages.append(message)
                    self._transactions.append(self._transaction)
            elif tag == 0x42:  # B
                final, time, self._transaction = _BEGIN.unpack_from(message, _BODY + 1)
                if self._timed:
                    self._times[self._transaction] = time
                self._is_open, self._skips = True, final < self._start
            elif tag == 0x43:  # C
                _, _, end, _ = _COMMIT.unpack_from(message, _BODY + 1)
                self._is_open = False
                if not self._skips:
                    self._complete, self._end = len(self._messages), end
                self._skips = False
            elif tag == 0x52:  # R
                events += self.give()
                events.append(_table(message))
            elif tag == 0x54 and not self._skips:  # T
                events += self.give()
                events.append(_truncated(message, self._transaction))
        if self._complete or not self._is_open:
            events += self._give_complete()
        return events

    def give(self) -> list[Event]:
        """Everything, also what is not committed yet."""
        events = self._give_complete()
        if self._messages:
            events.append(Piece(self._messages, self._transactions, times=self._told_times()))
            self._messages, self._transactions = [], []
        return events

    def give_most(self) -> list[Event]:
        """The same without the last change, so that the end of a transaction comes with one."""
        last, number = self._messages[-1:], self._transactions[-1:]
        if self._complete < len(self._messages):
            self._messages, self._transactions = self._messages[:-1], self._transactions[:-1]
            events = self.give()
            self._messages, self._transactions = last, number
            return events
        return self.give()

    def _give_complete(self) -> list[Event]:
        if not self._complete and not (self._end > self._start):
            return []
        done = Piece(
            self._messages[: self._complete], self._transactions[: self._complete], self._end,
            self._told_times(),
        )  # fmt: skip
        self._messages = self._messages[self._complete :]
        self._transactions = self._transactions[self._complete :]
        self._complete, self._start = 0, self._end
        return [done]

    def _told_times(self) -> Mapping[int, int]:
        """The times of the transactions so far; those that have ended are forgotten."""
        times = self._times
        self._times = {n: at for n, at in times.items() if n == self._transaction}
        return times


def _table(message: bytes) -> LoggedTable:
    id_ = int.from_bytes(message[26:30], "big")
    folder, at = _text(message, 30)
    name, at = _text(message, at)
    identity, count = chr(message[at]), int.from_bytes(message[at + 1 : at + 3], "big")
    at += 3
    columns = []
    for _ in range(count):
        is_key = bool(message[at] & 1)
        column, at = _text(message, at + 1)
        type_, modifier = struct.unpack_from(">Ii", message, at)
        at += 8
        columns.append(LoggedColumn(column, type_, modifier, is_key))
    return LoggedTable(id_, folder or "pg_catalog", name, identity, tuple(columns))


def _truncated(message: bytes, transaction: int) -> Truncated:
    count = int.from_bytes(message[26:30], "big")
    return Truncated(struct.unpack_from(f">{count}I", message, 31), transaction)


def _text(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(0, at)
    return message[at:end].decode(), end + 1
