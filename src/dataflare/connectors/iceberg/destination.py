"""Write an Iceberg table: rows and epoch in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dataflare.connectors.iceberg.catalog import Address, address_of
from dataflare.connectors.iceberg.config import IcebergWriteOptions
from dataflare.connectors.iceberg.store import IcebergStore
from dataflare.errors import ConfigError
from dataflare.model.types import DataType, Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.lakes.destination import LakeDestination
from dataflare.sdk.places import Table
from dataflare.sdk.places import Target as Place
from dataflare.sdk.sql.session import Session, shared_session
from dataflare.sdk.sql.store import Target


class IcebergDestination(LakeDestination):
    type = "iceberg"
    Config = IcebergWriteOptions
    summary = "Writes an Iceberg table of a catalogue, exactly once."
    example = """\
lake:
  type: iceberg
  inputs: [orders]
  config:
    catalog: {type: sql, uri: "sqlite:///catalog.db", warehouse: lake}
    table: shop.orders
    mode: upsert
    key: [order_id]
"""
    config: IcebergWriteOptions

    @property
    def address(self) -> Address:
        config = self.config
        return address_of(config.catalog, config.table, config.branch, config.storage, self.context)

    def check_columns(self, schema: Schema) -> None:
        super().check_columns(schema)
        step, seen = self.context.step, set[str]()
        for column in schema:
            for path in _paths(column.name, column.type):
                if path in seen:
                    raise ConfigError(
                        f"step '{step}': two fields have the path '{path}', which is the name that Iceberg knows them by",
                        code="E0411",
                        step=step,
                        help=f"give column '{column.name}' or the field another name in a map step",
                    )
                if path.endswith("."):
                    raise ConfigError(
                        f"step '{step}': column '{column.name}' has a field with the empty name '', which Iceberg "
                        "cannot have",
                        code="E0411",
                        step=step,
                        help="give the field a name in a map step, or leave the column out",
                    )
                seen.add(path)

    def writes_to(self) -> Place:
        shared = self.config.mode in ("append", "upsert")
        return Place(self.address.label, shared=shared)

    def table(self) -> Table:
        address = self.address
        return Table(f"{address.place} {address.name} {address.branch}", address.table)

    def identity(self) -> str:
        return self.address.label

    def make_store(self) -> IcebergStore:
        config = self.config
        return IcebergStore(self.address, config.partition_by, config.properties, config.location)

    def session(self, context: DestinationContext) -> Session:
        key = ("iceberg", self.address.key)
        return shared_session(key, "iceberg", lambda aside: self.make_store())

    def report_place(self) -> Mapping[str, str]:
        return {"catalog": self.address.place}

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        return self.make_store().look(target, check=check)


def _paths(path: str, type_: DataType) -> Iterator[str]:
    """The names that Iceberg has for a column and the fields in it."""
    yield path
    if type_.item is not None:
        yield from _paths(f"{path}.element", type_.item)
    for field in type_.fields:
        yield from _paths(f"{path}.{field.name}", field.type)
