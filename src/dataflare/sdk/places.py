"""Where connectors read and write, as values that the planner compares.

Two places are the same place where their values are equal. Nothing here does I/O, except for links in
paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from dataflare.sdk.context import ConnectorContext


class Target(Struct, frozen=True):
    """Where a destination's rows lie. place: the same text for the same place. shared: other
    destinations of the workflow may write there too, because rows are only added. sample: a path that it
    could write, for sources of files to say whether they would read it. folded: the place as its system compares it, where
    two spellings are one place."""

    place: str
    shared: bool = False
    sample: str | None = None
    folded: str | None = None


class Table(Struct, frozen=True):
    """A table of a database. database: the path of its file with links resolved, or the address of its
    server; two spellings of one server's address are two databases. name: in lower case."""

    database: str
    name: str


def table_of(config: Any, context: ConnectorContext) -> Table | None:
    """The table that a config names with `table`, in the file `path` or the server `connection_string`.
    None where it names no table."""
    table, path, server = _texts(config, "table", "path", "connection_string")
    if table is None:
        return None
    if path is not None:
        return Table(os.path.realpath(context.base / path), table.casefold())
    if server is not None:
        return Table(server, table.casefold().removeprefix("public."))
    return None


def target_of(config: Any, context: ConnectorContext) -> Target | None:
    """The target that a config names with `path`, `table` and `mode`. None where it has no path."""
    path, table, mode = _texts(config, "path", "table", "mode")
    if path is None:
        return None
    place = context.place(path)
    if table is None:
        return Target(place)
    # SQLite and DuckDB compare names of tables without case.
    return Target(
        f"the table {table} in {place}",
        shared=mode in ("append", "upsert"),
        folded=f"the table {table.casefold()} in {place}",
    )


def shown_place_of(config: Any) -> str | None:
    """The table or the URL that a config names, for messages."""
    schema, table = _texts(config, "schema_", "table")
    if table is None:
        url = getattr(config, "url", None)
        return None if url is None else str(url)
    return f"the table {schema}.{table}" if schema is not None else f"the table {table}"


def identity_of(config: Any, context: ConnectorContext) -> str | None:
    """The place that a config names, in words that are the same wherever the workflow's folder lies."""
    path, table, url = _texts(config, "path", "table", "url")
    if path is not None:
        base, full = os.path.realpath(context.base), os.path.realpath(context.base / path)
        near = os.path.relpath(full, base)
        path = full if near.startswith("..") else near
    place = path or (url.partition("?")[0] if url is not None else None)
    if place is None:
        return None
    return f"table {table} in {place}" if table else place


_SERVERS = ("connection_string", "connection", "bootstrap_servers", "url", "endpoint", "uri")
"""The options that name a server, in the order in which they count."""
_PORTS = {
    "http": 80, "https": 443, "ws": 80, "wss": 443, "postgres": 5432, "postgresql": 5432, "mysql": 3306,
    "mariadb": 3306, "redis": 6379, "rediss": 6379, "clickhouse": 8123, "kafka": 9092, "nats": 4222, "mqtt": 1883,
    "amqp": 5672, "pulsar": 6650, "elasticsearch": 9200, "opensearch": 9200,
}  # fmt: skip
_WORD = re.compile(r"(host|hostaddr|port)\s*=\s*'?([^\s']+)")


def system_of(type_: str, config: Mapping[str, Any], base: Path) -> str | None:
    """The outside system that a step's config names: the addresses of its servers, a store's bucket, a database's file.
    Two steps with the same one talk to the same system. None for files and for what has no address. Without passwords."""
    for name in _SERVERS:
        value = config.get(name)
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and texts:
            hosts = sorted({host for text in texts for host in _hosts(type_, str(text))})
            return ", ".join(hosts) or None
    path = config.get("path")
    if isinstance(path, str):
        scheme, found, rest = path.partition("://")
        if found:
            return f"{scheme.lower()}://{rest.partition('/')[0]}"
        if any(name in config for name in ("table", "tables", "query")):
            return os.path.realpath(base / path)
    region = config.get("region")
    return f"{type_} in {region}" if isinstance(region, str) else None


def _hosts(type_: str, text: str) -> list[str]:
    """`host:port` of each server in a URL, in `host=... port=...`, or in `a:1,b:2`."""
    words = dict(_WORD.findall(text))
    if words and "://" not in text:
        host = words.get("host") or words.get("hostaddr") or "localhost"
        return [f"{host.lower()}:{words.get('port') or _PORTS.get(type_, '')}".rstrip(":")]
    if "://" in text:
        scheme = urlsplit(text).scheme.lower()
        servers = urlsplit(text).netloc.rpartition("@")[2]
    else:
        scheme, servers = type_, text.rpartition("@")[2].partition("/")[0]
    default = _PORTS.get(scheme, _PORTS.get(type_))
    return [
        _with_port(each.strip().lower(), default) for each in servers.split(",") if each.strip()
    ]


def _with_port(host: str, default: int | None) -> str:
    has_port = re.search(r":[0-9]+$", host) is not None and (host.count(":") == 1 or "]:" in host)
    return host if has_port or default is None else f"{host}:{default}"


def _texts(config: Any, *names: str) -> tuple[str | None, ...]:
    """The options of these names that are texts, None for others."""
    values = (getattr(config, name, None) for name in names)
    return tuple(value if isinstance(value, str) else None for value in values)
