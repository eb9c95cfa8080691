"""Convert ClickHouse's errors into DataFlare's errors. The number decides; the numbers are those of
`system.errors`."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_
from dataflare.sdk.sql.names import HELP
from dataflare.security.redact import redact_pieces

CONNECTION_LOST = "E0607"
_RESTART = "the run continues from the last checkpoint when it is run again"
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
        return _of_number(error.number, redact_pieces(error.text), server, subject)
    text = redact_pieces(str(error) or type(error).__name__)
    if isinstance(error, ssl.SSLError):
        return SystemError_(
            f"no TLS connection to {server}: {text}",
            code="E0609",
            help="check secure, ca, cert and key in 'connection_string'",
        )
    if isinstance(error, TimeoutError):
        return SystemError_(
            f"{subject} in {server} took too long: {text}",
            code="E0608",
            retry=Retry.LATER,
            help="raise 'statement_timeout' or 'connect_timeout'",
        )
    return SystemError_(
        f"no connection to {server}: {text}",
        code=CONNECTION_LOST,
        retry=Retry.LATER,
        help=_RESTART,
    )


def _of_number(number: int, text: str, server: str, subject: str) -> DataFlareError:
    if number in ROW_ERRORS:
        return DataError(f"{subject} refuses a row: {text}", code="E0510", help=HELP)
    for numbers, made in (
        (_LOGIN, SystemError_(
            f"{server} refuses the login: {text}", code="E0606",
            help="check user and password in 'connection_string'")),
        (_RIGHTS, SystemError_(
            f"{subject}: {text}", code="E0602",
            help="grant the user the right; a user with readonly = 1 may not make settings, and needs readonly = 2")),
        (_READ_ONLY, SystemError_(
            f"{server} may not be written: {text}", code="E0602", help="connect to another replica")),
        (_MISSING, SystemError_(
            f"{subject} in {server}: {text}", code="E0604",
            help="see whether database, table and columns are there and spelt right")),
        (_BUSY, SystemError_(
            f"{subject} in {server} is not available now: {text}", code="E0607", retry=Retry.LATER,
            help=_RESTART)),
        (_LOST, SystemError_(
            f"no connection to {server}: {text}", code=CONNECTION_LOST, retry=Retry.LATER, help=_RESTART)),
        (_SLOW, SystemError_(
            f"{subject} in {server} was stopped: {text}", code="E0608", retry=Retry.LATER,
            help="raise the limit of the user's profile on the server, or run again")),
        (_MEMORY, SystemError_(
            f"{server} has not enough memory for {subject}: {text}", code="E0608", retry=Retry.LATER,
            help="raise max_memory_usage on the server, or lower 'batch_size'")),
        (_FULL, SystemError_(
            f"disk full at {server}: {text}", code="E0603", retry=Retry.LATER,
            help="free some space there and run again: the run continues from the last checkpoint")),
    ):  # fmt: skip
        if number in numbers:
            return made
    return SystemError_(
        f"{subject} failed at {server}: {text} (error {number})",
        code="E0600",
        help="fix the cause that the server reports, and run again",
    )


@contextmanager
def clickhouse_errors(server: str, subject: str) -> Iterator[None]:
    """Convert the exceptions inside into DataFlare's errors."""
    try:
        yield
    except (Refused, Interrupted, HTTPException, OSError) as error:
        raise translated(error, server, subject) from error


def is_lost(error: DataFlareError) -> bool:
    """Whether the connection is lost, so that a new one may help."""
    return error.code == CONNECTION_LOST and error.retry is Retry.LATER
