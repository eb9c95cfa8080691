"""`dataflare connectors`: the types of connectors and installed processors, and the options of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from dataflare.cli import answers, common, complete, tables, terminal
from dataflare.cli.usage import bad_usage
from dataflare.errors import ConfigError, did_you_mean

_Role = tuple[str, list[str], Callable[[str], Any]]


def connectors(
    type_: Annotated[
        str | None,
        typer.Argument(
            metavar="[TYPE]",
            help="Document this type's options. `discover TYPE [PATTERN]...`: list what its system has.",
            show_default=False,
            autocompletion=complete.connectors,
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="...",
            help="Of discover: a type, and patterns of names.",
            show_default=False,
            autocompletion=complete.connectors,
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=V",
            help="Of discover: an option of the source, such as connection=...",
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="FILE",
            help="Of discover: write a workflow to start from; - prints it.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="Of discover: look at the columns of so many.")
    ] = 100,
    json: common.Json = False,
) -> int:
    """List the connectors and installed processors, or show one type's options and an example."""
    if type_ == "discover":
        from dataflare.cli.discover import discover

        return discover(words or [], sets, write, limit, json)
    if words or sets or write is not None:
        raise bad_usage(
            "--set, --write and more words belong to: dataflare connectors discover TYPE"
        )
    if json:
        answers.print_json(_as_json(type_))
    elif type_ is None:
        _list_all()
    else:
        _document(type_)
    return 0


def _roles() -> list[_Role]:
    from dataflare.sdk import registry

    return [
        ("source", registry.source_types(), registry.source),
        ("destination", registry.destination_types(), registry.destination),
        ("lookup", registry.lookup_types(), registry.lookup),
        ("processor", registry.processor_types(), registry.processor),
    ]


def _list_all() -> None:
    roles = _roles()
    rows = []
    for name in sorted({name for _, names, _ in roles for name in names}):
        roles_of_type, summaries = [], []
        for role, names, find in roles:
            if name in names:
                roles_of_type.append(role)
                summaries.append(_summary(name, find))
        rows.append((name, ", ".join(roles_of_type), "\n".join(dict.fromkeys(summaries))))
    tables.print_table(("type", "as", "what it does"), rows)


def _summary(name: str, find: Callable[[str], Any]) -> str:
    """One line about a type. If its library is missing, the line says what to install."""
    try:
        return str(find(name).summary).rstrip(".")
    except ConfigError as error:
        return f"not usable here: {error.message}" + (f"; {error.help}" if error.help else "")


def _as_json(type_: str | None) -> dict[str, Any]:
    """The types with their roles. For one type also its options."""
    if type_ is not None:
        type_roles = _roles_of(type_)
        return {
            "type": type_,
            "roles": {role: _role_json(find(type_)) for role, find in type_roles},
        }
    roles_by_type: dict[str, dict[str, str]] = {}
    for role, names, find in _roles():
        for name in names:
            roles_by_type.setdefault(name, {})[role] = _summary(name, find)
    return {
        "types": [{"type": name, "roles": roles} for name, roles in sorted(roles_by_type.items())]
    }


def _role_json(connector: type[Any]) -> dict[str, Any]:
    from dataflare.cli.options import options

    return {
        "summary": connector.summary,
        "example": connector.example,
        "options": [
            {
                "name": option.name,
                "type": option.type,
                "required": option.required,
                "default": option.default,
                "description": option.description,
            }
            for option in options(connector.Config)
        ],
    }


def _document(type_: str) -> None:
    for place, (role, find) in enumerate(_roles_of(type_)):
        if place:
            print()
        _document_role(type_, role, find(type_))


def _roles_of(type_: str) -> list[tuple[str, Callable[[str], Any]]]:
    """The roles of a type, each with the function that returns its class. Raises ConfigError (E0401)."""
    roles = _roles()
    roles_of_type = [(role, find) for role, names, find in roles if type_ in names]
    if not roles_of_type:
        types = sorted({name for _, names, _ in roles for name in names})
        raise ConfigError(
            f"unknown connector type '{type_}'",
            code="E0401",
            notes=[f"known types: {', '.join(types)}"],
            help=did_you_mean(type_, types),
        )
    return roles_of_type


def _document_role(type_: str, role: str, connector: type[Any]) -> None:
    from dataflare.cli.options import options

    terminal.print_heading(f"{type_} ({role})")
    if connector.summary:
        print(f"{connector.summary.rstrip('.')}.")
        print()
    rows = [
        (
            option.name,
            option.type,
            "required" if option.required else option.default,
            option.description,
        )
        for option in options(connector.Config)
    ]
    if rows:
        tables.print_table(("option", "type", "default", "meaning"), rows)
    else:
        print("It has no options.")
    if connector.example:
        print()
        print("\n".join(_example(connector.example, role)))


def _example(text: str, role: str) -> Iterator[str]:
    """A step's YAML in its section. A name is added if the step has none."""
    lines = text.strip("\n").splitlines()
    has_name = not lines[0].startswith("type:")
    yield "transformations:" if role in ("lookup", "processor") else f"{role}s:"
    if not has_name:
        yield f"  my_{role}:"
    yield from (f"{'  ' if has_name else '    '}{line}".rstrip() for line in lines)
