"""Read a Delta table: one version, the rows that were added, or the change feed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from dataflare.connectors.delta.catalog import tables_below
from dataflare.connectors.delta.config import DeltaReadOptions
from dataflare.connectors.delta.errors import delta_errors
from dataflare.connectors.delta.files import Stored, partition_text
from dataflare.connectors.delta.place import DeltaAddress, address_of
from dataflare.connectors.delta.table import DeltaVersion
from dataflare.errors import ConfigError, RunError, SystemError_
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import Schema
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.lakes.reading import ChangeFeed
from dataflare.sdk.lakes.source import LakeSource
from dataflare.sdk.lakes.table import DataFile, LakeTable
from dataflare.sdk.places import Table
from dataflare.sdk.threads import in_thread

_GONE = "_change_type in ('delete', 'update_preimage')"
_COME = "_change_type in ('insert', 'update_postimage')"
_COLUMN_MAPPING = "delta.columnMapping.mode"


class DeltaSource(LakeSource, ChangeFeed, SupportsCatalog):
    type = "delta"
    Config = DeltaReadOptions
    summary = "Reads a Delta Lake table, a version of it, its new rows or its change feed."
    example = """\
orders:
  type: delta
  config: {path: lake/orders}
"""
    config: DeltaReadOptions
    choosing = ("path",)

    @property
    def address(self) -> DeltaAddress:
        return address_of(self.config.path, self.config.storage, self.context)

    def table(self) -> Table:
        return Table(self.address.uri, "delta")

    @property
    def gives_changes(self) -> bool:
        return self.config.change_feed

    @property
    def first_version(self) -> int | None:
        first = self.config.starting_version
        return None if first is None else first - 1

    async def inspect(self) -> Mapping[str, str]:
        table = self.version(None)
        assert isinstance(table, DeltaVersion)
        return {"table": table.label, "version": str(table.number)}

    async def catalog(self) -> Sequence[Entry]:
        return await in_thread(tables_below, self.config, self.context)

    def load(self, version: int | None) -> LakeTable:
        address = self.address
        if version is None and self.config.timestamp is not None:
            version = self._at(address)
        elif version is None:
            version = self.config.version
        table = DeltaVersion(address, version)
        if table.properties.get(_COLUMN_MAPPING, "none") != "none":
            raise _unreadable(table.label, "column mapping")
        if table.has_deletion_vectors():
            raise _unreadable(table.label, "files with deletion vectors")
        if self.gives_changes and table.properties.get("delta.enableChangeDataFeed") != "true":
            raise ConfigError(
                f"{table.label} has no change feed",
                code="E0405",
                step=self.context.step,
                help="set its property delta.enableChangeDataFeed to true, or use new_only",
            )
        return table

    def _at(self, address: DeltaAddress) -> int:
        given = self.config.timestamp
        if isinstance(given, date) and not isinstance(given, datetime):
            given = datetime(given.year, given.month, given.day)
        try:
            at = given if isinstance(given, datetime) else datetime.fromisoformat(str(given))
        except ValueError as error:
            raise ConfigError(
                f"'timestamp' is not a time: {given}", code="E0405", step=self.context.step,
                help="write it as 2026-11-29T08:00:00Z",
            ) from error  # fmt: skip
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        table = DeltaVersion(address)
        with delta_errors(table.label, "reading"):
            table.delta.load_as_version(at)
        return int(table.delta.version())

    def version_of(self, table: LakeTable) -> int:
        assert isinstance(table, DeltaVersion)
        return table.number

    def later(self, version: int | None) -> Sequence[int]:
        newest = DeltaVersion(self.address)
        first = -1 if version is None else version
        if first > newest.number:
            raise SystemError_(
                f"{newest.label} is at version {newest.number}, and version {first} was read before: the table was "
                "made again",
                code="E0605",
                help="run with --fresh to read it from its beginning",
            )
        self._tables.setdefault(newest.number, newest)
        return range(first + 1, newest.number + 1)

    def added(self, version: int) -> Sequence[DataFile]:
        table = self.version(version)
        assert isinstance(table, DeltaVersion)
        added: list[DataFile] = []
        for action in self._actions(table, version):
            if "remove" in action and action["remove"].get("dataChange", True):
                raise RunError(
                    f"version {version} of {table.label} changed or deleted rows, and only added rows are read",
                    code="E0808",
                    step=self.context.step,
                    help="read the change feed with change_feed: true, or all rows with --fresh",
                )
            if "add" in action and action["add"].get("dataChange", True):
                added.append(_file(action["add"], table.schema, table.partitions))
        return added

    def _actions(self, table: DeltaVersion, version: int) -> list[dict[str, Any]]:
        try:
            with table.filesystem.open_input_file(f"_delta_log/{version:020d}.json") as opened:
                lines = bytes(opened.read()).splitlines()
        except FileNotFoundError as error:
            raise SystemError_(
                f"the log of {table.label} does not have version {version} any more",
                code="E0601",
                notes=["old versions of the log are removed after delta.logRetentionDuration"],
                help="run with --fresh to read all rows, and run more often",
            ) from error
        return [json.loads(line) for line in lines if line.strip()]

    def changes(self, version: int, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        table = self.version(version)
        assert isinstance(table, DeltaVersion)
        types = table.schema.select(columns).to_polars()
        # Without the halves of an update beside each other, each is a row that goes or comes.
        for predicate, kind in ((_GONE, RowKind.DELETE), (_COME, RowKind.INSERT)):
            with delta_errors(table.label, "reading the change feed of"):
                reader = table.delta.load_cdf(version, version, predicate=predicate)
                for batch in reader:
                    frame = pl.DataFrame(batch)
                    if frame.height:
                        rows = frame.select(pl.col(n).cast(t) for n, t in types.items())
                        yield rows.with_columns(pl.lit(kind.value, pl.UInt8).alias(KIND_COLUMN))


def _unreadable(label: str, feature: str) -> SystemError_:
    return SystemError_(
        f"{label} has {feature}, which cannot be read",
        code="E0604",
        help="rewrite the table without it, for example with REORG TABLE ... APPLY (PURGE)",
    )


def _file(add: Mapping[str, Any], schema: Schema, partitions: Sequence[str]) -> DataFile:
    """A file of the log. The texts of partitions become values of their columns."""
    values: dict[str, Any] = {}
    for name in partitions:
        text = add["partitionValues"].get(name)
        series = pl.Series([text or None], dtype=pl.String)
        dtype = schema[name].to_polars()
        if dtype == pl.Boolean:
            values[name] = None if not text else text == "true"
        elif isinstance(dtype, pl.Datetime):
            values[name] = series.str.to_datetime(time_unit="us", time_zone=dtype.time_zone)[0]
        elif dtype == pl.Date:
            values[name] = series.str.to_date()[0]
        else:
            values[name] = series.cast(dtype)[0]
    texts = {name: partition_text(value) for name, value in values.items()}
    stats = json.loads(add.get("stats") or "{}")
    return DataFile(add["path"], stats.get("numRecords"), Stored(texts, values), add["size"])
