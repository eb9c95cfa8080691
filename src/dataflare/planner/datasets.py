"""What the places that a workflow reads and writes are called in a catalogue of data, by the naming of OpenLineage. Pure.

https://openlineage.io/docs/spec/naming: PostgreSQL, MySQL, Kafka, S3, Google Cloud Storage and files have their names from
there. Systems that it does not name follow the same pattern: the address of the system, and the thing in it. Always true:
no name has a user or a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.lookup import LookupConnector
from dataflare.sdk.places import system_of
from dataflare.sdk.source import SourceConnector

_THINGS = ("topic", "subject", "stream", "queue", "exchange", "index", "table", "list", "key_prefix", "subscription")  # fmt: skip
"""The options that name what a step reads or writes in its system, in the order in which they count."""
_SCHEMES = {"postgres": "postgres", "mysql": "mysql", "clickhouse": "clickhouse"}
_EMBEDDED = ("sqlite", "duckdb")
_DATABASE = re.compile(r"dbname\s*=\s*'?([^\s']+)")
_URLS = ("http", "https", "ws", "wss")


class Dataset(Struct, frozen=True, order=True):
    """namespace: the system; name: the thing in it."""

    namespace: str
    name: str


def dataset_of(
    connector: SourceConnector | DestinationConnector | LookupConnector, namespace: str, own: str
) -> Dataset:
    """The name of what a connector reads or writes. namespace and own: for rows that have no place outside of the workflow."""
    values: dict[str, Any] = dict(connector.config)
    table = connector.context.table
    thing = table.full if table is not None else _thing(values)
    base, type_ = connector.context.base, connector.type
    if type_ in _SCHEMES:
        return _in_database(type_, values, thing, base, own)
    path = values.get("path")
    if type_ in _EMBEDDED and isinstance(path, str):
        return Dataset(f"{type_}://{os.path.realpath(base / path)}", thing or own)
    if path:
        return _file(path if isinstance(path, str) else str(path[0]), base)
    url = values.get("url")
    if isinstance(url, str) and urlsplit(url).scheme in _URLS:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        name = parts.path.strip("/")
        return Dataset(f"{parts.scheme}://{host}", f"{name}/{thing}".strip("/") if thing else name or "/")  # fmt: skip
    system = system_of(type_, values, base)
    if system is None:
        return Dataset(namespace, own)
    first = system.partition(", ")[0]
    return Dataset(f"{type_}://{first}" if "://" not in first else first, thing or own)


def _thing(values: Mapping[str, Any]) -> str | None:
    for name in _THINGS:
        value = values.get(name)
        if isinstance(value, list) and value:
            return ",".join(map(str, value))
        if isinstance(value, str) and value:
            schema = values.get("schema_") if name == "table" else None
            return f"{schema}.{value}" if isinstance(schema, str) and schema else value
    return None


def _in_database(
    type_: str, values: Mapping[str, Any], thing: str | None, base: Path, own: str
) -> Dataset:
    text = str(values.get("connection_string") or values.get("connection") or "")
    system = (system_of(type_, values, base) or "localhost").partition(", ")[0]
    found = _DATABASE.search(text)
    database = found[1] if found and "://" not in text else unquote(urlsplit(text).path.strip("/"))
    name = thing or own
    if type_ == "postgres" and thing is not None and "." not in thing:
        name = f"public.{thing}"
    if database and not (type_ != "postgres" and name.startswith(f"{database}.")):
        name = f"{database}.{name}"
    return Dataset(f"{_SCHEMES[type_]}://{system}", name)


def _file(path: str, base: Path) -> Dataset:
    scheme, found, rest = path.partition("://")
    if not found:
        return Dataset("file", os.path.realpath(base / Path(path).expanduser()))
    host, _, key = rest.partition("/")
    host = host.rpartition("@")[2]
    return Dataset(f"{scheme.lower()}://{host}", key.partition("?")[0] or "/")
