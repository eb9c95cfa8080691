"""The `file` destination: one file that is renamed into place at the end, or a folder of parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl
from msgspec.structs import replace

from dataflare.checkpoint.files import make_folder
from dataflare.connectors.file.destination_config import FileDestinationConfig, Target, target_of
from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.fence import Fence
from dataflare.connectors.file.folder import FolderCommitter, FolderWriter
from dataflare.connectors.file.growing import (
    GrowingArrow,
    GrowingFile,
    GrowingParquet,
    GrowingText,
)
from dataflare.connectors.file.layout import Layout
from dataflare.connectors.file.marker import FileMarker, NoMarker
from dataflare.connectors.file.parts import PartsFolder
from dataflare.connectors.file.single_file import (
    SingleFileCommitter,
    SingleFileWriter,
    Staging,
    copy_to_stage,
)
from dataflare.connectors.file.stored_folder import (
    StoredFolder,
    StoredFolderCommitter,
    StoredFolderWriter,
)
from dataflare.connectors.file.stored_marker import StoredMarker
from dataflare.connectors.file.stored_single import StoredFileCommitter, StoredFileWriter
from dataflare.errors import ConfigError, SystemError_, did_you_mean
from dataflare.formats.arrow_write import ArrowEncoder
from dataflare.formats.messages.connect_write import check_columns
from dataflare.formats.messages.debezium_encode import Envelopes, paired
from dataflare.formats.parquet_write import ParquetEncoder
from dataflare.formats.text_write import CsvText, JsonText, NdjsonText, TextFormat
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.delete_max import effect
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Writer,
)
from dataflare.sdk.destination import Target as Place
from dataflare.sdk.sql.fold import rows_to_append, schema_with_op
from dataflare.sdk.stores.local_copy import spool_folder
from dataflare.sdk.stores.options import FROM_ENVIRONMENT
from dataflare.sdk.stores.uploads import Uploads, open_uploads
from dataflare.sdk.threads import in_thread

_STORED_PART_BYTES = 256 << 20
"""A part that goes to a store grows on a disk of this machine first, up to about this size."""
_CHANGELOG_WITH = (
    "changelog: columns, or write to a table of a database with mode: upsert or mirror"
)
_TEXT_ROWS = 128_000
"""Text is encoded in pieces of this many rows; half of that takes 10 % more processor time."""


class FileDestination(DestinationConnector):
    """Parquet, Arrow, CSV, NDJSON or JSON: one file, or a folder of parts."""

    type = "file"
    Config = FileDestinationConfig
    summary = "Writes files: Parquet, Arrow, CSV, NDJSON, JSON; one file, or a folder of parts."
    example = """\
archive:
  type: file
  inputs: [orders]
  config: {path: out/orders.parquet}
"""

    @cached_property
    def target(self) -> Target:
        return target_of(self.config, self.context)

    @property
    def beside_job(self) -> bool:
        """A single file grows under one name in all attempts, so a worker that was cut off and comes back must not have it
        open."""
        return not self.target.is_folder

    @property
    def of_machine(self) -> bool:
        return not self.target.is_folder and self.target.url is None

    def capabilities(self) -> DestinationCapabilities:
        target = self.target
        if target.url is not None:
            reason = "uploads are staged, and published with their epoch"
        elif target.is_folder:
            reason = "parts are staged and renamed with their epoch"
        else:
            reason = "the file grows under a staging name and is renamed at the end"
        return DestinationCapabilities(
            delivery=Delivery.TRANSACTIONAL,
            reason=reason,
            parallel=target.is_folder,
            bounded_only=not target.is_folder or target.mode == "overwrite",
            one_schema=not target.is_folder,
            all_rows=target.mode == "mirror",
            local=target.url is None,
            changelog=self.config.changelog is not None,
            truncates=self.config.changelog is not None,
            parts_keys=self.config.changelog == "debezium",
            changelog_with="" if target.mode == "mirror" else _CHANGELOG_WITH,
        )

    @property
    def mode(self) -> str:
        return self.target.mode

    def replaces(self) -> bool:
        return self.target.mode in ("overwrite", "mirror")

    def cannot_add(self) -> str | None:
        target = self.target
        if target.is_folder or target.format in ("csv", "ndjson"):
            return None
        return f"one {target.format} file, to which rows cannot be added"

    def effects(self) -> Sequence[str]:
        return [effect(self.config.delete_max, "file")] if self.target.mode == "mirror" else []

    def writes_to(self) -> Place:
        target = self.target
        if target.url is not None:
            return Place(target.url.rstrip("/"))
        place = os.path.realpath(target.path)
        if not target.is_folder:
            return Place(place, sample=place)
        inside = [f"{name}=x" for name in self.config.partition_by]
        return Place(place, sample=os.path.join(place, *inside, f"part-0{target.extension}"))

    async def validate(self, schema: Schema) -> None:
        await in_thread(self._validate, self._written(schema))

    def _written(self, schema: Schema) -> Schema:
        """The columns in the files."""
        match self.config.changelog:
            case "columns":
                return schema_with_op(self.context.step, schema)
            case "debezium":
                return self._envelopes(schema).schema
        return schema

    def _envelopes(self, schema: Schema) -> Envelopes:
        check_columns(schema, self.context.step)
        step, of = self.context.step, self.context.table
        return Envelopes(schema, step, *((step, "") if of is None else (of.table, of.schema)))

    def _as_written(self, schema: Schema) -> Callable[[pl.DataFrame], pl.DataFrame] | None:
        match self.config.changelog:
            case "columns":
                return partial(rows_to_append, op=True)
            case "debezium":
                envelopes = self._envelopes(schema)
                return lambda frame: envelopes.frame(paired(frame, envelopes.row, []))
        return None

    def _validate(self, schema: Schema) -> None:
        target = self.target
        named = [("partition_by", name) for name in self.config.partition_by]
        for option, name in [*named, *(("key", name) for name in self.config.key)]:
            if name not in schema:
                raise ConfigError(
                    f"'{option}' names '{name}', which does not reach this step",
                    code="E0406",
                    step=self.context.step,
                    notes=[f"it receives: {', '.join(schema.names)}"],
                    help=did_you_mean(name, schema.names),
                )
            if schema[name].name in ("list", "struct", "binary", "json"):
                use = "a folder" if option == "partition_by" else "a key"
                raise ConfigError(
                    f"'{option}' names '{name}', whose type {schema[name]} cannot be {use}",
                    code="E0406",
                    step=self.context.step,
                    help="cast the column to string or date before, or name another",
                )
        if len(self.config.partition_by) >= max(len(schema), 1):
            raise ConfigError(
                "'partition_by' leaves no column for the files",
                code="E0406",
                step=self.context.step,
                help="name fewer columns in 'partition_by'",
            )
        if target.url is not None:
            uploads, path = self._uploads()
            next(
                uploads.unfinished(f"{path.rstrip('/')}/.dataflare"), None
            )  # whether it may be written
            return
        with file_errors(target.path, "writing"):
            _check_place(target)
            if not target.is_folder and target.mode == "append":
                self._check_header(schema)

    def _check_header(self, schema: Schema) -> None:
        """Raises an error if an existing CSV file has other columns than the rows to append."""
        target = self.target
        if target.format != "csv" or not self.config.header or not _has_content(target.path):
            return
        from dataflare.formats import csv_sniff
        from dataflare.formats.compression import open_stream
        from dataflare.formats.csv_read import CsvDialect

        stream = open_stream(target.path, target.compression)
        try:
            head = stream.read(1 << 20)
        finally:
            stream.close()
        names, _ = csv_sniff.header_of(head, CsvDialect(self.config.delimiter), target.path)
        if tuple(names) != schema.names:
            raise SystemError_(
                f"{target.path} has other columns than the rows to append",
                code="E0605",
                notes=[f"it has: {', '.join(names)}", f"to append: {', '.join(schema.names)}"],
                help="write to another file, or make the columns the same with 'select'",
            )

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        as_written = self._as_written(context.schema)
        context = replace(context, schema=self._written(context.schema))
        writer = await in_thread(self._open, context, restored)
        writer.as_written = as_written
        if self.target.is_text:
            is_csv = self.target.format == "csv"
            writer.float_losses = ("nan", "infinite inside" if is_csv else "infinite")
        return writer

    def _uploads(self) -> tuple[Uploads, str]:
        assert self.target.url is not None
        storage = self.config.storage or FROM_ENVIRONMENT
        return open_uploads(self.target.url, storage, self.context.step)

    def _open(
        self, context: DestinationContext, restored: Committable | None
    ) -> FolderWriter | SingleFileWriter:
        target = self.target
        bytes_max = self.context.buffer_bytes_max
        rows_max = _TEXT_ROWS if target.is_text else self.config.row_group_rows
        staging = self._staging(context)
        with file_errors(staging.path, "writing"):
            if not target.is_folder:
                make_folder(staging.path.parent, private=self.context.private or bool(target.url))

                def grow(path: Path, sidecar: Path, data: Mapping[str, Any]) -> GrowingFile:
                    return self._growing(context.schema, path, sidecar, data)

                mirror = None
                if target.mode == "mirror":
                    from dataflare.connectors.file.mirror import Mirror

                    memory = self.context.memory
                    key, step = self.config.key, context.step
                    mirror = Mirror(target, self.config, key, context.schema, step, memory)
                make = (
                    SingleFileWriter
                    if target.url is None
                    else partial(StoredFileWriter, *self._uploads())
                )
                return make(
                    staging,
                    self._encoder(),
                    grow,
                    restored,
                    rows_max,
                    bytes_max,
                    context.step,
                    self._layout(context.schema),
                    check=mirror.check if mirror is not None else None,
                    before=context.before,
                )
            folder = self._parts(context)
            inside = [n for n in context.schema.names if n not in self.config.partition_by]
            schema = context.schema.select(inside)
            data = restored.data if restored is not None else {}
            part_bytes_max = self.config.part_bytes_max
            open_folder: Callable[..., FolderWriter] = FolderWriter
            if target.url is not None:
                part_bytes_max = part_bytes_max or _STORED_PART_BYTES
                open_folder = partial(
                    StoredFolderWriter, self._stored_folder(context), context.epoch
                )
            return open_folder(
                folder,
                self._encoder(),
                lambda path: self._growing(schema, path),
                context.subtask,
                context.attempt,
                partition_by=self.config.partition_by,
                rows_max=rows_max,
                bytes_max=bytes_max,
                part_rows_max=self.config.rows_per_part,
                part_bytes_max=part_bytes_max,
                total_parts=data.get("total_parts", 0),
                total_rows=data.get("total_rows", 0),
            )

    def _layout(self, schema: Schema) -> Layout:
        target, config = self.target, self.config
        options: dict[str, Any] = {"format": target.format, "compression": target.compression}
        if target.format == "csv":
            options |= {
                "delimiter": config.delimiter,
                "header": config.header,
                "null_value": config.null_value,
            }
        return Layout(schema, options, names_values=target.format in ("ndjson", "json"))

    def _encoder(self) -> ParquetEncoder | ArrowEncoder | TextFormat:
        match self.target.format:
            case "parquet":
                return ParquetEncoder(self.target.compression)
            case "arrow":
                return ArrowEncoder(self.target.compression)
            case "csv":
                return CsvText(self.config.delimiter, self.config.null_value, self.context.step)
            case "json":
                return JsonText()
        return NdjsonText()

    def _growing(
        self,
        schema: Schema,
        path: Path,
        sidecar: Path | None = None,
        data: Mapping[str, Any] = MappingProxyType({}),
    ) -> GrowingFile:
        file = self._opened(schema, path, sidecar, data)
        if self.context.private:
            path.chmod(0o600)
        return file

    def _opened(
        self, schema: Schema, path: Path, sidecar: Path | None, data: Mapping[str, Any]
    ) -> GrowingFile:
        target, encoder = self.target, self._encoder()
        length, rows, digest = data.get("length", 0), data.get("rows", 0), data.get("digest")
        if isinstance(encoder, ParquetEncoder):
            return GrowingParquet(
                path,
                encoder,
                schema,
                sidecar=sidecar,
                length=length,
                digest=digest,
                sidecar_length=data.get("sidecar_length", 0),
                sidecar_digest=data.get("sidecar_digest"),
                rows=rows,
            )
        if isinstance(encoder, ArrowEncoder):
            return GrowingArrow(path, encoder, schema, length=length, digest=digest, rows=rows)
        header = self.config.header or target.format == "json"
        appends = not target.is_folder and target.mode == "append" and _has_content(target.path)
        if appends and not length:
            length = copy_to_stage(target.path, path, text=target.compression == "none")
            header = False
        return GrowingText(
            path,
            encoder,
            schema,
            target.compression,
            header=header,
            length=length,
            digest=digest,
            rows=rows,
        )

    def cannot_go_on(self, lineage: str, committables: Sequence[Committable]) -> str | None:
        if self.target.url is not None or self.target.is_folder or not committables:
            return None
        staging = Staging(self.target.path, lineage.replace("-", "")[:8])
        return staging.without(committables[0].data)

    def refuse_staged(self, committables: Sequence[Committable], schema: Schema) -> None:
        target = self.target
        if committables and not target.is_folder:
            staged = committables[0].data.get("layout")
            place = target.path if target.url is None else target.url
            self._layout(self._written(schema)).refuse_other(staged, place, self.context.step)

    async def committer(self, context: DestinationContext) -> Committer:
        if self.target.url is not None:
            return await in_thread(self._stored_committer, context)
        if self.target.is_folder:
            return FolderCommitter(self._parts(context), Fence(context), self._marker(context))
        return SingleFileCommitter(self._staging(context), Fence(context), self._marker(context))

    def _stored_committer(self, context: DestinationContext) -> Committer:
        fence = Fence(context)
        if self.target.is_folder:
            folder = self._stored_folder(context)
            marker = StoredMarker(folder.uploads, folder.prefix.rstrip("/"), context)
            return StoredFolderCommitter(folder, fence, marker)
        uploads, path = self._uploads()
        none = NoMarker(Path(path), context)
        return StoredFileCommitter(uploads, path, self._staging(context), fence, none)

    def _stored_folder(self, context: DestinationContext) -> StoredFolder:
        uploads, path = self._uploads()
        prefix = f"{path.rstrip('/')}/" if path.rstrip("/") else ""
        target = self.target
        overwrite = target.mode == "overwrite"
        return StoredFolder(uploads, prefix, context.lineage8, target.extension, overwrite)

    def _marker(self, context: DestinationContext) -> FileMarker:
        """The marker beside a folder of parts or a file that is appended to; a replaced file needs
        none."""
        target = self.target
        if target.is_folder:
            kind = FileMarker if context.workflow and not self.context.private else NoMarker
            return kind(target.path, context)
        kind = FileMarker if context.workflow and target.mode == "append" else NoMarker
        return kind(target.path.parent, context, target.path.name)

    def _staging(self, context: DestinationContext) -> Staging:
        target = self.target
        path = target.path if target.url is None else context.redo / target.path.name
        return Staging(path, context.lineage8)

    def _parts(self, context: DestinationContext) -> PartsFolder:
        target = self.target
        if target.url is not None:
            here = spool_folder() / f"{context.step}-{context.attempt}-{context.token}"
            return PartsFolder(here, context.lineage8, target.extension, False, True)
        return PartsFolder(
            target.path,
            context.lineage8,
            target.extension,
            target.mode == "overwrite",
            self.context.private,
        )


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _check_place(target: Target) -> None:
    """Raises an error if the target cannot be created at its place."""
    path = target.path
    if target.is_folder and path.exists() and not path.is_dir():
        raise SystemError_(
            f"{path} is a file, and a folder of parts is wanted there",
            code="E0604",
            help="give the path an extension to write one file",
        )
    if not target.is_folder and path.is_dir():
        raise SystemError_(
            f"{path} is a folder, and one file is wanted there",
            code="E0604",
            help="end the path in a slash to write parts into the folder",
        )
    place = path if target.is_folder else path.parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise SystemError_(
            f"{path} cannot be written: {place} is not a folder",
            code="E0604",
            help="choose another path, or move that file away",
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise SystemError_(
            f"permission denied: {path}", code="E0602", help=f"the folder {place} cannot be written"
        )
