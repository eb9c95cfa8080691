"""Convert errors of MySQL, MariaDB and pymysql into DataFlare's errors. The error number decides; the
numbers are those of https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pymysql

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_
from dataflare.sdk.sql.names import HELP
from dataflare.security.redact import redact_pieces

CONNECTION_LOST = "E0607"
_RESTART = "the run continues from the last checkpoint when it is run again"
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


def text_of(error: BaseException) -> str:
    args = error.args
    text = str(args[1]) if len(args) > 1 else str(error) or type(error).__name__
    return redact_pieces(text.strip().splitlines()[0] if text.strip() else type(error).__name__)


def translated(error: Exception, server: str, subject: str) -> DataFlareError:
    """DataFlare's error for another exception. server: host, port and database. subject: the table or the
    operation."""
    number, text = number_of(error), text_of(error)
    original = getattr(error, "original_exception", None)
    if isinstance(error, ssl.SSLError) or isinstance(original, ssl.SSLError) or number == 2026:
        return SystemError_(
            f"no TLS connection to {server}: {text}",
            code="E0609",
            help="check ssl_mode, ssl_ca and similar settings in 'connection_string'",
        )
    if number in ROW_ERRORS:
        return DataError(f"{subject} refuses a row: {text}", code="E0510", help=HELP)
    for numbers, made in (
        (_LOGIN, SystemError_(
            f"{server} refuses the login: {text}", code="E0606",
            help="check user and password in 'connection_string', and the user's host on the server")),
        (_RIGHTS, SystemError_(
            f"{subject}: {text}", code="E0602", help="grant the user the right")),
        (_MISSING, SystemError_(
            f"{subject} in {server}: {text}", code="E0604",
            help="see whether database, table and columns are there and spelt right")),
        (_LOCKED, SystemError_(
            f"{subject} in {server} is locked by another program: {text}", code="E0605",
            retry=Retry.LATER, help="wait for it, or raise 'lock_timeout'")),
        (_READ_ONLY, SystemError_(
            f"{server} may not be written: {text}", code="E0602",
            help="it is read-only, or a replica: connect to the primary")),
        (_FULL, SystemError_(
            f"disk full at {server}: {text}", code="E0603", retry=Retry.LATER,
            help="free some space there and run again: the run continues from the last checkpoint")),
        (_TOO_LONG, SystemError_(
            f"{subject} in {server} was stopped: {text}", code="E0608", retry=Retry.LATER,
            help="run again: the run continues from the last checkpoint")),
    ):  # fmt: skip
        if number in numbers:
            return made
    if "timed out" in text:
        return SystemError_(
            f"{subject} in {server} took too long: {text}",
            code="E0608",
            retry=Retry.LATER,
            help="raise 'statement_timeout' or 'connect_timeout'",
        )
    if number in _LOST or isinstance(error, OSError | pymysql.InterfaceError):
        return SystemError_(
            f"no connection to {server}: {text}",
            code=CONNECTION_LOST,
            retry=Retry.LATER,
            help=_RESTART,
        )
    return SystemError_(
        f"{subject} failed at {server}: {text}",
        code="E0600",
        help="fix the cause that the server reports, and run again",
    )


@contextmanager
def mysql_errors(server: str, subject: str) -> Iterator[None]:
    """Convert the library's exceptions inside into DataFlare's errors."""
    try:
        yield
    except (pymysql.MySQLError, OSError) as error:
        raise translated(error, server, subject) from error


def is_lost(error: DataFlareError) -> bool:
    """Whether the connection is lost, so that a new one may help."""
    return error.code == CONNECTION_LOST and error.retry is Retry.LATER
