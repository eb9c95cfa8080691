"""One version of a Delta table."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow.fs as pafs
from deltalake import CommitProperties, DeltaTable, Field, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction

from dataflare.connectors.delta.errors import delta_errors
from dataflare.connectors.delta.files import (
    DeltaFiles,
    Stored,
    add_action,
    files_of,
    read_frames,
    remove_action,
)
from dataflare.connectors.delta.place import DeltaAddress
from dataflare.connectors.delta.types import field_json, read_type
from dataflare.errors import CheckpointError, DataError, DataFlareError
from dataflare.model.types import Schema
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.lakes.errors import refuse_table
from dataflare.sdk.lakes.table import Change, Conflict, DataFile, FileWriter, LakeTable
from dataflare.sdk.sql.names import HELP

_FOLDER = "_dataflare"
_PREFIX = "dataflare/marker/"
_WRITABLE = {
    "appendOnly", "invariants", "checkConstraints", "generatedColumns", "changeDataFeed", "timestampNtz",
    "vacuumProtocolCheck", "v2Checkpoint", "domainMetadata", "deletionVectors", "columnMapping",
    "identityColumns",
}  # fmt: skip
"""Features of a table that is written to. Of some, a table may have the feature but not its use: those are
refused in `refuse_mode`."""


class DeltaVersion(LakeTable):
    def __init__(self, address: DeltaAddress, version: int | None = None) -> None:
        self._address, self.label = address, address.label
        with delta_errors(self.label, "reading"):
            self._delta = DeltaTable(address.uri, version, address.storage)
        with delta_errors(self.label, "reading"):
            self._fields = json.loads(self._delta.schema().to_json())["fields"]
            self._metadata = self._delta.metadata()
        self.number = self._delta.version()
        self._schema = Schema.of({f["name"]: read_type(f["type"], f["name"]) for f in self._fields})
        self._files: list[DataFile] | None = None
        self._filesystem: Any = None

    @property
    def delta(self) -> DeltaTable:
        return self._delta

    @property
    def schema(self) -> Schema:
        return self._schema

    @property
    def partitions(self) -> list[str]:
        return list(self._metadata.partition_columns)

    @property
    def properties(self) -> Mapping[str, str]:
        return dict(self._metadata.configuration)

    @property
    def required(self) -> Sequence[str]:
        return [f["name"] for f in self._fields if not f["nullable"]]

    @property
    def filesystem(self) -> Any:
        if self._filesystem is None:
            handler = DeltaStorageHandler.from_table(self._delta._table, self._address.storage)
            self._filesystem = pafs.PyFileSystem(handler)
        return self._filesystem

    # -- files -------------------------------------------------------------------------------------

    def files(self) -> Sequence[DataFile]:
        if self._files is None:
            with delta_errors(self.label, "reading"):
                actions = self._delta.get_add_actions(flatten=False)
            self._files = files_of(actions, self.partitions, self._schema)
        return self._files

    def read(self, file: DataFile, columns: Sequence[str], skip: int = 0) -> Iterator[pl.DataFrame]:
        return read_frames(self.filesystem, file, self._schema, columns, skip, self.label)

    def writer(self, prefix: str) -> FileWriter:
        return DeltaFiles(prefix, self._schema, self.partitions, self.filesystem, self.label)

    def remove(self, files: Sequence[DataFile]) -> None:
        for file in files:
            self._delete(unquote(file.path))

    def _delete(self, path: str) -> None:
        try:
            with delta_errors(self.label, "writing"):
                self.filesystem.delete_file(path)
        except DataFlareError:  # a file that stays is removed by a vacuum
            return

    def unfit(self, frame: pl.DataFrame) -> Mapping[int, DataError]:
        refused: dict[int, DataError] = {}
        for name in self.partitions:
            if name not in frame.columns or self._schema[name].name != "string":
                continue
            for row in (frame[name] == "").fill_null(False).arg_true():
                refused[row] = DataError(
                    f"{self.label} refuses a row: '{name}' is a partition column, and Delta Lake reads an empty "
                    "text there as NULL",
                    code="E0511",
                    help=HELP,
                )
        return refused

    def file_to_json(self, file: DataFile) -> Any:
        stored = file.handle
        return [file.path, file.rows, file.num_bytes, dict(stored.partition), stored.stats]

    def file_from_json(self, value: Any) -> DataFile:
        path, rows, num_bytes, partition, stats = value
        with delta_errors(self.label, "reading"):
            there = self.filesystem.get_file_info(unquote(path)).type != pafs.FileType.NotFound
        if not there:
            raise CheckpointError(
                f"{self.label}: the file {path} that this run has staged is gone",
                code="E0703",
                notes=["a vacuum may have removed it"],
                help="run with --fresh to build it again",
            )
        return DataFile(path, rows, Stored(partition, {}, stats), num_bytes)

    # -- the marker --------------------------------------------------------------------------------

    def marker(self, slot: str) -> str | None:
        with delta_errors(self.label, "reading"):
            pointer = self._delta.transaction_version(_PREFIX + slot)
            if not pointer:
                return None
            try:
                with self.filesystem.open_input_file(_marker_path(slot, pointer)) as opened:
                    return bytes(opened.read()).decode()
            except FileNotFoundError as error:
                raise CheckpointError(
                    f"{self.label} has a marker of this step, and its file {_marker_path(slot, pointer)} is gone",
                    code="E0703",
                    help="restore the file, or choose another table",
                ) from error

    def _write_marker(self, slot: str, text: str | None) -> int:
        """Returns the pointer to the marker's file, which is greater than those before."""
        if text is None:
            return 0
        before: int = self._delta.transaction_version(_PREFIX + slot) or 0
        pointer = (((before >> 32) + 1) << 32) | secrets.randbits(32)
        path, data = _marker_path(slot, pointer), text.encode()
        # Without a buffer that holds all of it, the stream gets objects that deltalake does not take.
        with self.filesystem.open_output_stream(path, buffer_size=len(data) + 1) as opened:
            opened.write(data)
        return pointer

    # -- changes -----------------------------------------------------------------------------------

    def commit(self, change: Change) -> None:
        old = {slot: self._delta.transaction_version(_PREFIX + slot) for slot in change.markers}
        with delta_errors(self.label, "writing"):
            new = {slot: self._write_marker(slot, text) for slot, text in change.markers.items()}
            crash_point("delta.commit.after_marker")
            ids = {**{_PREFIX + slot: n for slot, n in new.items()}, **change.counters}
            actions: list[AddAction | RemoveAction] = [
                *map(add_action, change.adds),
                *map(remove_action, change.removes),
            ]
            properties = CommitProperties(
                custom_metadata={f"dataflare.{n}": text for n, text in change.label.items()},
                max_commit_retries=0,
                app_transactions=[Transaction(id_, number) for id_, number in ids.items()],
            )
            try:
                self._delta.create_write_transaction(
                    actions,
                    "append",
                    self._delta.schema(),
                    self.partitions,
                    commit_properties=properties,
                )
            except CommitFailedError as error:
                for slot, pointer in new.items():
                    self._delete(_marker_path(slot, pointer))
                raise Conflict(self.label, " ".join(str(error).split())) from error
        crash_point("delta.commit.after_version")
        for slot, earlier in old.items():
            if earlier:
                self._delete(_marker_path(slot, earlier))

    def refuse_mode(self, mode: str) -> None:
        protocol, properties = self._delta.protocol(), self.properties
        reasons: list[str] = []
        features = set(protocol.writer_features or ())
        reasons += [f"the feature {name}" for name in sorted(features - _WRITABLE)]
        if properties.get("delta.columnMapping.mode", "none") != "none":
            reasons.append("column mapping")
        reasons += [n for n in properties if n.startswith("delta.constraints.")]
        for field in self._fields:
            for name in field["metadata"]:
                if name.startswith(("delta.invariants", "delta.generat", "delta.identity")):
                    reasons.append(f"{name} of column '{field['name']}'")
            if "map" in json.dumps(field["type"]).split('"'):
                reasons.append(f"the map column '{field['name']}'")
        of_mode: list[str] = []
        if mode != "append" and properties.get("delta.appendOnly") == "true":
            of_mode.append("delta.appendOnly")
        if mode in ("upsert", "mirror"):
            if properties.get("delta.enableChangeDataFeed") == "true":
                of_mode.append(
                    "delta.enableChangeDataFeed (rows that change would lack in the feed)"
                )
            if self.has_deletion_vectors():
                of_mode.append("files with deletion vectors")
        refuse_table(self.label, mode, reasons, of_mode)

    def has_deletion_vectors(self) -> bool:
        if "deletionVectors" not in (self._delta.protocol().reader_features or ()):
            return False
        with delta_errors(self.label, "reading"):
            return bool(pl.DataFrame(self._delta.deletion_vectors()).height)

    def evolve(self, schema: Schema) -> LakeTable:
        folded = {name.casefold() for name in self._schema.names}
        added = [f for f in schema if f.name.casefold() not in folded]
        if not added:
            return self
        fields = [Field.from_json(json.dumps(field_json(f.name, f.type, f.name))) for f in added]
        with delta_errors(self.label, "adding columns to"):
            try:
                self._delta.alter.add_columns(fields)
            except CommitFailedError as error:
                raise Conflict(self.label, " ".join(str(error).split())) from error
        return DeltaVersion(self._address)


def _marker_path(slot: str, pointer: int) -> str:
    return f"{_FOLDER}/{slot}-{pointer:016x}.json"


def schema_of(text: str) -> DeltaSchema:
    return DeltaSchema.from_json(text)
