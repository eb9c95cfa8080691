"""Send rows to a table: by LOAD DATA LOCAL where the server allows it, else by INSERT, which takes
longer. Raises pymysql's errors.

Always true: all rows are in the table as they were, or a fault names what the server made of one; the caller takes the
rows back then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pymysql
from msgspec import Struct

from dataflare.connectors.mysql.connection import Db
from dataflare.connectors.mysql.encode import FORM, csv_bytes, into, value_lists
from dataflare.connectors.mysql.errors import ROW_ERRORS, number_of, text_of
from dataflare.connectors.mysql.types import Declared
from dataflare.connectors.mysql.wire import Loaded
from dataflare.model.types import DataType
from dataflare.sdk.sql.names import listed

_HARMLESS = (1287, 1592, 1681, 3719)
"""Warnings about statements, not about values: deprecated words, and what the binary log makes of it."""
_NOT_ALLOWED = (1148, 3948)
"""LOAD DATA LOCAL is not allowed: by the server, or by a proxy before it."""
_CHANGED = (1265, 1366)
_AT_ROW = re.compile(r" at row (\d+)")
_SUSPECTS_MAX = 64
_STATEMENT_BYTES = 1 << 20
_STATEMENT_HEAD = 16 << 10


class Fault(Struct, frozen=True):
    """rows: those that the server named, by their number in the frame. cause: its error, if it was one."""

    text: str
    code: str
    rows: list[int]
    cause: BaseException | None = None


class Sender:
    """Of one connection."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._packet_bytes = 0
        self._by_file: bool | None = None

    def send(
        self,
        place: str,
        types: Mapping[str, DataType],
        columns: Mapping[str, Declared],
        frame: pl.DataFrame,
    ) -> Fault | None:
        """types: of the frame's columns. columns: of the table, by their folded names."""
        if self._by_file is None:
            self._by_file = self._db.rows("select @@local_infile") == [(1,)]
        if self._by_file:
            sql = f"load data local infile 'rows' into table {place} {FORM} {into(types, columns)}"
            try:
                loaded = self._db.load(sql, csv_bytes(frame, types))
            except pymysql.MySQLError as error:
                if number_of(error) not in _NOT_ALLOWED:
                    raise
                self._by_file = False
            else:
                return self._fault(loaded, 0, frame.height)
        return self._insert(f"insert into {place} ({listed(types)}) values ", types, frame)

    def _insert(
        self, head: str, types: Mapping[str, DataType], frame: pl.DataFrame
    ) -> Fault | None:
        """As many rows in a statement as fit."""
        values = value_lists(frame, types)
        sizes = values.str.len_bytes().cast(pl.Int64) + 1
        packet = self._packet()
        long = (sizes > packet - _STATEMENT_HEAD).arg_true().to_list()
        if long:
            text = f"it has {sizes[long[0]]:,} bytes in an INSERT, and max_allowed_packet is {packet:,}"
            return Fault(text, "E0510", long[:_SUSPECTS_MAX])
        room = max(1, min(_STATEMENT_BYTES, packet // 2))
        # A row that begins a new room may be larger than what is left of it.
        parts = ((sizes.cum_sum() - sizes) // room).rle_id().alias("part")
        first = 0
        for rows in values.to_frame().group_by(parts, maintain_order=True).agg(pl.all())["row"]:
            try:
                done = self._db.insert(head + ",".join(rows))
            except pymysql.MySQLError as error:
                if number_of(error) not in ROW_ERRORS:
                    raise
                named = [first + int(m[1]) - 1 for m in _AT_ROW.finditer(text_of(error))]
                return Fault(_AT_ROW.sub("", text_of(error)), "E0510", named, error)
            fault = self._fault(done, first, len(rows))
            if fault is not None:
                return fault
            first += len(rows)
        return None

    def _packet(self) -> int:
        if not self._packet_bytes:
            [(most,)] = self._db.rows("select @@max_allowed_packet")
            self._packet_bytes = int(most)
        return self._packet_bytes

    def _fault(self, done: Loaded, first: int, count: int) -> Fault | None:
        """What the server told of a statement with `count` rows. first: the number of its first row."""
        if done.rows == count and not done.warnings:
            return None
        warnings: Sequence[tuple[Any, ...]] = self._db.rows("show warnings")
        told = [(code, text) for _, code, text in warnings if code not in _HARMLESS]
        if done.rows == count and not told and done.warnings <= len(warnings):
            return None
        rows = {int(m.group(1)) - 1 for _, text in told if (m := _AT_ROW.search(text))}
        suspects = sorted(first + row for row in rows if row < count)[:_SUSPECTS_MAX]
        code, text = told[0] if told else (0, f"{count - done.rows} rows were left out")
        return Fault(_AT_ROW.sub("", text), "E0511" if code in _CHANGED else "E0510", suspects)
