"""Cut the events of the log into transactions, and keep those that change tables which are followed. Pure.

Always true: changes stand in the order of their commits; of a transaction that is rolled back, or only prepared, no
change is taken for committed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.mysql.cdc.history import Columns, Refused, altered
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.cdc.sql_text import Session, Spelling
from dataflare.connectors.mysql.cdc.statements import Statement, Verdict
from dataflare.connectors.mysql.cdc.table_map import TableMap, length_at, table_map
from dataflare.errors import DataError, InternalError, SystemError_
from dataflare.sdk.sql.changes import truncated
from dataflare.sdk.sql.read_again import ANOTHER, READ_AGAIN

_HEADER = 19
_QUERY, _ROTATE, _FORMAT, _XID, _TABLE_MAP = 2, 4, 15, 16, 19
_XA_PREPARE, _TRANSACTION_PAYLOAD, _PARTIAL_UPDATE = 38, 40, 39
_GTID, _QUERY_COMPRESSED, _GTID_OF_MYSQL = 162, 165, (33, 34, 42)
_STANDALONE, _WITH_GROUP, _PREPARED, _OF_XA = 1, 2, 64, 64 | 128
_STARTS_ALTER, _ROLLS_ALTER_BACK = 2, 8
"""Flags of a transaction. With binlog_alter_two_phase an ALTER TABLE is in the log when it starts, and again when it is
committed or rolled back."""
WRITE, UPDATE, DELETE = 0, 1, 2
_KINDS = {23: WRITE, 24: UPDATE, 25: DELETE, 30: WRITE, 31: UPDATE, 32: DELETE}
_COMPRESSED = {166: 23, 167: 24, 168: 25}
_INCIDENT, _LOAD_QUERY = 26, 18
_OF_TEMPORARY = 4
"""A flag of events: the statement used a temporary table."""
_OLD = (6, 8, 10, 12, 20, 21, 22)
"""Rows and files as servers wrote them that are older than any which is read."""


class Logged(NamedTuple):
    """Of an event: when the statement began that committed it, in seconds; behind which place of the log it ends; its transaction."""

    second: int
    lsn: int
    gtid: str


class Change(NamedTuple):
    """Rows of one event. kind: WRITE, UPDATE or DELETE. logged: where it is asked for."""

    kind: int
    table: TableMap
    rows: bytes
    logged: Logged | None = None

    @property
    def label(self) -> str:
        return self.table.label


class Truncation(NamedTuple):
    """All rows of a table went. label: its name."""

    label: str
    rows: bytes = b""


class Tracked(Struct, frozen=True):
    """A table that is followed. columns: where the log is read from. read: those that are read, in lower case. step: for
    errors. is_of_many: whether the run goes on without it when it is dropped. not_truncated: the step behind it that takes
    no TRUNCATE. copies: whether its rows were given."""

    schema: str
    name: str
    columns: Columns
    read: frozenset[str]
    step: str
    is_of_many: bool
    not_truncated: str | None = None
    copies: bool = True

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def may_be_read_again(self) -> bool:
        return self.copies and self.not_truncated is None

    @property
    def mark(self) -> bytes:
        """How its events begin."""
        parts = (self.schema.encode(), self.name.encode())
        return b"".join(bytes([len(part)]) + part + b"\0" for part in parts)


class Piece(Struct):
    """Changes in order. end: the place behind them; None inside a transaction. columns: of the tables behind them. gone:
    those that were dropped. again: those whose rows are others since, and why."""

    changes: list[Change | Truncation]
    columns: Mapping[str, Columns]
    gone: frozenset[str]
    again: Mapping[str, str]
    end: Place | None = None

    def by_table(self) -> dict[str, list[Change | Truncation]]:
        found: dict[str, list[Change | Truncation]] = {}
        for change in self.changes:
            found.setdefault(change.label, []).append(change)
        return found


def parts_of(changes: Sequence[Change | Truncation]) -> Iterator[list[Change] | None]:
    """The changes of a table between truncations, and None for each of these."""
    held: list[Change] = []
    for change in changes:
        if isinstance(change, Change):
            held.append(change)
            continue
        if held:
            yield held
        yield None
        held = []
    if held:
        yield held


class Assembler:
    """Takes events as they come. start: where the log is read from. tables: those that are followed. server: for
    messages. spelling: of its statements. tells: whether changes have `logged`."""

    def __init__(
        self, start: Place, tables: Sequence[Tracked], server: str, spelling: Spelling, *, tells: bool = False
    ) -> None:  # fmt: skip
        self._tells, self._spelling = tells, spelling
        self.end = start
        """Behind the last transaction that has ended."""
        self.held_bytes = 0
        """Of changes that were not given."""
        self.is_open = False
        self.second = 0
        """When the last transaction was written, by the server's clock; 0: unknown."""
        self.columns: Mapping[str, Columns] = {each.label: each.columns for each in tables}
        """Of the tables, behind the last event."""
        self.gone: frozenset[str] = frozenset()
        self.again: Mapping[str, str] = {}
        """Tables that are to be read again, and why: their rows behind that are not kept."""
        self._tracked = list(tables)
        self._marks = {each.mark: each for each in tables}
        self._server = server
        self._maps: dict[bytes, TableMap] = {}
        self._tables: dict[int, TableMap] = {}
        self._file = start.file
        self._gtids = dict(start.gtids)
        self._gtid, self._second = "", 0
        self._domain = 0
        self._flags = self._more_flags = 0
        self._changes: list[Change | Truncation] = []
        self._complete = 0
        self._changed: TableMap | None = None
        """A table that the open transaction has changed."""

    @property
    def has_complete(self) -> bool:
        """Whether a transaction has ended whose changes were not given."""
        return self._complete > 0

    def add(self, event: bytes) -> None:
        """Raises an error for what cannot be followed."""
        type_ = event[4]
        kind = _KINDS.get(type_)
        if kind is not None:
            self._add_rows(event, kind, type_ >= 30)
        elif type_ == _TABLE_MAP:
            self._add_table(event)
        elif type_ == _GTID:
            self._begin(event)
        elif type_ == _XID:
            self._finish(event)
        elif type_ == _QUERY:
            self._add_statement(event, event[_HEADER:])
        elif type_ == _QUERY_COMPRESSED:
            self._add_statement(event, event[_HEADER:], is_compressed=True)
        elif type_ == _LOAD_QUERY:
            # Behind what a statement has there is the number of the file, and where its name stands.
            self._add_statement(event, event[_HEADER : _HEADER + 13] + event[_HEADER + 26 :])
        elif type_ == _ROTATE:
            self._rotate(event)
        elif type_ in _COMPRESSED:
            self._add_rows(event, _KINDS[_COMPRESSED[type_]], False, is_compressed=True)
        elif type_ == _XA_PREPARE:
            self._prepare(event)
        elif type_ == _INCIDENT:
            raise self._lost("the server tells of an incident: it may have lost events of its log")
        elif type_ in (_TRANSACTION_PAYLOAD, _PARTIAL_UPDATE, *_GTID_OF_MYSQL, *_OLD):
            raise InternalError(
                f"the log of {self._server} has an event of the type {type_}, which is not read"
            )
        elif not self.is_open:
            self._pass(event)

    def give(self) -> Piece:
        """The changes of transactions that have ended, or what there is of the open one if none has."""
        if self._complete or not self._changes:
            done = self._changes[: self._complete]
            piece = Piece(done, self.columns, self.gone, self.again, self.end)
            self._changes = self._changes[self._complete :]
        else:
            piece = Piece(self._changes, self.columns, self.gone, self.again)
            self._changes = []
        self._complete = 0
        self.held_bytes = sum(len(each.rows) for each in self._changes)
        return piece

    # -- transactions ------------------------------------------------------------------------------

    def _begin(self, event: bytes) -> None:
        number = int.from_bytes(event[_HEADER : _HEADER + 8], "little")
        self._domain = int.from_bytes(event[_HEADER + 8 : _HEADER + 12], "little")
        self._flags = event[_HEADER + 12]
        self._more_flags = _more_flags(event, self._flags)
        server = int.from_bytes(event[5:9], "little")
        self._second = int.from_bytes(event[:4], "little")
        self._gtid = f"{self._domain}-{server}-{number}"
        self.is_open, self._changed = True, None

    def _finish(self, event: bytes) -> None:
        if self._gtid:
            self._gtids[self._domain] = self._gtid
        self.is_open, self._gtid = False, ""
        self.end = Place(self._file, self._behind(event), dict(self._gtids))
        self._complete = len(self._changes)
        self.second = int.from_bytes(event[:4], "little")

    def _behind(self, event: bytes) -> int:
        """The place behind the event. Events have its lowest 32 bits."""
        low, last = int.from_bytes(event[13:17], "little"), self.end.offset
        if self._file != self.end.file:
            return low
        behind = last & ~0xFFFFFFFF | low
        return behind if behind >= last else behind + (1 << 32)

    def _pass(self, event: bytes) -> None:
        """An event between transactions: a new file begins with some."""
        offset = self._behind(event) if any(event[13:17]) else 0
        if self._file == self.end.file and offset > self.end.offset and event[4] != _FORMAT:
            self.end = Place(self._file, offset, self.end.gtids)

    def _prepare(self, event: bytes) -> None:
        if self._changed is not None:
            raise DataError(
                f"a transaction of XA changed table '{self._changed.label}', and such transactions are not read, "
                "because they are in the log before they are committed",
                code="E0545",
                help=READ_AGAIN,
            )
        self._finish(event)

    def _rotate(self, event: bytes) -> None:
        file = event[_HEADER + 8 :].decode()
        self._tables.clear()
        self._file = file
        if not self.is_open and file != self.end.file:
            offset = int.from_bytes(event[_HEADER : _HEADER + 8], "little")
            self.end = Place(file, offset, dict(self._gtids))

    # -- rows --------------------------------------------------------------------------------------

    def _add_table(self, event: bytes) -> None:
        body = event[_HEADER:]
        number = int.from_bytes(body[:6], "little")
        middle = 8 + body[8] + 2
        tracked = self._marks.get(body[8 : middle + body[middle] + 2])
        if tracked is None or tracked.label in self.again:
            self._tables.pop(number, None)
            return
        if tracked.label in self.gone:
            raise self._lost(
                f"rows of table '{tracked.label}' come behind the statement with which it went"
            )
        shape = body[8:]
        known = self._maps.get(shape)
        if known is None:
            known = replace(table_map(body), columns=self.columns[tracked.label])
            self._maps[shape] = known
        self._tables[number] = known

    def _add_rows(
        self, event: bytes, kind: int, has_extra: bool, *, is_compressed: bool = False
    ) -> None:
        table = self._tables.get(int.from_bytes(event[_HEADER : _HEADER + 6], "little"))
        if table is None:
            return
        at = _HEADER + 8
        if has_extra:
            at += int.from_bytes(event[at : at + 2], "little")
        count, at = length_at(event, at)
        width = (count + 7) // 8
        for _ in range(2 if kind == UPDATE else 1):
            if not _is_whole(event[at : at + width], count):
                raise self._lost(
                    f"a session wrote changes of table '{table.label}' without all columns "
                    "(binlog_row_image was not FULL)"
                )
            at += width
        rows = event[at:]
        if is_compressed:
            rows = zlib.decompress(rows[1 + (rows[0] & 7) :])
        self._changes.append(
            Change(kind, table, rows, self._logged(event) if self._tells else None)
        )
        self.held_bytes += len(rows)
        self._changed = table
        if self._flags & _PREPARED:
            self._prepare(event)

    def _logged(self, event: bytes) -> Logged:
        place = Place(self._file, self._behind(event), {})
        return Logged(self._second, place.number, self._gtid)

    # -- statements --------------------------------------------------------------------------------

    def _add_statement(self, event: bytes, body: bytes, *, is_compressed: bool = False) -> None:
        if self._more_flags & (_STARTS_ALTER | _ROLLS_ALTER_BACK):
            self._finish(event)
            return
        schema_size, status_size = body[8], int.from_bytes(body[11:13], "little")
        at = 13 + status_size
        schema = body[at : at + schema_size].decode(errors="replace")
        sql = body[at + schema_size + 1 :]
        if is_compressed:
            sql = zlib.decompress(sql[1 + (sql[0] & 7) :])
        statement = Statement(
            sql, schema, Session.of(body[13:at], self._spelling), folds=self._spelling.folds,
            is_shadowed=bool(event[17] & _OF_TEMPORARY),
        )  # fmt: skip
        match statement.control:
            case Verdict.BEGIN:
                self.is_open = True
                return
            case Verdict.ROLLBACK | Verdict.ROLLBACK_TO if self._changed is not None:
                raise self._lost(
                    f"a transaction that changed table '{self._changed.label}' was rolled back in the log, because it "
                    "also changed a table without transactions"
                )
            case Verdict.COMMIT | Verdict.ROLLBACK:
                self._finish(event)
                return
            case None:
                for table in self._tracked:
                    self._take(statement, table)
        if self._flags & _STANDALONE or not self.is_open:
            self._finish(event)

    def _take(self, statement: Statement, table: Tracked) -> None:
        """What a statement is to a table. Raises an error where its changes cannot be followed."""
        verdict, is_gone = statement.to(table.schema, table.name), table.label in self.gone
        match verdict:
            case Verdict.COMES if is_gone:
                self.gone -= {table.label}
                self._read_again(statement, table, ANOTHER)
            case _ if is_gone:
                return
            case Verdict.GOES if table.is_of_many:
                self.gone |= {table.label}
                self.again = {k: why for k, why in self.again.items() if k != table.label}
                self._forget()
            case _ if table.label in self.again:
                return
            case Verdict.TRUNCATES if table.not_truncated is None:
                self._changes.append(Truncation(table.label))
            case Verdict.TRUNCATES:
                assert table.not_truncated is not None
                label = f"table '{table.label}' in {self._server}"
                raise truncated(label, table.label, table.not_truncated, table.step)
            case Verdict.CHANGES_TABLE | Verdict.GOES:
                self._read_again(statement, table)
            case Verdict.CHANGES_COLUMNS:
                clauses = statement.column_clauses(table.schema, table.name)
                try:
                    columns = altered(self.columns[table.label], clauses, table.read)
                except Refused as refused:
                    if refused.is_drop:
                        raise self._altered(statement, table, refused) from None
                    self._read_again(statement, table, refused=refused)
                    return
                self.columns = {**self.columns, table.label: columns}
                self._forget()
            case Verdict.NOT_UNDERSTOOD:
                raise DataError(
                    f"a statement in the log may have changed table '{table.label}', and it cannot be told how: "
                    f"{statement.head} ...",
                    code="E0545",
                    step=table.step,
                    help=READ_AGAIN,
                )
            case Verdict.CHANGES_ROWS:
                raise self._lost(
                    f"it has a statement in place of the rows that it changed: {statement.head} ...",
                    "set global binlog_format = 'ROW', and close the sessions that are open; then "
                    f"{READ_AGAIN}",
                )

    def _forget(self) -> None:
        """A table is another one from here on."""
        self._maps.clear()
        self._tables.clear()

    def _read_again(
        self, statement: Statement, table: Tracked, why: str = "", refused: Refused | None = None
    ) -> None:
        """Its rows are others from here on. Raises an error where it cannot be read again."""
        if not table.may_be_read_again:
            raise self._altered(statement, table, refused)
        self.again = {**self.again, table.label: why or f"it was changed by {statement.shown}"}
        self._forget()

    def _altered(
        self, statement: Statement, table: Tracked, refused: Refused | None = None
    ) -> DataError:
        why = f"; {refused.why}" if refused is not None and refused.why else ""
        if (step := table.not_truncated) is not None:
            why += f"; step '{step}' cannot take back the rows that it has"
        help_ = READ_AGAIN
        if refused is not None and refused.is_drop:
            help_ = (
                "run again: the run then has the columns that the table has now. If it has this column again, "
                f"{READ_AGAIN}"
            )
        return DataError(
            f"table '{table.label}' was changed by the statement: {statement.shown}{why}",
            code="E0545",
            step=table.step,
            help=help_,
        )

    def _lost(self, what: str, help_: str = "") -> SystemError_:
        return SystemError_(
            f"the log of {self._server} cannot be followed: {what}",
            code="E0605",
            help=help_ or READ_AGAIN,
        )


def _more_flags(event: bytes, flags: int) -> int:
    """Of the event with which a transaction begins."""
    at = _HEADER + 13
    if flags & _WITH_GROUP:
        at += 8
    if flags & _OF_XA:
        at += 6 + event[at + 4] + event[at + 5]
    return event[at] if at < len(event) else 0


def _is_whole(bitmap: bytes, count: int) -> bool:
    """Whether all columns are there."""
    return int.from_bytes(bitmap, "little") | (-1 << count) == -1


def by_shape(changes: Sequence[Change]) -> list[list[int]]:
    """The numbers of the changes of each kind and table."""
    found: dict[tuple[int, int], list[int]] = {}
    for number, change in enumerate(changes):
        found.setdefault((change.kind, id(change.table)), []).append(number)
    return list(found.values())
