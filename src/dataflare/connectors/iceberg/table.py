"""One version of an Iceberg table, on one branch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from dataflare.connectors.iceberg.catalog import Address
from dataflare.connectors.iceberg.errors import iceberg_errors
from dataflare.connectors.iceberg.files import (
    IcebergFiles,
    file_from_json,
    file_of_task,
    file_to_json,
)
from dataflare.connectors.iceberg.reading import read_frames
from dataflare.connectors.iceberg.types import read_type, stored, unwritable, wider
from dataflare.errors import CheckpointError, DataError, DataFlareError, SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.lakes.errors import refuse_table
from dataflare.sdk.lakes.fit import matched_names
from dataflare.sdk.lakes.table import Change, Conflict, DataFile, FileWriter, LakeTable
from dataflare.sdk.sql.names import HELP

_RETRIES = "commit.retry.num-retries"
_KEYED = ("upsert", "mirror")


class IcebergVersion(LakeTable):
    """snapshot: of an older version; None for the newest one of the branch."""

    def __init__(self, address: Address, snapshot: int | None = None) -> None:
        self._address, self.label = address, address.label
        catalog = address.open()
        with iceberg_errors(self.label, "reading"):
            self._table: Table = catalog.load_table(address.table)
            self.current = self._found(snapshot)
        schema_id = self.current.schema_id if snapshot is not None and self.current else None
        schemas = self._table.schemas()
        self._iceberg = schemas[schema_id] if schema_id in schemas else self._table.schema()
        self._schema = Schema.of(
            {f.name: read_type(f.field_type, f.name) for f in self._iceberg.fields}
        )
        self._files: list[DataFile] | None = None

    def _found(self, snapshot: int | None) -> Snapshot | None:
        if snapshot is None:
            return self._table.metadata.snapshot_by_name(self._address.branch)
        found = self._table.metadata.snapshot_by_id(snapshot)
        if found is None:
            raise SystemError_(
                f"{self.label} does not have the snapshot {snapshot}",
                code="E0604",
                help="it may have been expired: run with --fresh to read what is there now",
            )
        return found

    @property
    def table(self) -> Table:
        return self._table

    @property
    def schema(self) -> Schema:
        return self._schema

    @property
    def iceberg_schema(self) -> Any:
        return self._iceberg

    @property
    def required(self) -> Sequence[str]:
        return [f.name for f in self._iceberg.fields if f.required]

    # -- files -------------------------------------------------------------------------------------

    def files(self) -> Sequence[DataFile]:
        if self._files is None:
            if self.current is None:
                self._files = []
                return self._files
            with iceberg_errors(self.label, "reading"):
                tasks = self._table.scan(snapshot_id=self.current.snapshot_id).plan_files()
                files = [file_of_task(task, self._iceberg) for task in tasks]
            self._files = sorted(files, key=lambda each: each.path)
        return self._files

    def read(self, file: DataFile, columns: Sequence[str], skip: int = 0) -> Iterator[pl.DataFrame]:
        return read_frames(
            self._table, file, self._schema, self._iceberg, columns, skip, self.label
        )

    def writer(self, prefix: str) -> FileWriter:
        return IcebergFiles(prefix, self._table, self._schema, self.label)

    def remove(self, files: Sequence[DataFile]) -> None:
        for file in files:
            try:
                with iceberg_errors(self.label, "writing"):
                    self._table.io.delete(file.path)
            except DataFlareError:  # a file that stays is an orphan, as maintenance removes them
                continue

    def unfit(self, frame: pl.DataFrame) -> Mapping[int, DataError]:
        refused: dict[int, DataError] = {}
        for series in frame:
            if series.dtype != pl.Time:
                continue
            lost = (series.cast(pl.Int64) % 1000 != 0).fill_null(False)
            for row in lost.arg_true():
                refused[row] = DataError(
                    f"{self.label} refuses a value: column '{series.name}' has microseconds, and the time has "
                    "nanoseconds",
                    code="E0511",
                    help=HELP,
                )
        return refused

    def file_to_json(self, file: DataFile) -> Any:
        return file_to_json(file)

    def file_from_json(self, value: Any) -> DataFile:
        with iceberg_errors(self.label, "reading"):
            try:
                return file_from_json(self._table, value)
            except FileNotFoundError as error:
                raise CheckpointError(
                    f"{self.label}: the file {value[0]} that this run has staged is gone",
                    code="E0703",
                    notes=["a removal of orphan files may have deleted it"],
                    help="run with --fresh to build it again",
                ) from error

    # -- changes -----------------------------------------------------------------------------------

    def _property(self, slot: str) -> str:
        branch = "" if self._address.branch == "main" else f".{self._address.branch}"
        return f"dataflare.marker.{slot}{branch}"

    def marker(self, slot: str) -> str | None:
        text: str | None = self._table.properties.get(self._property(slot))
        return text

    def commit(self, change: Change) -> None:
        labels = {f"dataflare.{name}": text for name, text in change.label.items()}
        labels |= {name.replace("/", "."): str(n) for name, n in change.counters.items()}
        with iceberg_errors(self.label, "writing"), self._conflicts():
            self._begin_branch()
            # pyiceberg would make the change again on top of another writer's, with a marker that may be
            # older than the one there. This changes what is loaded, not the table.
            self._table.metadata.properties[_RETRIES] = "0"
            transaction = self._table.transaction()
            update = transaction.update_snapshot(labels, branch=self._address.branch)
            producer = update.overwrite() if change.removes else update.fast_append()
            for file in change.adds:
                producer.append_data_file(file.handle.file)
            for file in change.removes:
                producer.delete_data_file(file.handle.file)
            producer.commit()
            texts = {self._property(s): text for s, text in change.markers.items()}
            kept = {name: text for name, text in texts.items() if text is not None}
            gone = [name for name, text in texts.items() if text is None]
            if kept:
                transaction.set_properties(kept)
            if gone := [name for name in gone if name in self._table.properties]:
                transaction.remove_properties(*gone)
            crash_point("iceberg.commit.before_swap")
            transaction.commit_transaction()

    def _conflicts(self) -> Any:
        return _Conflicts(self.label)

    def _begin_branch(self) -> None:
        """Create the branch from what main has, if it is missing."""
        branch, metadata = self._address.branch, self._table.metadata
        main = metadata.snapshot_by_name("main")
        if branch in metadata.refs or main is None:
            return
        self._table.manage_snapshots().create_branch(main.snapshot_id, branch).commit()

    def refuse_mode(self, mode: str) -> None:
        reasons = [
            f"the column '{f.name}' of type {kind}"
            for f in self._iceberg.fields
            if (kind := unwritable(f.field_type)) is not None
        ]
        of_mode: list[str] = []
        if self._table.metadata.format_version >= 3 and mode in _KEYED:
            of_mode.append("format version 3, whose row ids would be lost")
        ref = self._table.metadata.refs.get(self._address.branch)
        if ref is not None and ref.snapshot_ref_type != "branch":
            reasons.append(f"a tag '{self._address.branch}' instead of a branch")
        if self._table.properties.get("write.format.default", "parquet").lower() != "parquet":
            reasons.append("another file format than Parquet")
        sources = [field.source_id for field in self._table.spec().fields]
        if len(set(sources)) < len(sources):
            reasons.append("two partitions of one column")
        refuse_table(self.label, mode, reasons, of_mode)

    def evolve(self, schema: Schema) -> LakeTable:
        names = matched_names(schema.names, self._schema)
        types = {f.name: f.field_type for f in self._iceberg.fields}
        added = [f for f in schema if f.name not in names]
        widened = {
            names[f.name]: new
            for f in schema
            if f.name in names and (new := wider(types[names[f.name]], f.type)) is not None
        }
        if not added and not widened:
            return self
        with (
            iceberg_errors(self.label, "adding columns to"),
            self._conflicts(),
            self._table.update_schema() as update,
        ):
            for field in added:
                ids = iter(range(1, 1_000_000))
                update.add_column((field.name,), stored(field.type, field.name, ids))
            for name, type_ in widened.items():
                update.update_column((name,), type_)
        return IcebergVersion(self._address)


class _Conflicts:
    """Raises Conflict for the exceptions that say that another writer was faster."""

    def __init__(self, label: str) -> None:
        self._label = label

    def __enter__(self) -> None:
        return

    def __exit__(self, type_: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, CommitFailedException | ValidationException):
            raise Conflict(self._label, " ".join(str(error).split())[:200]) from error
