"""Convert errors of PostgreSQL, psycopg and ADBC into DataFlare's errors. The SQLSTATE decides; a
connection that failed has none, and then the text decides.

Always true: a message contains no part of a connection string except host, port, database and user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from msgspec import Struct

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_
from dataflare.sdk.sql.names import HELP
from dataflare.sdk.sql.server_errors import CONNECTION_LOST, RESTART, Fault
from dataflare.security.redact import redact_pieces

_STATE = re.compile(r"SQLSTATE: ([0-9A-Z]{5})")
_COPY_COLUMN = re.compile(r"^COPY .*?, \S+ \d+, \S+ (.+?)(?:: |$)", re.MULTILINE)
"""Of `COPY orders, line 3, column amount: "..."`."""
_NOISE = re.compile(
    r"^(?:[A-Z_]+: )?(?:\[libpq\] )?(?:Failed to [a-z ]+: )?(?:could not begin COPY: )?"
    r"(?:connection failed: )?(?:Execution error \[\w+\]: )?(?:ERROR: +|FATAL: +)?"
)
_SERVER = re.compile(r"^connection to server (?:at|on) .*? failed: (?:FATAL: +)?")
_LOST = (
    "server closed the connection", "connection is lost", "connection already closed",
    "the connection is closed", "no connection to the server", "terminating connection",
    "Connection refused", "connection refused", "timeout expired", "Connection timed out",
    "could not receive data", "could not send data", "EOF detected", "Broken pipe",
    "Connection reset", "the database system is", "No route to host", "consuming input failed",
    "sending query failed", "sending data failed", "connection timeout", "Network is unreachable",
    "SSL SYSCALL error", "unexpected message from server", "lost synchronization", "SSL exchange",
    "postmaster exited", "lost connection to parallel worker", "SSL connection has been closed", "SSL error: unexpected eof", "connection to server", "connection failed",
)  # fmt: skip
# The driver drops the SQLSTATE of errors in the middle of a result.
_STATE_OF_TEXT = {
    "canceling statement due to": "57014",
    "No space left on device": "53100",
    "terminating connection due to": "57P01",
    "canceling statement due to conflict with recovery": "40001",
    "permission denied": "42501",
    "out of memory": "53200",
}


class ErrorFacts(Struct, frozen=True):
    """Facts of an exception. state: SQLSTATE or ''. text: its first line without prefixes."""

    state: str
    text: str
    detail: str
    context: str
    whole: str


def error_facts(error: Exception) -> ErrorFacts:
    whole = str(error)
    state = getattr(error, "sqlstate", None) or ""
    if not state and (match := _STATE.search(whole)):
        state = match.group(1)
    if not state and "PGRES_FATAL_ERROR" in whole:
        states = [state_of_text for text, state_of_text in _STATE_OF_TEXT.items() if text in whole]
        state = states[-1] if states else ""
    diagnosis = getattr(error, "diag", None)
    primary = getattr(diagnosis, "message_primary", None)
    first = whole.strip().splitlines()[0] if whole.strip() else type(error).__name__
    text = redact_pieces(primary or _SERVER.sub("", _NOISE.sub("", first)))
    detail = redact_pieces(getattr(diagnosis, "message_detail", None) or "")
    return ErrorFacts(state, text, detail, getattr(diagnosis, "context", None) or "", whole)


def translated(error: Exception, server: str, subject: str) -> DataFlareError:
    """DataFlare's error for another exception. server: host, port and database. subject: the table
    or the operation."""
    facts = error_facts(error)
    state = facts.state if facts.state != "00000" else ""
    fault = Fault(server, subject, facts.text)
    for convert in (_of_connection, _of_state, _of_class):
        converted = convert(facts, state, fault)
        if converted is not None:
            return converted
    if not state and any(part in facts.whole for part in _LOST):
        return fault.lost()
    return fault.failed()


def _of_connection(facts: ErrorFacts, state: str, fault: Fault) -> DataFlareError | None:
    """A connection that was refused by the server, not by the network."""
    text = facts.whole
    if state in ("28P01", "28000") or (
        not state
        and re.search(
            r'password authentication failed|no password supplied|role ".*" does not exist|'
            r"no pg_hba.conf entry|authentication failed|password retrieved from",
            text,
        )
    ):
        return fault.refused_login(", and pg_hba.conf on the server")
    if state == "3D000" or (not state and re.search(r'database ".*" does not exist', text)):
        return SystemError_(
            f"{fault.server}: {facts.text}",
            code="E0604",
            help="check the database's name in 'connection_string'",
        )
    refused_tls = r"not support SSL|certificate|sslmode|private key|SSL error: (?!unexpected eof)"
    if not state and re.search(refused_tls, text):
        return fault.no_tls("sslmode, sslrootcert and similar settings")
    if not state and re.search(r"translate host name|resolve host|Name or service", text):
        help_ = "check the host's name in 'connection_string'"
        return fault.later(f"{fault.server} cannot be found", CONNECTION_LOST, help_)
    return None


def _of_state(facts: ErrorFacts, state: str, fault: Fault) -> DataFlareError | None:
    what = f"{fault.subject} in {fault.server}"
    if "invalid snapshot identifier" in facts.whole or "import the requested snap" in facts.whole:
        return SystemError_(
            f"the snapshot that {fault.subject} was read in is gone from {fault.server}",
            code=CONNECTION_LOST,
            retry=Retry.RESTART,
            help=RESTART,
        )
    match state:
        case "42501":
            return fault.no_right()
        case "25006":
            return fault.read_only("it is read-only, or a standby: connect to the primary")
        case "42P01" | "42703" | "3F000":
            return fault.missing("schema")
        case "53100":
            return fault.disk_full()
        case "55P03":
            return SystemError_(
                f"{what} is locked by another program",
                code="E0605",
                retry=Retry.LATER,
                help="wait for it, or raise 'lock_timeout'",
            )
        case "40P01" | "40001":
            return fault.later(what, "E0605")
        case "57014":
            return fault.slow("'statement_timeout'")
    return None


def _of_class(facts: ErrorFacts, state: str, fault: Fault) -> DataFlareError | None:
    """By the first two characters: https://www.postgresql.org/docs/current/errcodes-appendix.html"""
    if state.startswith("08") or state in ("57P01", "57P02", "57P03", "57P05", "53300", "25P03"):
        return fault.lost()
    if state.startswith(("22", "23")) and state != "22023":
        notes = [facts.detail] if facts.detail else []
        column = _COPY_COLUMN.search(facts.context) if state.startswith("22") else None
        where = f"column '{column.group(1)}': " if column else ""
        return DataError(
            f"{fault.subject} refuses a row: {where}{facts.text}",
            code="E0510",
            notes=notes,
            help=HELP,
        )
    if state.startswith("53"):
        help_ = "free some space on the server and run again: the run continues from the last checkpoint"
        return fault.later(f"{fault.server} has no room for it", "E0600", help_)
    return None


@contextmanager
def postgres_errors(server: str, subject: str) -> Iterator[None]:
    """Convert the libraries' exceptions inside into DataFlare's errors."""
    kinds: tuple[type[Exception], ...] = (psycopg.Error, OSError)
    try:
        import adbc_driver_manager

        kinds = (*kinds, adbc_driver_manager.Error)
    except ModuleNotFoundError:
        pass
    try:
        yield
    except kinds as error:
        raise translated(error, server, subject) from error
    except ValueError as error:  # ArrowInvalid: an error of the driver in the middle of a result
        if "[libpq]" not in str(error):
            raise
        raise translated(error, server, subject) from error
