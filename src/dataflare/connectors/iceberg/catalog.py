"""The catalogue that a config names, as pyiceberg's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from msgspec import Struct
from pyiceberg.catalog import Catalog, load_catalog

from dataflare.connectors.iceberg.config import CatalogOptions
from dataflare.connectors.iceberg.errors import iceberg_errors
from dataflare.sdk.catalog import Entry
from dataflare.sdk.context import ConnectorContext, has_scheme
from dataflare.sdk.stores.options import StorageOptions

_SQLITE = "sqlite:///"
_STORAGE = {
    "endpoint": "s3.endpoint",
    "anonymous": "s3.anonymous",
    "region": "s3.region",
    "access_key_id": "s3.access-key-id",
    "secret_access_key": "s3.secret-access-key",
    "session_token": "s3.session-token",
    "account_name": "adls.account-name",
    "account_key": "adls.account-key",
    "sas_token": "adls.sas-token",
}
_ENVIRONMENT = {
    "AWS_ENDPOINT_URL": "s3.endpoint",
    "AWS_REGION": "s3.region",
    "AWS_ACCESS_KEY_ID": "s3.access-key-id",
    "AWS_SECRET_ACCESS_KEY": "s3.secret-access-key",
    "AWS_SESSION_TOKEN": "s3.session-token",
}


class Address(Struct, frozen=True):
    """properties: of pyiceberg's catalogue. place: of the catalogue, for messages, without secrets."""

    name: str
    table: str
    branch: str
    properties: tuple[tuple[str, str], ...]
    place: str

    @property
    def label(self) -> str:
        branch = "" if self.branch == "main" else f", branch '{self.branch}'"
        return f"Iceberg table '{self.table}' in {self.place}{branch}"

    @property
    def key(self) -> tuple[str, ...]:
        return self.place, self.name, self.table, self.branch

    @property
    def file(self) -> Path | None:
        """The file of a catalogue in SQLite, if the address names a file and nothing else."""
        uri = dict(self.properties).get("uri", "")
        plain = uri.startswith(_SQLITE) and "?" not in uri and ":memory:" not in uri
        return Path(uri.removeprefix(_SQLITE)) if plain else None

    def open(self) -> Catalog:
        """The catalogue. It holds no connection between two calls."""
        with iceberg_errors(self.label, "opening the catalogue of"):
            catalog: Any = load_catalog(self.name, **dict(self.properties))
            if hasattr(catalog, "engine"):
                from sqlalchemy import create_engine
                from sqlalchemy.pool import NullPool

                catalog.engine.dispose()
                catalog.engine = create_engine(catalog.properties["uri"], poolclass=NullPool)
        return catalog  # type: ignore[no-any-return]


def tables_in(address: Address) -> list[Entry]:
    """All tables of the catalogue. address: whose table is not used. Raises SystemError_."""
    catalog = address.open()
    entries = []
    with iceberg_errors(f"the tables of {address.place}", "listing"):
        namespaces = [tuple(each) for each in catalog.list_namespaces()]
        for namespace in namespaces:
            inner = (tuple(each) for each in catalog.list_namespaces(namespace))
            namespaces += [each for each in inner if each not in namespaces]
            for *above, name in catalog.list_tables(namespace):
                full = ".".join([*above, name])
                entries.append(
                    Entry(full, "table", {"table": full}, table=name, schema=".".join(above))
                )
    return sorted(entries, key=lambda entry: entry.name)


def address_of(
    options: CatalogOptions, table: str, branch: str, storage: StorageOptions, context: ConnectorContext
) -> Address:  # fmt: skip
    properties: dict[str, str] = {"type": options.type}
    uri, place = options.uri, f"the {options.type} catalogue"
    if uri is not None:
        if uri.startswith(_SQLITE):
            path = context.path(uri.removeprefix(_SQLITE))
            uri, place = f"{_SQLITE}{path}", str(path)
        else:
            place = _without_password(uri)
        properties["glue.endpoint" if options.type == "glue" else "uri"] = uri
    if options.warehouse is not None:
        warehouse = options.warehouse
        if options.type != "rest" and not has_scheme(warehouse):
            warehouse = Path(context.path(warehouse)).as_uri()
        properties["warehouse"] = warehouse
    for name in ("token", "credential"):
        if (value := getattr(options, name)) is not None:
            properties[name] = value
    for variable, name in _ENVIRONMENT.items():
        if value := os.environ.get(variable):
            properties[name] = value
            if options.type == "glue":
                properties.setdefault(name.replace("s3.", "glue."), value)
    for name, value in storage.model_dump(exclude_none=True, exclude_defaults=True).items():
        if name in _STORAGE:
            properties[_STORAGE[name]] = "true" if value is True else str(value)
    properties |= options.properties
    return Address(options.name, table, branch, tuple(sorted(properties.items())), place)


def _without_password(uri: str) -> str:
    scheme, mark, rest = uri.partition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}{mark}{host}" if at else uri
