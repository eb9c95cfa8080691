"""What must hold before the changes of a table can be read: checked beforehand, and refused with the statement to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pymysql

from dataflare.connectors.mysql.cdc.dump import register
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.connection import VALUE, Db
from dataflare.connectors.mysql.errors import number_of, text_of
from dataflare.connectors.mysql.relation import backticked
from dataflare.connectors.mysql.tables import Place as TablePlace
from dataflare.errors import ConfigError, DataFlareError, SystemError_

FRESH = "run with --fresh to read the table and its changes anew"
_NO_RIGHT, _FATAL = (1045, 1227), 1236
_SILENT_RULES = ("CASCADE", "SET NULL", "SET DEFAULT")


def check_server(db: Db, server: str, server_id: int | None) -> None:
    """Raises an error if the server has no log of rows. server_id: of this reader, if the user chose it."""
    if not db.is_mariadb:
        raise SystemError_(
            f"{server} is {db.product} {db.version}, and 'cdc' reads the log of MariaDB",
            code="E0600",
            help="read the table with 'incremental', or in full into a destination with mode mirror",
        )
    [(log, form, image, own_id)] = db.rows(
        "select @@global.log_bin, @@global.binlog_format, @@global.binlog_row_image, @@global.server_id"
    )
    if not log:
        raise _unfit(server, "log_bin is OFF", "start the server with --log-bin")
    if form != "ROW":
        raise _unfit(
            server, f"binlog_format is {form}",
            "set global binlog_format = 'ROW', also in the server's configuration, and close the sessions that are open",
        )  # fmt: skip
    if image != "FULL":
        raise _unfit(
            server, f"binlog_row_image is {image}",
            "set global binlog_row_image = 'FULL', also in the server's configuration",
        )  # fmt: skip
    [(lower,)] = db.rows("select @@global.lower_case_table_names")
    if lower == 2:
        raise SystemError_(
            f"{server} has lower_case_table_names = 2, with which its log may name a table otherwise",
            code="E0600",
            help="read a server on Linux or Windows",
        )
    _check_replica(db, server)
    if server_id == own_id:
        raise ConfigError(
            f"'server_id' is {server_id}, which is the id of {server} itself",
            code="E0405",
            help="choose another number, or leave it out",
        )


def _check_replica(db: Db, server: str) -> None:
    """Raises an error for a replica that does not write to its log what its primary sends."""
    [(writes,)] = db.rows("select @@global.log_slave_updates")
    running = db.rows("show global status like 'Slaves_running'")
    if not writes and running and int(running[0][1]):
        raise _unfit(
            server,
            "it is a replica, and log_slave_updates is OFF",
            "start it with --log-slave-updates, or connect to the primary",
        )


def check_table(db: Db, table: TablePlace, server: str) -> None:
    """Raises an error if not all changes of the table are in the log."""
    label = f"table '{table.label}' in {server}"
    if table.view:
        raise ConfigError(
            f"'{table.label}' in {server} is a view, and only tables have changes in the log",
            code="E0405",
            help="name a table, or read the view without 'cdc'",
        )
    if table.engine.lower() != "innodb":
        raise SystemError_(
            f"{label} has the engine {table.engine}, which has no transactions",
            code="E0605",
            help=f"alter table {backticked(table.schema)}.{backticked(table.name)} engine = InnoDB",
        )
    if table.versioned:
        raise SystemError_(
            f"{label} is system-versioned: its log also has the rows of its history, which are not read",
            code="E0605",
            help="read the table without 'cdc'",
        )
    rules = db.rows(
        "select constraint_name, update_rule, delete_rule from information_schema.referential_constraints "
        f"where constraint_schema = {VALUE} and table_name = {VALUE}",
        [table.schema, table.name],
    )
    for name, on_update, on_delete in rules:
        acts = [rule for rule in (on_update, on_delete) if rule in _SILENT_RULES]
        if acts:
            raise SystemError_(
                f"{label} has the foreign key '{name}' with {acts[0]}, and the server does not write what it does "
                "to its log",
                code="E0605",
                help="define the foreign key without such a rule, or read the table without 'cdc'",
            )


def check_right(db: Db, server: str, server_id: int) -> None:
    """Raises an error if the user may not be a replica."""
    try:
        register(db, server_id)
    except pymysql.MySQLError as error:
        raise refused(error, server) or error from error


def end_of_log(db: Db, server: str) -> Place:
    """Behind the last transaction."""
    file, offset, *_ = _status(db, server)
    return located(db, file, offset)


def check_logged(db: Db, server: str, schema: str) -> None:
    """Raises an error if the database is left out of the log."""
    _, _, only, but = _status(db, server)
    if (only and schema not in only.split(",")) or schema in but.split(","):
        raise _unfit(
            server, f"its log leaves out the database '{schema}'",
            "take it out of binlog_do_db and binlog_ignore_db in the server's configuration",
        )  # fmt: skip


def _status(db: Db, server: str) -> tuple[Any, ...]:
    try:
        rows = db.rows("show master status")
    except pymysql.MySQLError as error:
        raise refused(error, server) or error from error
    if not rows:
        raise _unfit(server, "log_bin is OFF", "start the server with --log-bin")
    return rows[0][:4]


def located(db: Db, file: str, offset: int) -> Place:
    """A place of the log, with the transactions before it, where the server can tell them: it reads the file, and
    not events that are larger than its max_allowed_packet."""
    [(gtid,)] = db.rows(f"select binlog_gtid_pos({VALUE}, {VALUE})", [file, offset])
    return Place.of(file, offset, gtid or "")


def continued(db: Db, place: Place, server: str) -> Place:
    """Where the log of the server goes on from a place: there, or behind the last transactions where the server is another
    one, or has begun its log anew. Raises an error if it does not have these transactions."""
    if place.file:
        found = located(db, place.file, place.offset)
        if found.gtids and found.gtids.items() >= place.gtids.items():
            return place
    if place.gtids and _has_passed(db, place):
        if (first := _begins_behind(db, place)) is not None:
            raise _gone(server, f"it begins with {first} now, and was purged before it was read")
        return place.by_gtid
    try:
        sizes = {str(name): int(size) for name, size, *_ in db.rows("show binary logs")}
    except pymysql.MySQLError as error:
        raise refused(error, server) or error from error
    if place.file not in sizes:
        first = next(iter(sizes), None)
        why = f"it begins with {first} now: {place.file or place} was purged, or the log was reset"
        raise _gone(server, why)
    if not place.gtids and not found.gtids and place.offset <= sizes[place.file]:
        return place
    raise SystemError_(
        f"the log of {server} does not go on where the last run ended: it does not have the transactions before {place}, "
        f"which were {place.gtid or 'none'} and are {found.gtid or 'others'} now: the log was reset, or this is another "
        "server, which has not received them",
        code="E0605",
        help=f"connect to a server that has them, or {FRESH}",
    )


def is_another_log(server: str, place: Place) -> str:
    """What is told where a log goes on behind the last transactions."""
    return (
        f"{server} is not the server that was read before, or has begun its log anew: its changes behind the transaction "
        f"{place.gtid} are read"
    )


def _begins_behind(db: Db, place: Place) -> str | None:
    """The first file of the log, if transactions between a place and it were purged."""
    first = str(db.rows("show binary logs")[0][0])
    # This statement takes a plain literal only.
    name = first.replace("\\", "\\\\").replace("'", "''")
    events = db.rows(f"show binlog events in '{name}' limit 4")
    listed = next((str(event[5]) for event in events if event[2] == "Gtid_list"), "[]")
    # Of each domain the newest is the last one.
    before = Place.of(first, 0, listed.strip("[]")).gtids
    for domain, gtid in before.items():
        known = place.gtids.get(domain)
        if known is None or _number(known) < _number(gtid):
            return first
    return None


def _number(gtid: str) -> int:
    return int(gtid.rpartition("-")[2])


def _gone(server: str, why: str) -> SystemError_:
    return SystemError_(
        f"the log of {server} does not go on where the last run ended: {why}",
        code="E0605",
        help=f"{FRESH}, and raise binlog_expire_logs_seconds or run more often",
    )


def _has_passed(db: Db, place: Place) -> bool:
    """Whether the server has written the transactions before a place, and not begun to count anew since."""
    [(state,)] = db.rows("select @@global.gtid_binlog_state")
    last: dict[str, int] = {}
    for each in filter(None, str(state).split(",")):
        origin, _, number = each.strip().rpartition("-")
        last[origin] = int(number)
    known = (gtid.rpartition("-") for gtid in place.gtids.values())
    return all(last.get(origin, -1) >= int(number) for origin, _, number in known)


def refused(error: pymysql.MySQLError, server: str) -> DataFlareError | None:
    """DataFlare's error for what concerns the log; None for another one."""
    number, text = number_of(error), text_of(error)
    if number in _NO_RIGHT:
        return SystemError_(
            f"the user may not read the log of {server}: {text}",
            code="E0602",
            help="grant replication slave, binlog monitor on *.* to the user",
        )
    if number == _FATAL and "server_id" in text:
        return SystemError_(
            f"another reader of {server} has the same server id: {text}",
            code="E0605",
            help="give each reader its own: cdc: {server_id: ...}, or leave it out",
        )
    if number == _FATAL and "purged" in text:
        return _gone(server, f"it was purged: {text}")
    if number == _FATAL:
        return SystemError_(f"the log of {server} cannot be read: {text}", code="E0605", help=FRESH)
    return None


def log_facts(db: Db) -> Mapping[str, str]:
    """For `dataflare check`."""
    [(days,)] = db.rows("select @@global.expire_logs_days")
    return {"log": f"kept for {float(days):g} days" if days else "kept until it is purged by hand"}


def _unfit(server: str, why: str, help_: str) -> SystemError_:
    return SystemError_(
        f"{server} does not write what 'cdc' needs to its log: {why}", code="E0605", help=help_
    )
