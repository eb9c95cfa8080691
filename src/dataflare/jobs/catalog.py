"""Ask a system what there is to read, with the columns of each thing, and write a workflow that reads it.

Always true: nothing is written to the system; no secret that was given stands in the workflow, a variable does; what
cannot be read is listed with the reason.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct, field

from dataflare.errors import ConfigError, DataFlareError, SystemError_
from dataflare.jobs.failures import as_dataflare_error
from dataflare.model.patterns import is_pattern
from dataflare.model.types import Schema
from dataflare.sdk import registry
from dataflare.sdk.catalog import Entry, SupportsCatalog, chosen, in_other_schemas
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.source import SourceConnector
from dataflare.sdk.user_exits import kept_inside
from dataflare.security.literals import is_secret, literal_secrets
from dataflare.workflow.dsl.yaml_text import to_yaml
from dataflare.workflow.load import bind, load_text
from dataflare.workflow.scalars import plain_value

LIMIT = 100
_STEP = "discover"
_AT_ONCE = 4
_STORES = ("s3", "az", "gs", "sftp")
"""Places whose files the type `file` reads."""
_CONNECTIONS = ("connection_string", "path", "url")
_STUB = """\
name: discover
version: "1.0"
sources:
  discover: {type: TYPE, config: {}}
destinations:
  out: {type: blackhole, inputs: [discover]}
"""
_TABLES = "tables"
Json = dict[str, Any]
_EACH_MAX = 8
"""Up to so many entries have a source each in the workflow to start from; more of them one source with `tables`."""
_NAME_MAX = 40
_LINE_MAX = 96


class Found(Struct, frozen=True):
    """One thing that can be read. schema: its columns, or why they are not known."""

    entry: Entry
    schema: Schema | None = None
    error: DataFlareError | None = None

    def to_json(self) -> dict[str, Any]:
        columns = [{"name": f.name, "type": str(f.type)} for f in self.schema or ()]
        return {
            "name": self.entry.name,
            "kind": self.entry.kind,
            "rows": self.entry.rows,
            "config": dict(self.entry.config),
            "columns": columns if self.schema is not None else None,
            "error": self.error and self.error.to_json(),
        }


class Catalog(Struct, frozen=True):
    """type: of the source. config: the options that were given, without secrets. variables: those that stand for
    secrets. left_out: how many things are beyond the limit. elsewhere: by a name that matches nothing, the tables of this
    name in other schemas."""

    type: str
    config: Mapping[str, Any]
    variables: Sequence[str]
    found: Sequence[Found]
    left_out: int = 0
    elsewhere: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "found": [each.to_json() for each in self.found],
            "left_out": self.left_out,
        }


def catalog_types() -> list[str]:
    """The source types that can be asked, of those that are usable here."""
    types = []
    for name in registry.source_types():
        try:
            if issubclass(registry.source(name), SupportsCatalog):
                types.append(name)
        except DataFlareError:
            continue
    return types


def discover(
    type_: str,
    sets: Sequence[tuple[str, str]] = (),
    patterns: Sequence[str] = (),
    *,
    limit: int = LIMIT,
    base: Path | None = None,
    timeout_s: float = 30.0,
    policy: Policy | None = None,
) -> Catalog:
    """What there is. sets: options and their values as YAML. patterns: of names, as `tables` takes them.
    timeout_s: for one answer. Raises ConfigError, SystemError_."""
    if type_ in _STORES and type_ not in registry.source_types():
        type_ = "file"
    class_ = registry.source(type_)
    if not issubclass(class_, SupportsCatalog):
        raise ConfigError(
            f"the source type '{type_}' cannot say what its system has",
            code="E0429",
            notes=[f"these can: {', '.join(catalog_types())}"],
            help=f"see the options of one source: dataflare connectors {type_}",
        )
    named = [(_option(class_, name), text) for name, text in sets]
    folder = base or Path.cwd()
    given = load_text(
        _STUB.replace("TYPE", type_),
        base=folder,
        sets=[(f"sources.{_STEP}.config.{name}", text) for name, text in named],
    )
    context = ConnectorContext(_STEP, folder, policy or Policy())
    options: Mapping[str, Any] = given.sources[_STEP].config

    def made(more: Mapping[str, Any]) -> SourceConnector:
        config: SourceConnector = class_(
            bind(class_.Config, {**class_.unchosen, **options, **more}, step=_STEP), context
        )
        return config

    entries = asyncio.run(_within(_listed(made({})), type_, timeout_s))
    wanted = chosen(entries, patterns or ["*"], views=True)[0]
    found = asyncio.run(_all_found(wanted[:limit], made, type_, timeout_s))
    config, variables = _without_secrets(type_, _tree(named))
    named_so = {
        each: in_other_schemas(entries, entries, each.removeprefix("!")) for each in patterns
    }
    elsewhere = {pattern: names for pattern, names in named_so.items() if names}
    return Catalog(type_, config, variables, found, len(wanted) - len(found), elsewhere)


def _option(class_: type[SourceConnector], name: str) -> str:
    """The name of an option. `connection` is each type's own way to say where its system is."""
    fields = class_.Config.model_fields
    if name != "connection" or name in fields:
        return name
    return next((each for each in _CONNECTIONS if each in fields), name)


async def _listed(source: SourceConnector) -> Sequence[Entry]:
    assert isinstance(source, SupportsCatalog)
    try:
        return await source.catalog()
    finally:
        await source.aclose()


async def _within(asked: Any, type_: str, timeout_s: float) -> Any:
    try:
        return await asyncio.wait_for(asked, timeout_s)
    except TimeoutError:
        raise SystemError_(
            f"the {type_} system did not answer within {timeout_s:g} s",
            code="E0610",
            help="check that it runs and can be reached from here",
        ) from None


async def _all_found(
    entries: Sequence[Entry], made: Any, type_: str, timeout_s: float
) -> list[Found]:
    room = asyncio.Semaphore(_AT_ONCE)

    async def look(entry: Entry) -> Found:
        async with room:
            try:
                schema = await kept_inside(
                    _within(_schema_of(made(entry.config)), type_, timeout_s)
                )
            except Exception as raised:
                return Found(entry, error=as_dataflare_error(raised))
            return Found(entry, schema)

    return list(await asyncio.gather(*map(look, entries)))


async def _schema_of(source: SourceConnector) -> Schema:
    try:
        return await source.schema()
    finally:
        await source.aclose()


def _tree(named: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The options as they were written, variables and all."""
    tree: dict[str, Any] = {}
    for name, text in named:
        *folders, last = name.split(".")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = yaml.safe_load(text) if text[:1] in ("[", "{") else plain_value(text)
    return tree


def _without_secrets(
    type_: str, config: Mapping[str, Any], path: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The options, with a variable for each that has a secret in it; and these variables."""
    kept: dict[str, Any] = {}
    variables: list[str] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            kept[name], more = _without_secrets(type_, value, f"{path}{name}_")
            variables += more
            continue
        has_secret = is_secret(name) or any(True for _ in literal_secrets(value, name))
        if has_secret and not (isinstance(value, str) and value.startswith("${")):
            variable = f"{type_}_{path}{name}".upper()
            variables.append(variable)
            value = f"${{{variable}}}"
        kept[name] = value
    return kept, variables


# -- a workflow to start from ------------------------------------------------------------------------


def starter(catalog: Catalog) -> str:
    """The text of a workflow that reads all that was found and can be read, each into a file of Parquet."""
    sources: dict[str, Any] = {}
    destinations: dict[str, Any] = {}
    columns: dict[str, str] = {}
    readable = [each for each in catalog.found if each.schema is not None]
    if not readable:
        raise ConfigError(
            "nothing was found that can be read, so there is no workflow to write",
            code="E0429",
            help="look at the options and patterns",
        )
    if _are_tables(catalog, readable):
        return _text(*_of_all(catalog, readable))
    for each in readable:
        name = each.entry.name
        if each.entry.kind in ("file", "files"):
            name = re.sub(r"\.[A-Za-z]+(\.[A-Za-z0-9]+)?$", "", name)
        name = _step_name(name, sources)
        config = {**catalog.config, **each.entry.config}
        sources[name] = {"type": catalog.type, "config": config}
        destinations[f"{name}_file"] = {
            "type": "file", "inputs": [name], "config": {"path": f"out/{name}.parquet"}
        }  # fmt: skip
        assert each.schema is not None
        columns[name] = ", ".join(f"{field.name} {field.type}" for field in each.schema)
    return _text(catalog, sources, destinations, columns)


def _are_tables(catalog: Catalog, readable: Sequence[Found]) -> bool:
    """Whether one source reads all of them: it takes many, by names that are theirs alone."""
    class_ = registry.source(catalog.type)
    entries = [each.entry for each in readable]
    names = [entry.of.full for entry in entries]
    return (
        _TABLES in class_.Config.model_fields
        and len(entries) > _EACH_MAX
        and len({entry.of.table for entry in entries}) == len(set(names)) == len(names)
        and not any(is_pattern(name) or name.startswith("!") for name in names)
        and all(entry.fits(name) for entry, name in zip(entries, names, strict=True))
    )


def _of_all(
    catalog: Catalog, readable: Sequence[Found]
) -> tuple[Catalog, Json, Json, dict[str, str]]:
    """One source of all that was found, and one destination."""
    name = _step_name(catalog.type, {})
    tables = [each.entry.of.full for each in readable]
    more = {
        option: value
        for option, value in readable[0].entry.config.items()
        if option not in _choosing(catalog) and option not in catalog.config
    }
    sources = {name: {"type": catalog.type, "config": {**catalog.config, **more, _TABLES: tables}}}
    out = {"type": "file", "inputs": [name], "config": {"path": "out/{table}.parquet"}}
    columns = {
        name: "; ".join(
            f"{each.entry.of.full}: " + " ".join(each.schema.names)
            for each in readable
            if each.schema is not None
        )
    }
    return catalog, sources, {f"{name}_files": out}, columns


def _choosing(catalog: Catalog) -> Sequence[str]:
    class_ = registry.source(catalog.type)
    assert issubclass(class_, SupportsCatalog)
    return class_.chosen_by()


def _text(catalog: Catalog, sources: Json, destinations: Json, columns: dict[str, str]) -> str:
    tree = {
        "name": f"read_{catalog.type}",
        "version": "1.0",
        "sources": sources,
        "destinations": destinations,
    }
    lines = []
    if catalog.variables:
        lines += ["# Set these before it runs:", *(f"#   {each}" for each in catalog.variables)]
    for line in to_yaml(tree).splitlines():
        lines.append(line)
        source = re.fullmatch("  ([A-Za-z0-9_-]+):", line)
        if source is not None and source[1] in columns:
            lines += _comment(columns.pop(source[1]))
    return "\n".join([*lines, ""])


def _step_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name of a step that says what it reads."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    plain = words.lower()[-_NAME_MAX:].strip("_") or "rows"
    plain = plain if not plain[0].isdigit() else f"t_{plain}"
    names = (plain if n == 1 else f"{plain}_{n}" for n in range(1, len(taken) + 2))
    return next(each for each in names if each not in taken)


def _comment(text: str) -> list[str]:
    """A comment of a source's columns. A line break in a name must not end it."""
    words, lines = re.sub(r"\s", " ", text).split(", "), ["    # columns:"]
    for word in words:
        if len(lines[-1]) + len(word) > _LINE_MAX and len(lines[-1]) > 16:
            lines.append("    #")
        lines[-1] += f" {word},"
    lines[-1] = lines[-1].removesuffix(",")
    return lines
