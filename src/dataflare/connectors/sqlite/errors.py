"""Convert errors of SQLite into DataFlare's errors. The connector converts them only here.

ADBC and the standard library raise different classes with the same text, so the text decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_
from dataflare.sdk.sql import names
from dataflare.sdk.sql.refusals import HELP
from dataflare.security.redact import redact_pieces

_CONSTRAINT = re.compile(
    r"(UNIQUE|NOT NULL|CHECK|FOREIGN KEY|PRIMARY KEY) constraint failed(: [^\n]*)?"
)
_STRICT = re.compile(r"cannot store (\w+) value in (\w+) column ([^\n]+)|datatype mismatch")


def translated(error: Exception, path: Path, subject: str) -> DataFlareError:
    """DataFlare's error for another exception. subject: the table or the operation."""
    text = redact_pieces(str(error))
    first = re.sub(r"^[A-Z_]+: (\[SQLite\] )?", "", text.splitlines()[0] if text else repr(error))
    if "database is locked" in text or "database table is locked" in text or "SQLITE_BUSY" in text:
        return names.locked(
            path, "another program is writing to it", "wait for it, or raise 'busy_timeout'"
        )
    if constraint := _CONSTRAINT.search(text):
        return DataError(
            f"{subject} refuses a row: {constraint.group(0)}",
            code="E0510",
            help=HELP,
        )
    if strict := _STRICT.search(text):
        return DataError(
            f"{subject} refuses a value: {strict.group(0)}",
            code="E0511",
            help=HELP,
        )
    if "too many columns" in text:
        return SystemError_(
            f"{subject} in {path} cannot have so many columns: {first}",
            code="E0604",
            help="SQLite takes 2,000 columns in a table: keep fewer with 'select', or write to "
            "several tables",
        )
    if "file is not a database" in text or "file is encrypted" in text:
        return SystemError_(
            f"{path} is not an SQLite database",
            code="E0505",
            help="choose another path: the file has another format",
        )
    if "malformed" in text:
        return SystemError_(
            f"the database {path} is damaged: {first}",
            code="E0505",
            help="run: pragma integrity_check",
        )
    if "disk is full" in text or "No space left" in text:
        return SystemError_(
            f"disk full while writing {path}",
            code="E0603",
            retry=Retry.LATER,
            help="free some space and run again: the run continues from the last checkpoint",
        )
    if "readonly database" in text or "attempt to write a readonly" in text:
        return SystemError_(
            f"{path} may not be written: it is read-only",
            code="E0602",
            help="get the permission to write it, or choose another file",
        )
    if "unable to open" in text or "failed to open" in text:
        return _cannot_open(path)
    return SystemError_(
        f"{subject} failed in {path}: {first}",
        code="E0600",
        help="fix the cause that SQLite reports, and run again",
    )


def _cannot_open(path: Path) -> DataFlareError:
    if not path.parent.is_dir():
        return names.missing_file(path)
    if path.is_dir():
        return SystemError_(
            f"{path} is a folder, not a database", code="E0602", help="name a file in it"
        )
    return SystemError_(
        f"permission denied: {path}", code="E0602", help="opening it needs other rights"
    )


@contextmanager
def sqlite_errors(path: Path, subject: str) -> Iterator[None]:
    """Convert SQLite's exceptions inside into DataFlare's errors."""
    import sqlite3

    import adbc_driver_manager

    try:
        yield
    except (adbc_driver_manager.Error, sqlite3.Error, OSError) as error:
        raise translated(error, path, subject) from error
