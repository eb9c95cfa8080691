"""Convert errors of MySQL, MariaDB and pymysql into DataFlare's errors. The error number decides; the
numbers are those of https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pymysql

from dataflare.errors import DataFlareError
from dataflare.sdk.sql.server_errors import Fault
from dataflare.security.redact import redact_pieces

_LOGIN = (1045, 1698, 1251, 2059, 1275, 1862, 1820)
_RIGHTS = (1044, 1142, 1143, 1227, 1370, 1370, 3118, 4151)
_MISSING = (1049, 1051, 1054, 1109, 1146)
_LOCKED = (1205, 1213, 1614, 3572, 3058)
_LOST = (
    1040, 1053, 1077, 1078, 1152, 1153, 1158, 1159, 1160, 1161, 1184, 1203, 1226, 1927, 2002, 2003, 2006,
    2013, 2014, 2055, 3169, 4031,
)  # fmt: skip
_FULL = (1021, 1114, 3, 1030)
_READ_ONLY = (1290, 1792, 1836, 3100)
_TOO_LONG = (1317, 1969, 3024)
_ALTERED = 1412
"""A table was altered since the snapshot was made."""
ROW_ERRORS = (
    1048, 1062, 1136, 1138, 1216, 1217, 1261, 1262, 1263, 1264, 1265, 1292, 1364, 1365, 1366, 1367, 1369,
    1406, 1411, 1416, 1441, 1451, 1452, 1525, 1526, 1557, 1560, 1586, 1644, 1690, 1761, 1762, 1859, 1900,
    3140, 3156, 3157, 3819, 3854, 4025, 4036, 4037, 4038, 4161,
)  # fmt: skip
"""The server refuses a value or a row: by type, NULL, a key, a foreign key, a check, a trigger's SIGNAL."""
ORPHAN = (1216, 1452)
"""The row that a row names does not exist."""


def number_of(error: BaseException | None) -> int:
    """The error number; 0 if there is none."""
    args = getattr(error, "args", ())
    return args[0] if args and isinstance(args[0], int) else 0


_CUT = ssl.SSLEOFError, ssl.SSLZeroReturnError
"""A connection that ends while TLS is agreed upon, as when the server dies."""


def text_of(error: BaseException) -> str:
    args = error.args
    text = str(args[1]) if len(args) > 1 else str(error) or type(error).__name__
    return redact_pieces(text.strip().splitlines()[0] if text.strip() else type(error).__name__)


def translated(error: Exception, server: str, subject: str) -> DataFlareError:
    """DataFlare's error for another exception. server: host, port and database. subject: the table or the
    operation."""
    number, fault = number_of(error), Fault(server, subject, text_of(error))
    original = getattr(error, "original_exception", None)
    if isinstance(error, _CUT) or isinstance(original, _CUT):
        return fault.lost()
    if isinstance(error, ssl.SSLError) or isinstance(original, ssl.SSLError) or number == 2026:
        return fault.no_tls("ssl_mode, ssl_ca and similar settings")
    if number in ROW_ERRORS:
        return fault.refused_row()
    if number in _LOGIN:
        return fault.refused_login(", and the user's host on the server")
    if number in _RIGHTS:
        return fault.no_right()
    if number in _MISSING:
        return fault.missing("database")
    if number in _LOCKED:
        what = f"{subject} in {server} is locked by another program"
        return fault.later(what, "E0605", "wait for it, or raise 'lock_timeout'")
    if number == _ALTERED:
        what = f"{subject} in {server} was altered while it was read"
        return fault.later(what, "E0605", "the run goes on behind the last key in a new snapshot")
    if number in _READ_ONLY:
        return fault.read_only("it is read-only, or a replica: connect to the primary")
    if number in _FULL:
        return fault.disk_full()
    if number in _TOO_LONG:
        help_ = "run again: the run continues from the last checkpoint"
        return fault.later(f"{subject} in {server} was stopped", "E0608", help_)
    if "timed out" in fault.text:
        return fault.slow("'statement_timeout' or 'connect_timeout'")
    if number in _LOST or isinstance(error, OSError | pymysql.InterfaceError):
        return fault.lost()
    return fault.failed()


@contextmanager
def mysql_errors(server: str, subject: str) -> Iterator[None]:
    """Convert the library's exceptions inside into DataFlare's errors."""
    try:
        yield
    except (pymysql.MySQLError, OSError) as error:
        raise translated(error, server, subject) from error
