"""The stream of the binary log: the server sends its events over a connection, as to a replica.

Always true: each event's checksum was compared, where the server writes checksums.
"""

from __future__ import annotations

import select
import struct
import time
import zlib
from typing import Any

from pymysql import err
from pymysql.constants import COMMAND

from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.cdc.sql_text import Spelling
from dataflare.connectors.mysql.connection import VALUE, Db

_READ_BYTES = 1 << 20
_LONG_PACKET = 0xFFFFFF
_HEARTBEAT_S = 5
_SILENT_S = 60.0
"""A server that sends nothing for so long, not even a heartbeat, is gone."""
_ROTATE, _FORMAT = 4, 15
_NO_CHECKSUM = 0
_FIRST = 4
"""The offset of the first event of a file."""
HEARTBEATS = (27, 41)


def register(db: Db, server_id: int) -> None:
    """Tell the server that this connection is a replica. Raises pymysql's error if the user may not be one."""
    connection: Any = db.wire
    told = struct.pack("<I", server_id) + b"\0\0\0" + struct.pack("<HII", 0, 0, 0)
    connection._execute_command(COMMAND.COM_REGISTER_SLAVE, told)
    connection._read_ok_packet()


def spelling(db: Db) -> Spelling:
    """How the server reads statements."""
    [(lower,)] = db.rows("select @@global.lower_case_table_names")
    charsets = db.rows(
        "select id, character_set_name from information_schema.collations where id is not null"
    )
    return Spelling(bool(lower), {int(number): str(name) for number, name in charsets})


class Dump:
    """Blocking; one thread at a time, except for `Db.abort`. Raises pymysql's errors."""

    def __init__(self, db: Db, place: Place, server_id: int) -> None:
        self.spelling = spelling(db)
        db.run("set @master_binlog_checksum = @@global.binlog_checksum")
        # Without it the server would send what an old replica understands, and no GTID.
        db.run("set @mariadb_slave_capability = 4")
        db.run(f"set @master_heartbeat_period = {_HEARTBEAT_S * 10**9}")
        self._connection: Any = db.wire
        self._sock: Any = self._connection._sock
        self._rest = b""
        self._parts: list[bytes] = []
        self._checks = False
        self._heard_at = time.monotonic()
        if not place.file:
            # The server finds the place, and leaves out what is before it.
            db.run(f"set @slave_connect_state = {VALUE}", [place.gtid])
            db.run("set @slave_gtid_strict_mode = 0, @slave_gtid_ignore_duplicates = 0")
        register(db, server_id)
        offset = place.offset if place.file else _FIRST
        start = struct.pack("<IHI", offset, 0, server_id) + place.file.encode()
        self._connection._execute_command(COMMAND.COM_BINLOG_DUMP, start)

    def receive(self, wait_s: float) -> list[bytes]:
        """The events that have come, without their checksums; none after so many seconds without one."""
        until = time.monotonic() + wait_s
        while True:
            left = max(0.0, until - time.monotonic())
            if not self._is_readable(left):
                if time.monotonic() - self._heard_at > _SILENT_S:
                    raise err.OperationalError(
                        2013, "the server has sent nothing, not even a heartbeat"
                    )
                return []
            received = self._received()
            self._heard_at = time.monotonic()
            events = self._events(received)
            if events:
                return events

    def _is_readable(self, wait_s: float) -> bool:
        pending = getattr(self._sock, "pending", None)
        if pending is not None and pending():
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))

    def _received(self) -> bytes:
        try:
            received: bytes = self._sock.recv(_READ_BYTES)
        except OSError as error:
            raise err.OperationalError(
                2013, f"Lost connection to MySQL server ({error})"
            ) from error
        if not received:
            raise err.OperationalError(
                2013, "Lost connection to MySQL server while it sent its log"
            )
        return received

    def _events(self, received: bytes) -> list[bytes]:
        """The whole events of what has come. The rest waits for more."""
        data = self._rest + received if self._rest else received
        events: list[bytes] = []
        place, end = 0, len(data)
        while place + 4 <= end:
            size = data[place] | data[place + 1] << 8 | data[place + 2] << 16
            behind = place + 4 + size
            if behind > end:
                break
            body = data[place + 4 : behind]
            place = behind
            if size == _LONG_PACKET or self._parts:
                self._parts.append(body)
                if size == _LONG_PACKET:
                    continue
                body, self._parts = b"".join(self._parts), []
            if body[0] == 0xFF:
                err.raise_mysql_exception(body)
            if body[0] == 0xFE:
                raise err.OperationalError(2013, "the server has ended its log")
            events.append(self._checked(body))
        self._rest = data[place:]
        return events

    def _checked(self, body: bytes) -> bytes:
        """The event in a packet, without its checksum."""
        type_, view = body[5], memoryview(body)
        if type_ == _FORMAT:
            # The last five bytes: the algorithm, and a checksum if there is one.
            self._checks = body[-5] != _NO_CHECKSUM
        is_right = zlib.crc32(view[1:-4]) == int.from_bytes(view[-4:], "little")
        if type_ == _ROTATE and body[14:18] == bytes(4):
            # The server makes this event up, and what its checksum depends on is not documented.
            return body[1:-4] if is_right else body[1:]
        if not self._checks and type_ != _FORMAT:
            return body[1:]
        if self._checks and not is_right:
            raise err.InternalError(f"an event of the type {type_} came with a wrong checksum")
        return body[1:-4]
