"""Convert errors of SQLite into DataFlare's errors. The connector converts them only here.

ADBC and the standard library raise different classes with the same text, so the text decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataflare.errors import DataFlareError, SystemError_
from dataflare.sdk.sql import names
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
        return names.refusal(subject, constraint.group(0))
    if strict := _STRICT.search(text):
        return names.refusal(subject, strict.group(0), "E0511")
    if "too many columns" in text:
        return SystemError_(
            f"{subject} in {path} cannot have so many columns: {first}",
            code="E0604",
            help="SQLite takes 2,000 columns in a table: keep fewer with 'select', or write to "
            "several tables",
        )
    if "file is not a database" in text or "file is encrypted" in text:
        return names.other_format(path, "an SQLite database")
    if "malformed" in text:
        return SystemError_(
            f"the database {path} is damaged: {first}",
            code="E0505",
            help="run: pragma integrity_check",
        )
    if "disk is full" in text or "No space left" in text:
        return names.disk_full(path)
    if "readonly database" in text or "attempt to write a readonly" in text:
        return names.read_only(path)
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
    return names.is_folder(path) if path.is_dir() else names.denied(path)


@contextmanager
def sqlite_errors(path: Path, subject: str) -> Iterator[None]:
    """Convert SQLite's exceptions inside into DataFlare's errors."""
    import sqlite3

    import adbc_driver_manager

    try:
        yield
    except (adbc_driver_manager.Error, sqlite3.Error, OSError) as error:
        raise translated(error, path, subject) from error
