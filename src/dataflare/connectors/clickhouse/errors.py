"""Convert ClickHouse's errors into DataFlare's errors. The number decides; the numbers are those of
`system.errors`."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from dataflare.errors import DataFlareError
from dataflare.sdk.sql.server_errors import Fault
from dataflare.security.redact import redact_pieces

_LOGIN = (192, 193, 194, 195, 516)
_RIGHTS = (164, 291, 497)
_MISSING = (16, 47, 60, 81, 218)
_BUSY = (202, 203, 225, 242, 252, 285, 319, 341, 425, 439, 473, 517, 745, 999)
_LOST = (209, 210, 236, 279)
_SLOW = (159, 394)
_FULL = (243, 620)
_MEMORY = (173, 241)
_READ_ONLY = (719,)
ROW_ERRORS = (6, 26, 27, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 407, 469, 675, 676, 691)
"""The server refuses a value or a row: it cannot be parsed or converted, or violates a constraint."""
SYNTAX = (36, 42, 43, 44, 46, 62, 63, 206, 207, 215, 352, 386)
_TEXT = re.compile(r"Code: (\d+)\. DB::Exception: (.*?)(?:\s*\(version [^)]*\))?\s*$", re.DOTALL)
_EXCEPTION = re.compile(rb"Code: (\d+)\. DB::Exception: ([^\n]*)")


class Refused(Exception):
    """The server answered with an error. number: of the error."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number, self.text = number, text

    @classmethod
    def of(cls, number: int, body: bytes) -> Refused:
        """From an answer, or from what stands at the end of an interrupted one."""
        text = body.decode(errors="replace").strip()
        match = _TEXT.search(text)
        if match is not None:
            number, text = number or int(match[1]), match[2]
        return cls(number, " ".join(text.split())[:500])


class Interrupted(Exception):
    """An answer ended before its end."""


def exception_in(tail: bytes) -> Refused | None:
    """The error in the last bytes of an answer that broke off."""
    match = _EXCEPTION.search(tail)
    if match is None:
        return None
    return Refused.of(int(match[1]), match[0])


def translated(error: Exception, server: str, subject: str) -> DataFlareError:
    """DataFlare's error for another exception. server: host, port and database. subject: the table or the
    operation."""
    if isinstance(error, Refused):
        return _of_number(error.number, Fault(server, subject, redact_pieces(error.text)))
    fault = Fault(server, subject, redact_pieces(str(error) or type(error).__name__))
    if isinstance(error, ssl.SSLError):
        return fault.no_tls("secure, ca, cert and key")
    if isinstance(error, TimeoutError):
        return fault.slow("'statement_timeout' or 'connect_timeout'")
    return fault.lost()


def _of_number(number: int, fault: Fault) -> DataFlareError:
    what = f"{fault.subject} in {fault.server}"
    if number in ROW_ERRORS:
        return fault.refused_row()
    if number in _LOGIN:
        return fault.refused_login()
    if number in _RIGHTS:
        return fault.no_right(
            "; a user with readonly = 1 may not make settings, and needs readonly = 2"
        )
    if number in _READ_ONLY:
        return fault.read_only("connect to another replica")
    if number in _MISSING:
        return fault.missing("database")
    if number in _BUSY:
        return fault.later(f"{what} is not available now", "E0607")
    if number in _LOST:
        return fault.lost()
    if number in _SLOW:
        help_ = "raise the limit of the user's profile on the server, or run again"
        return fault.later(f"{what} was stopped", "E0608", help_)
    if number in _MEMORY:
        help_ = "raise max_memory_usage on the server, or lower 'batch_size'"
        message = f"{fault.server} has not enough memory for {fault.subject}"
        return fault.later(message, "E0608", help_)
    if number in _FULL:
        return fault.disk_full()
    return fault.failed(f" (error {number})")


@contextmanager
def clickhouse_errors(server: str, subject: str) -> Iterator[None]:
    """Convert the exceptions inside into DataFlare's errors."""
    try:
        yield
    except (Refused, Interrupted, HTTPException, OSError) as error:
        raise translated(error, server, subject) from error
