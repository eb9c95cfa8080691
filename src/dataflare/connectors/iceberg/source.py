"""Read an Iceberg table: one snapshot, or the rows that were added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pyiceberg.manifest import ManifestContent, ManifestEntryStatus
from pyiceberg.table.snapshots import Operation

from dataflare.connectors.iceberg.catalog import Address, address_of, tables_in
from dataflare.connectors.iceberg.config import IcebergReadOptions
from dataflare.connectors.iceberg.errors import iceberg_errors
from dataflare.connectors.iceberg.files import file_of_entry
from dataflare.connectors.iceberg.table import IcebergVersion
from dataflare.errors import RunError, SystemError_
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.lakes.source import LakeSource
from dataflare.sdk.lakes.table import DataFile, LakeTable
from dataflare.sdk.places import Table
from dataflare.sdk.threads import in_thread


class IcebergSource(LakeSource, SupportsCatalog):
    type = "iceberg"
    Config = IcebergReadOptions
    summary = "Reads an Iceberg table of a catalogue, a snapshot of it or its new rows."
    example = """\
orders:
  type: iceberg
  config:
    catalog: {type: sql, uri: "sqlite:///catalog.db", warehouse: lake}
    table: shop.orders
"""
    config: IcebergReadOptions
    noun = "snapshot"
    unchosen: ClassVar[Mapping[str, Any]] = {"table": "-.-"}

    @property
    def address(self) -> Address:
        config = self.config
        return address_of(config.catalog, config.table, config.branch, config.storage, self.context)

    def table(self) -> Table:
        address = self.address
        return Table(f"{address.place} {address.name} {address.branch}", address.table)

    async def inspect(self) -> Mapping[str, str]:
        table = self.version(None)
        return {"table": table.label, "snapshot": str(self.version_of(table))}

    async def catalog(self) -> Sequence[Entry]:
        return await in_thread(tables_in, self.address)

    def load(self, version: int | None) -> LakeTable:
        table = IcebergVersion(
            self.address, version if version is not None else self.config.snapshot
        )
        if self.config.branch != "main" and self.config.branch not in table.table.metadata.refs:
            raise SystemError_(
                f"{table.label}: there is no such branch or tag",
                code="E0604",
                notes=[f"it has: {', '.join(sorted(table.table.metadata.refs)) or 'none'}"],
                help="check 'branch'",
            )
        return table

    def version_of(self, table: LakeTable) -> int | None:
        assert isinstance(table, IcebergVersion)
        return table.current.snapshot_id if table.current is not None else None

    def later(self, version: int | None) -> Sequence[int]:
        newest = IcebergVersion(self.address)
        metadata, current, ids = newest.table.metadata, newest.current, []
        while current is not None and current.snapshot_id != version:
            ids.append(current.snapshot_id)
            parent = current.parent_snapshot_id
            if parent is None and version is None:
                return ids[::-1]
            current = metadata.snapshot_by_id(parent) if parent is not None else None
        if current is None and (version is not None or ids):
            raise SystemError_(
                f"the history of {newest.label} does not go back to snapshot {version}",
                code="E0601",
                notes=["snapshots were expired, or the branch was set back"],
                help="run with --fresh to read all rows, and run more often",
            )
        return ids[::-1]

    def added(self, version: int) -> Sequence[DataFile]:
        table = self.version(version)
        assert isinstance(table, IcebergVersion)
        snapshot = table.current
        assert snapshot is not None
        operation = snapshot.summary.operation if snapshot.summary is not None else None
        if operation == Operation.REPLACE:
            return ()
        with iceberg_errors(table.label, "reading"):
            io, added, gone = table.table.io, [], operation == Operation.DELETE
            for manifest in snapshot.manifests(io):
                if manifest.added_snapshot_id != version:
                    continue
                for entry in manifest.fetch_manifest_entry(io, discard_deleted=False):
                    if manifest.content == ManifestContent.DELETES:
                        gone = True
                    elif entry.status == ManifestEntryStatus.ADDED:
                        added.append(file_of_entry(entry.data_file, table.iceberg_schema))
                    elif entry.status == ManifestEntryStatus.DELETED:
                        gone = True
        if gone:
            raise RunError(
                f"snapshot {version} of {table.label} changed or deleted rows, and only added rows are read",
                code="E0808",
                step=self.context.step,
                help="read all rows with --fresh, or without new_only",
            )
        return sorted(added, key=lambda each: each.path)
