"""A replication connection: libpq's COPY in both directions, because psycopg has no replication of its own.

Always true: the server is told as flushed only what `flushed` says; one thread at a time speaks on the connection.
Messages: https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import select
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ExecStatus

from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import postgres_errors

TEXT_SETTINGS = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
"""Values are written as in the transactions that read tables."""
_EPOCH_US = 946_684_800_000_000
"""From 1970 to 2000."""
_ROUND_S = 10.0
"""How often the server is told of a reader that has nothing new."""
_SILENT_S = 120.0
"""A server that sends nothing for so long, not even an answer to those rounds, is gone. It gives up a reader after 60."""
_BUSY_S = 0.1
"""How long changes are gathered while more of them come."""
_PIECES_SINCE = 140_000
"""The first version of the server that sends transactions in pieces."""
_STATUS = struct.Struct(">cQQQqB")
_KEEPALIVE = struct.Struct(">cQqB")
_DATA_HEAD = 25
"""Bytes in front of what a plugin wrote: a letter, two positions and a time."""


def lsn_text(lsn: int) -> str:
    """A position in the log as the server writes it: 0/16B3740."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_of(text: str) -> int:
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


class Received:
    """messages: of the plugin, each with its head. end: the server has sent everything before it."""

    __slots__ = ("end", "messages")

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.end = 0


class Replication:
    """Blocking; any thread may call it."""

    def __init__(self, server: Server, name: str) -> None:
        given = str(conninfo_to_dict(server.conninfo).get("options") or "")
        words = (
            f"-c {key}={value}".replace(", ", ",\\ ")
            for key, value in {**TEXT_SETTINGS, "wal_sender_timeout": "60s"}.items()
        )
        conninfo = make_conninfo(
            server.conninfo,
            replication="database",
            application_name=name[:63],
            options=" ".join([given, *words]).strip(),
        )
        self._server, self._lock = server, threading.Lock()
        self.flushed = self.received = 0
        self._told: tuple[int, float] = (0, 0.0)
        self._streams = False
        self._heard_at = 0.0
        with self._errors("connecting for replication"):
            self._connection = psycopg.connect(conninfo, autocommit=True)
        self._low = self._connection.pgconn

    def _errors(self, subject: str) -> Any:
        return postgres_errors(self._server.label, subject)

    def ask(self, command: str) -> Mapping[str, str]:
        """The one row that a command answers with. Raises psycopg's errors."""
        with self._lock:
            result = self._low.exec_(command.encode())
            if result.status != ExecStatus.TUPLES_OK:
                raise psycopg.errors.error_from_result(result, encoding="utf-8")
            return {
                (result.fname(at) or b"").decode(): (result.get_value(0, at) or b"").decode()
                for at in range(result.nfields)
            }

    @property
    def can_send_pieces(self) -> bool:
        """Whether the server can send large transactions while they run."""
        return self._connection.info.server_version >= _PIECES_SINCE

    def start(self, slot: str, publication: str, lsn: int, *, in_pieces: bool = False) -> None:
        """Begin to stream behind a position. in_pieces: large transactions are sent while they run, see `uncommitted`. Raises
        psycopg's errors."""
        name = publication.replace("'", "''").replace('"', '""')
        version = "proto_version '2', streaming 'on'" if in_pieces else "proto_version '1'"
        with self._lock:
            result = self._low.exec_(
                f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(lsn)} '
                f"({version}, publication_names '\"{name}\"')".encode()
            )
            if result.status != ExecStatus.COPY_BOTH:
                raise psycopg.errors.error_from_result(result, encoding="utf-8")
            self.flushed = self.received = lsn
            self._streams, self._heard_at = True, time.monotonic()

    @property
    def socket(self) -> int:
        return self._low.socket

    def receive(self, messages_max: int, bytes_max: int, hold_s: float = 0.0) -> Received:
        """What has come. Where nothing has, it does not wait; else it waits so long for more, and a tenth of a second
        while more comes: one read of the socket has about sixty rows, and to decode as many costs as much as to decode a
        thousand."""
        found, size, was_empty, began = Received(), 0, False, time.monotonic()
        messages, get = found.messages, self._low.get_copy_data
        with self._lock, self._errors("reading the log"):
            while len(messages) < messages_max and size < bytes_max:
                length, data = get(1)
                if length > 0:
                    self._heard_at = began
                    message = bytes(data)
                    if message[0] == 0x77:  # w
                        messages.append(message)
                        size, was_empty = size + length, False
                    else:
                        found.end = max(found.end, self._keepalive(message))
                elif length == 0:
                    if was_empty and not (messages and self._comes(began, hold_s)):
                        break
                    self._low.consume_input()
                    was_empty = True
                else:
                    self._raise_end()
            if began - self._heard_at > _SILENT_S:
                raise psycopg.OperationalError(
                    f"connection timeout: the server has sent nothing for {_SILENT_S:g} s, not even an answer"
                )
            if messages:
                _, start, end = struct.unpack_from(">cQQ", messages[-1])
                self.received = max(self.received, start, end)
            self._tell(force=False)
        return found

    def _comes(self, began: float, hold_s: float) -> bool:
        """Whether more comes in time."""
        waited = time.monotonic() - began
        if waited > max(hold_s, _BUSY_S):
            return False
        poll = select.poll()
        poll.register(self._low.socket, select.POLLIN)
        return bool(poll.poll(max(hold_s - waited, 0.0) * 1000))

    def _keepalive(self, message: bytes) -> int:
        _, end, _, wants_reply = _KEEPALIVE.unpack(message)
        self.received = max(self.received, end)
        if wants_reply:
            self._tell(force=True)
        return int(end)

    def _raise_end(self) -> None:
        """The server has ended the stream."""
        result = self._low.get_result()
        if result is not None and result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result, encoding="utf-8")
        raise psycopg.OperationalError("server closed the connection: the stream has ended")

    def tell(self, *, wants_reply: bool = False) -> None:
        """Tell the server how far the reader is. wants_reply: and ask how far the server is."""
        with self._lock, self._errors("reading the log"):
            self._tell(force=True, wants_reply=wants_reply)

    def tell_in_time(self) -> None:
        """The same, if there is something new or the last time is long ago."""
        with self._lock, self._errors("reading the log"):
            self._tell(force=False)

    def _tell(self, *, force: bool, wants_reply: bool = False) -> None:
        told, at = self._told
        now = time.monotonic()
        is_round = now - at > _ROUND_S
        if not self._streams or not (force or told != self.flushed or is_round):
            return
        clock = int(time.time() * 1_000_000) - _EPOCH_US
        status = _STATUS.pack(
            b"r", self.received, self.flushed, self.flushed, clock, int(wants_reply or is_round)
        )
        while self._low.put_copy_data(status) == 0:
            select.select([], [self._low.socket], [])
        while self._low.flush():
            select.select([], [self._low.socket], [])
        self._told = (self.flushed, now)

    def close(self) -> None:
        """Never raises."""
        with self._lock:
            self._streams = False
            self._connection.close()
