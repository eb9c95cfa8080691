"""How much of the log comes behind a position, and whether the server may remove it before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from dataflare.connectors.mysql.cdc.checks import continued
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.cdc.standing import Standing
from dataflare.connectors.mysql.connection import Db
from dataflare.errors import SystemError_
from dataflare.sdk.logs import KeptLog

_NAME = "binlog"
_MUCH, _NEAR = 20 << 30, 0.8
"""Bytes of the log, and the part of the time for which the server keeps it, from which on users are told."""
_DAY_S = 86_400


class Lag(Struct, frozen=True):
    """size: bytes behind the position. age_s: of the position, where the log has gone on to another file since; else 0.
    kept_s: for how long the server keeps its log; 0: until it is removed by hand. is_there: whether the server has the
    file."""

    size: int
    age_s: int
    kept_s: int
    is_there: bool = True

    def doubt(self, server: str) -> str | None:
        """What a user should know of it, if it is much."""
        if self.kept_s and self.age_s >= _NEAR * self.kept_s:
            return (
                f"changes of {server} are read more than {_NEAR:.0%} of the time later for which it keeps its log "
                f"({self.kept_s:,} s, binlog_expire_logs_seconds): what is removed before it is read is lost"
            )
        if self.size >= _MUCH:
            return (
                f"more than {_MUCH >> 20:,} MiB of the log of {server} are not read, because changes are not read or "
                "not committed fast enough"
            )
        return None


def lag_of(db: Db, place: Place, second: int) -> Lag:
    """second: when the last event before the place was written; 0: unknown. Raises pymysql's errors."""
    files = [(str(row[0]), int(row[1])) for row in db.rows("show binary logs")]
    [(days, now)] = db.rows("select @@global.expire_logs_days, unix_timestamp()")
    names = [name for name, _ in files]
    if place.file not in names:
        return Lag(sum(size for _, size in files), 0, int(float(days) * _DAY_S), is_there=False)
    at = names.index(place.file)
    size = sum(size for _, size in files[at:]) - place.offset
    is_last = at == len(files) - 1
    age_s = 0 if is_last or not second else max(0, int(now) - second)
    return Lag(max(0, size), age_s, int(float(days) * _DAY_S))


def kept_log(db: Db, position: Mapping[str, Any], server: str, table: str) -> KeptLog:
    """What the server has of its log behind a position. table: the one that an earlier version followed alone, and did
    not name. Raises pymysql's errors."""
    facts = {"server": server}
    standing = Standing.from_json(position, table) if position else None
    if standing is None or standing.place is None:
        return KeptLog(_NAME, "not there", facts=facts)
    place = standing.place
    tables = [name for name, table in standing.tables.items() if not table.gone]
    if place.gtid:
        facts["gtid"] = place.gtid
    try:
        continued(db, place, server)
    except SystemError_:
        return KeptLog(_NAME, "lost", True, str(place), None, facts, tables)
    lag = lag_of(db, place, 0)
    if lag.kept_s:
        facts["kept_seconds"] = f"{lag.kept_s}"
    size = lag.size if lag.is_there else None
    return KeptLog(_NAME, "waiting", False, str(place), size, facts, tables)
