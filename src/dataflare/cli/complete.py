"""Shell completion: files, steps, types, functions, workflows that ran.

Always true: a completion connects to no system. After any error it offers nothing and prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import typer

_Offer = tuple[str, str]
"""A word, and its description."""
_SECTIONS = ("sources", "transformations", "destinations")
_LOOKED_AT = 1 << 16
_WORKFLOW = re.compile(rb"^(sources|destinations|include):", re.MULTILINE)


def _quiet(offers: Callable[..., Iterable[_Offer]]) -> Callable[[typer.Context, str], list[_Offer]]:
    """The offers that begin with the typed text. None after an error."""

    @wraps(offers)
    def offered(ctx: typer.Context, incomplete: str) -> list[_Offer]:
        try:
            found = offers(ctx, incomplete)
            return [each for each in found if each[0].startswith(incomplete)]
        except Exception:
            return []

    offered.__annotations__ = {"ctx": typer.Context, "incomplete": str}
    return offered


@_quiet
def files(ctx: typer.Context, incomplete: str) -> Iterator[_Offer]:
    """Workflow files in the typed folder, and its subfolders."""
    head, slash, _ = incomplete.rpartition("/")
    for path in sorted(Path(f"{head}{slash}" or ".").iterdir()):
        name = f"{head}{slash}{path.name}"
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield f"{name}/", ""
        elif path.suffix in (".yaml", ".yml") and _is_workflow(path):
            yield name, ""


def _is_workflow(path: Path) -> bool:
    with path.open("rb") as stream:
        return _WORKFLOW.search(stream.read(_LOOKED_AT)) is not None


@_quiet
def steps(ctx: typer.Context, incomplete: str) -> Iterator[_Offer]:
    """The steps of the file, with their types. Outputs of a route are offered as step.output."""
    tree = _tree(ctx)
    for section in _SECTIONS:
        for name, step in (tree.get(section) or {}).items():
            yield name, f"{step.get('type')} {section[:-1]}"
            for output in (step.get("config") or {}).get("routes") or ():
                yield f"{name}.{output}", f"output of {name}"


@_quiet
def environments(ctx: typer.Context, incomplete: str) -> Iterator[_Offer]:
    """The environments of the file."""
    yield from ((name, "") for name in _tree(ctx).get("environments") or ())


@_quiet
def params(ctx: typer.Context, incomplete: str) -> Iterator[_Offer]:
    """The parameters of the file, each with `=`."""
    for name, declared in (_tree(ctx).get("params") or {}).items():
        yield f"{name}=", str((declared or {}).get("type", "string"))


@_quiet
def connectors(ctx: typer.Context, incomplete: str) -> Iterator[_Offer]:
    """The types of connectors and processors."""
    from dataflare.sdk import registry

    types: dict[str, list[str]] = {}
    for role in ("source", "destination", "lookup", "processor"):
        for type_ in getattr(registry, f"{role}_types")():
            types.setdefault(type_, []).append(role)
    yield from ((type_, ", ".join(roles)) for type_, roles in sorted(types.items()))


@_quiet
def functions(ctx: typer.Context, incomplete: str) -> Iterator[_Offer]:
    """The functions of expressions."""
    from dataflare.expr import registry

    for row in registry.functions():
        yield from ((name, row.summary) for name in (row.name, *row.aliases))


@_quiet
def workflows(ctx: typer.Context, incomplete: str) -> Iterator[_Offer]:
    """The workflows that ran here."""
    from dataflare.cli import common

    yield from ((name, "") for name in common.known_workflows())


def _tree(ctx: typer.Context) -> dict[str, Any]:
    """The typed file with its includes. It is not checked otherwise."""
    from dataflare.errors import DataFlareError
    from dataflare.workflow.merge import FileReader

    errors: list[DataFlareError] = []
    # While the value of an option is being typed, Click has not parsed the arguments yet.
    file = ctx.params.get("file") or next(arg for arg in ctx.args if not arg.startswith("-"))
    return FileReader(errors, lambda value: value).read(Path(file))
