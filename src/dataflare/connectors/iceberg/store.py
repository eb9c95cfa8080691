"""The commit protocol's operations on an Iceberg table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, TableAlreadyExistsError

from dataflare.connectors.iceberg.catalog import Address
from dataflare.connectors.iceberg.errors import iceberg_errors
from dataflare.connectors.iceberg.partitions import spec_of
from dataflare.connectors.iceberg.table import IcebergVersion
from dataflare.connectors.iceberg.types import iceberg_schema
from dataflare.errors import SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.lakes.store import LakeStore
from dataflare.sdk.lakes.table import LakeTable
from dataflare.sdk.sql.store import Target


class IcebergStore(LakeStore):
    def __init__(
        self, address: Address, partitions: Sequence[str], properties: Mapping[str, str], location: str | None
    ) -> None:  # fmt: skip
        super().__init__()
        self._address, self._partitions = address, partitions
        self._properties, self._location = properties, location
        self.label = address.label

    def _has_catalog(self) -> bool:
        """False for a file that is missing: to open it would create it."""
        file = self._address.file
        return file is None or file.exists()

    def load(self) -> LakeTable | None:
        if not self._has_catalog():
            return None
        try:
            return IcebergVersion(self._address)
        except SystemError_ as error:
            if isinstance(error.__cause__, NoSuchTableError | NoSuchNamespaceError):
                return None
            raise

    def create(self, target: Target) -> LakeTable:
        schema = iceberg_schema(target.schema)
        spec = spec_of(self._partitions, schema)
        if self._address.file is not None:
            with iceberg_errors(self.label, "creating the folder of the catalogue of"):
                self._address.file.parent.mkdir(parents=True, exist_ok=True)
        catalog = self._address.open()
        with iceberg_errors(self.label, "creating"):
            namespace = self._address.table.rpartition(".")[0]
            catalog.create_namespace_if_not_exists(namespace)
            try:
                catalog.create_table(
                    self._address.table,
                    schema,
                    location=self._location,
                    partition_spec=spec,
                    properties=dict(self._properties),
                )
            except TableAlreadyExistsError:  # another writer was faster
                return IcebergVersion(self._address)
        return IcebergVersion(self._address)

    def check_types(self, schema: Schema) -> None:
        made = iceberg_schema(schema)
        if schema.names:
            spec_of(self._partitions, made)

    def table_names(self) -> Sequence[str]:
        if not self._has_catalog():
            return ()
        catalog = self._address.open()
        with iceberg_errors(self.label, "listing the tables beside"):
            try:
                names = catalog.list_tables(self._address.table.rpartition(".")[0])
            except NoSuchNamespaceError:
                return ()
        return [".".join(name) for name in names]
