"""`dataflare functions`: the functions of expressions, and one function's signature and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflare.cli import answers, common, complete, tables, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence


def functions(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Document this function.",
            show_default=False,
            autocompletion=complete.functions,
        ),
    ] = None,
    json: common.Json = False,
) -> int:
    """List the functions of the expression language, or document one."""
    from dataflare.expr import registry

    if json:
        listed = [_as_json(row) for row in registry.functions()]
        answers.print_json(
            {"functions": listed} if name is None else _as_json(registry.function(name))
        )
    elif name is None:
        _list_all(registry.functions())
    else:
        _document(registry.function(name))
    return 0


def _list_all(rows: Sequence[Any]) -> None:
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    for place, (group, members) in enumerate(groups.items()):
        if place:
            print()
        terminal.print_heading(group)
        tables.print_table((), [(row.signature.splitlines()[0], row.summary) for row in members])


def _as_json(row: Any) -> dict[str, Any]:
    return {
        "name": row.name,
        "aliases": list(row.aliases),
        "group": row.group,
        "signatures": row.signature.splitlines(),
        "summary": row.summary,
        "examples": [{"expression": text, "gives": spelled(value)} for text, value in row.examples],
        "pushdown": dict(row.pushdown),
    }


def _document(row: Any) -> None:
    terminal.print_heading(row.name)
    for line in row.signature.splitlines():
        print(line)
    print()
    print(row.summary)
    if row.aliases:
        print(f"Also called: {', '.join(row.aliases)}")
    if row.examples:
        print()
        tables.print_table(
            ("example", "gives"), [(text, spelled(value)) for text, value in row.examples]
        )
    print()
    tables.print_table(("database", "pushed down"), sorted(row.pushdown.items()))


def spelled(value: Any) -> str:
    """A value as a literal of the expression language."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, list):
        return "[" + ", ".join(map(spelled, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {spelled(each)}" for key, each in value.items()) + "}"
    return str(value)
