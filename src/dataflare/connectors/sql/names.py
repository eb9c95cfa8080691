"""Names in SQL text, and errors that name the nearest name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from dataflare.errors import Retry, SystemError_, did_you_mean


def quoted(name: str) -> str:
    """A name as an SQL identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def listed(names: Iterable[str], prefix: str = "") -> str:
    """Quoted names with commas between them."""
    return ", ".join(prefix + quoted(name) for name in names)


def text_literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def missing_file(path: Path) -> SystemError_:
    folder = path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
    except OSError:
        names = []
    if names is None:
        return SystemError_(
            f"no such file: {path}", code="E0601", help=f"the folder {folder} does not exist either"
        )
    return SystemError_(f"no such file: {path}", code="E0601", help=did_you_mean(path.name, names))


def missing_table(table: str, path: Path, known: Sequence[str]) -> SystemError_:
    notes = [f"it has: {', '.join(sorted(known)[:20])}"] if known else ["it has no tables"]
    return SystemError_(
        f"no table '{table}' in {path}", code="E0604", notes=notes, help=did_you_mean(table, known)
    )


def missing_column(column: str, table: str, known: Sequence[str]) -> SystemError_:
    return SystemError_(
        f"no column '{column}' in {table}",
        code="E0606",
        notes=[f"it has: {', '.join(known)}"],
        help=did_you_mean(column, known),
    )


def locked(path: Path, why: str, help_: str) -> SystemError_:
    return SystemError_(
        f"the database {path} is locked: {why}", code="E0605", retry=Retry.LATER, help=help_
    )
