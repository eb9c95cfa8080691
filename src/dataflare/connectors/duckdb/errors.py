"""Convert errors of DuckDB into DataFlare's errors. The connector converts them only here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_
from dataflare.sdk.sql.names import locked, missing_file
from dataflare.sdk.sql.refusals import HELP
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
        return locked(
            path, f"{process} has it open", "close it there: a DuckDB file has one writing process"
        )
    if isinstance(error, duckdb.ConstraintException):
        return DataError(
            f"{subject} refuses a row: {first}",
            code="E0510",
            help=HELP,
        )
    if isinstance(error, duckdb.ConversionException | duckdb.OutOfRangeException):
        return DataError(
            f"{subject} refuses a value: {first}",
            code="E0511",
            help=HELP,
        )
    if "not a valid DuckDB database" in text:
        return SystemError_(
            f"{path} is not a DuckDB database",
            code="E0505",
            help="choose another path: the file has another format",
        )
    if "database does not exist" in text:
        return missing_file(path)
    if "No space left" in text or "disk is full" in text.lower():
        return SystemError_(
            f"disk full while writing {path}",
            code="E0603",
            retry=Retry.LATER,
            help="free some space and run again: the run continues from the last checkpoint",
        )
    if isinstance(error, PermissionError) or "Permission denied" in text or "read-only" in text:
        return SystemError_(
            f"permission denied: {path}",
            code="E0602",
            help="get the permission to read and write it, and its folder",
        )
    if isinstance(error, duckdb.TransactionException) and "onflict" in text:
        return locked(path, f"another writer was faster: {first}", "run again")
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
