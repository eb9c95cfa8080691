"""Convert errors of DuckDB into DataFlare's errors. The connector converts them only here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from dataflare.errors import DataFlareError, SystemError_
from dataflare.sdk.sql import names
from dataflare.security.redact import redact_pieces

_HOLDER = re.compile(r"\(PID (\d+)\)")


def in_other_process(error: Exception) -> bool:
    """Whether another process holds the file."""
    return "Could not set lock" in str(error)


def translated(error: Exception, path: Path, subject: str) -> DataFlareError:
    """DataFlare's error for another exception. subject: the table or the operation."""
    text = redact_pieces(str(error))
    first = re.sub(r"^[\w ]+ Error: ", "", text.splitlines()[0] if text else repr(error))
    if in_other_process(error):
        holder = _HOLDER.search(text)
        process = f"process {holder.group(1)}" if holder else "another process"
        return names.locked(
            path, f"{process} has it open", "close it there: a DuckDB file has one writing process"
        )
    if isinstance(error, duckdb.ConstraintException):
        return names.refusal(subject, first)
    if isinstance(error, duckdb.ConversionException | duckdb.OutOfRangeException):
        return names.refusal(subject, first, "E0511")
    if "not a valid DuckDB database" in text:
        return names.other_format(path, "a DuckDB database")
    if "database does not exist" in text:
        return names.missing_file(path)
    if "No space left" in text or "disk is full" in text.lower():
        return names.disk_full(path)
    if isinstance(error, PermissionError) or "Permission denied" in text or "read-only" in text:
        return names.denied(path)
    if isinstance(error, duckdb.TransactionException) and "onflict" in text:
        return names.locked(path, f"another writer was faster: {first}", "run again")
    return SystemError_(
        f"{subject} failed in {path}: {first}",
        code="E0600",
        help="fix the cause that DuckDB reports, and run again",
    )


@contextmanager
def duckdb_errors(path: Path, subject: str) -> Iterator[None]:
    """Convert DuckDB's exceptions inside into DataFlare's errors."""
    try:
        yield
    except (duckdb.Error, OSError) as error:
        raise translated(error, path, subject) from error
