"""The commit protocol's operations on a Delta table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from dataflare.connectors.delta.errors import delta_errors, translated
from dataflare.connectors.delta.place import DeltaAddress
from dataflare.connectors.delta.table import DeltaVersion, schema_of
from dataflare.connectors.delta.types import schema_json
from dataflare.errors import ConfigError
from dataflare.model.types import Schema
from dataflare.sdk.lakes.store import LakeStore
from dataflare.sdk.lakes.table import LakeTable
from dataflare.sdk.sql.store import Target

_PARTED = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "string", "json", "date")  # fmt: skip


class DeltaStore(LakeStore):
    def __init__(
        self, address: DeltaAddress, partitions: Sequence[str], properties: Mapping[str, str]
    ) -> None:
        super().__init__()
        self._address, self._partitions, self._properties = address, partitions, properties
        self.label = address.label

    def load(self) -> LakeTable | None:
        with delta_errors(self.label, "reading"):
            if not DeltaTable.is_deltatable(self._address.uri, self._address.storage):
                return None
        return DeltaVersion(self._address)

    def create(self, target: Target) -> LakeTable:
        self._check_partitions(target.schema)
        text = schema_json(target.schema)
        if self._address.path is not None:
            with delta_errors(self.label, "creating"):
                self._address.path.mkdir(parents=True, exist_ok=True)
        try:
            DeltaTable.create(
                self._address.uri,
                schema_of(text),
                mode="error",
                partition_by=list(self._partitions),
                configuration=dict(self._properties),
                storage_options=self._address.storage,
            )
        except (DeltaError, OSError, ValueError) as error:
            table = None
            if not isinstance(error, TableNotFoundError):
                table = self.load()
            if table is None:
                raise translated(error, self.label, "creating") from error
            return table
        return DeltaVersion(self._address)

    def check_types(self, schema: Schema) -> None:
        schema_json(schema)
        self._check_partitions(schema)

    def _check_partitions(self, schema: Schema) -> None:
        if not schema.names:
            return
        for name in self._partitions:
            if name not in schema:
                raise ConfigError(
                    f"'partition_by' names the column '{name}', which does not reach the step",
                    code="E0411",
                    notes=[f"it receives: {', '.join(schema.names)}"],
                    help="name columns of the rows",
                )
            if schema[name].name not in _PARTED:
                raise ConfigError(
                    f"'partition_by' names the column '{name}' of type {schema[name]}",
                    code="E0411",
                    help="partition by text, integers, dates or booleans: make such a column with map",
                )
        if set(self._partitions) >= set(schema.names):
            raise ConfigError(
                "'partition_by' names all columns",
                code="E0411",
                help="a data file needs a column that is not a partition",
            )
