"""`dataflare connectors discover`: what a system has, and a workflow to start from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dataflare.cli import answers, common, tables, terminal
from dataflare.cli.usage import bad_usage
from dataflare.errors import WorkflowError

if TYPE_CHECKING:
    from dataflare.jobs.catalog import Found

_COLUMNS_SHOWN = 12


def discover(
    words: list[str], sets: list[str] | None, write: Path | None, limit: int, json: bool
) -> int:
    """words: the type, and patterns of names."""
    from dataflare.jobs import catalog

    if not words:
        types = ", ".join(catalog.catalog_types())
        raise bad_usage(f"discover needs a type: {types}")
    if write is not None and str(write) == "-" and json:
        raise bad_usage("--write - and --json both print on standard output")
    type_, *patterns = words
    found = catalog.discover(type_, common.pairs("--set", sets), patterns, limit=limit)
    if write is not None:
        text = catalog.starter(found)
        if str(write) == "-":
            sys.stdout.write(text)
            return 0
        _write(write, text)
    if json:
        answers.print_json(found.to_json())
        return 0
    rows = [_row(each) for each in found.found]
    tables.print_table(("name", "kind", "rows", "columns"), rows, right=("rows",))
    if found.left_out:
        terminal.say(f"{found.left_out:,} more: give patterns, or raise --limit")
    for name, others in found.elsewhere.items():
        terminal.say(
            f"'{name}' is not a table of the default schema; other schemas have {', '.join(others)}"
        )
    if write is not None:
        terminal.say(f"wrote {write}")
    return 0


def _row(found: Found) -> tuple[str, ...]:
    entry = found.entry
    rows = "" if entry.rows is None else f"{entry.rows:,}"
    if found.schema is None:
        assert found.error is not None
        return entry.name, entry.kind, rows, f"cannot be read: {found.error.message}"
    fields = [f"{field.name} {field.type}" for field in found.schema]
    more = len(fields) - _COLUMNS_SHOWN
    shown = ", ".join(fields[:_COLUMNS_SHOWN]) + (f", and {more} more" if more > 0 else "")
    return entry.name, entry.kind, rows, shown


def _write(path: Path, text: str) -> None:
    """A new file. Raises WorkflowError for one that is there."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise WorkflowError(
            f"the workflow cannot be written to '{path}': {error.strerror or error}",
            code="E0128",
            help="name a file that is not there yet, in a folder that is",
        ) from error
