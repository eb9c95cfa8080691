"""The `file` source: one split per file, read in chunks that become lazy queries.

Always true: the list of files is fixed when a run starts; a file is read as it is when its reading
begins or continues; rows that were read once can be read again, or the run reports that they
cannot.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from dataflare.connectors.file.catalog import catalog_of
from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.ledger import Ledger, UnreadFile, reading_notes, sort_files
from dataflare.connectors.file.listing import would_list
from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.partitions import partition_schema, partition_values
from dataflare.connectors.file.reading import FileFacts, NothingLeft, path_literal
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey import Survey, survey
from dataflare.errors import ConfigError, SystemError_, did_you_mean
from dataflare.formats.any_file import AnyFile
from dataflare.formats.csv_read import CsvDialect, CsvPlan
from dataflare.formats.text_types import TextColumn
from dataflare.model.progress import Position, Split
from dataflare.model.types import STRING, Schema, parse_type
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.context import has_scheme
from dataflare.sdk.source import (
    KnownSplits,
    Replay,
    Reread,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsDiscovery,
    SupportsProjection,
    SupportsReread,
    UnreadRow,
)
from dataflare.sdk.stores.options import FROM_ENVIRONMENT, is_stored
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.connectors.file.watch import Watch
    from dataflare.formats.ndjson_read import NdjsonPlan


class FileSource(
    SourceConnector, SupportsProjection, SupportsReread, SupportsDiscovery, SupportsCatalog
):
    """Rows of CSV, NDJSON, JSON, Parquet, Arrow IPC or Excel files."""

    type = "file"
    finds_new_fields = True
    lists_only_new = True
    Config = FileSourceConfig
    summary = "Reads files: CSV, NDJSON, JSON, Parquet, Arrow, Excel; plain, gzip or zstd."
    example = """\
orders:
  type: file
  config: {path: "data/orders-*.csv", null_values: [NA]}
"""
    contract: Schema | None = None
    """The step's `schema`: types that text columns are parsed with, instead of sampled ones."""

    def __init__(self, config: FileSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        self._columns: tuple[str, ...] | None = None
        self._survey: Survey | None = None
        self._partitions: Schema | None = None
        self._notes: Sequence[str] = ()
        self._watched: Watch | None = None

    choosing = ("path",)

    async def catalog(self) -> Sequence[Entry]:
        return await in_thread(catalog_of, self.config, self.context)

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            replay=Replay.EXACT,
            replay_reason="files are immutable; positions are byte offsets or rows",
            bounded=not self.config.watch,
            local=not any(is_stored(path) for path in self.config.paths),
            chunks=True,
        )

    def doubts(self) -> Sequence[str]:
        return self._survey.doubts if self._survey is not None else ()

    def reads_all(self) -> bool:
        return not self.config.watch and not self._new_only

    @property
    def _new_only(self) -> bool:
        if self.config.new_only is not None:
            return bool(self.config.new_only)
        return bool(self.written_as) and set(self.written_as.values()) == {"append"}

    def effects(self) -> Sequence[str]:
        return reading_notes(self.config.new_only, self.written_as)

    def notes(self) -> Sequence[str]:
        return self._notes

    def carries(self) -> bool:
        return self._new_only or bool(self.config.watch)

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        if self.config.watch:
            from dataflare.connectors.file.watch import carried_of

            return carried_of(self.started_from, positions)
        if not self._new_only:
            return None
        return (
            Ledger.from_json(self.started_from)
            .with_positions(positions, self.context.base)
            .to_json()
        )

    def end_of(self, split: Split) -> Position | None:
        """As much of it as says which file was read; the ledger compares that with the file."""
        facts = {name: split.data.get(name) for name in ("size", "mtime_ns", "pieces")}
        return Position(facts) if None not in facts.values() else None

    async def validate(self) -> None:
        await self.schema()

    async def schema(self) -> Schema:
        return self._all_columns(await self._look()).select(await self._output())

    def findings(self) -> Mapping[str, str]:
        survey = self._survey
        if survey is None or not survey.files:
            return {}
        first = survey.facts[survey.files[0].id]
        count = len(survey.files)
        findings = {"format": survey.format, "files": f"{count:,}"}
        if first.get("compression", "none") != "none":
            findings["compression"] = first["compression"]
        dialect = first.get("dialect") or {}
        for name, value in dialect.items():
            if isinstance(value, str) and value and (name, value) != ("quote", '"'):
                findings[name] = "tab" if value == "\t" else value
        return findings | survey.findings

    def reads(self, path: str) -> bool:
        listed = self._survey.files if self._survey is not None else []
        paths = [file.path for file in listed if isinstance(file.path, Path)]
        if any(os.path.realpath(each) == path for each in paths):
            return True
        return any(
            would_list(pattern, path, self.context, self.config.format)
            for pattern in self.config.paths
        )

    def with_columns(self, columns: Sequence[str]) -> Self:
        copy_ = copy.copy(self)
        copy_._columns, copy_._watched = tuple(columns), None
        if not columns and self._survey is not None:
            # Without a column the rows cannot be counted.
            copy_._columns = self._survey.schema.names[:1]
        return copy_

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        survey = await self._look()
        return await in_thread(self._splits, survey, carried)

    def discovery_interval_s(self) -> float | None:
        return float(self.config.watch_interval) if self.config.watch else None

    async def discover(self, known: KnownSplits) -> Sequence[Split] | None:
        ids = {*known.ids, *(self.started_from or {}).get("ids", ())}
        return await in_thread(self._watch_of(await self._look()).find, ids)

    def _watch_of(self, survey: Survey) -> Watch:
        from dataflare.connectors.file.watch import Watch

        if self._watched is None:
            self._watched = Watch(self, survey)
        return self._watched

    def _splits(self, survey: Survey, carried: Mapping[str, Any] | None) -> list[Split]:
        if self.config.watch:
            watch = self._watch_of(survey)
            begun = watch.again(carried) if carried else []
            return [*begun, *watch.find(carried["ids"] if carried else ())]
        added, schema = self._added_schema(survey), _ordered(survey.schema)
        if not self._new_only:
            return [self._split(file, survey, added, schema) for file in survey.files]
        ledger = Ledger.from_json(carried)
        diff = sort_files(survey.files, ledger, self.config.changed, self.context.step)
        if carried is not None:
            self._notes = diff.notes()
        return [self._split(each.file, survey, added, schema, each) for each in diff.unread]

    def _split(
        self,
        file: FoundFile,
        survey: Survey,
        added: Schema,
        schema: Any,
        entry: UnreadFile | None = None,
    ) -> Split:
        data = self._data_of(file, survey.facts[file.id], survey, added, schema)
        if entry is None:
            return Split(file.id, data, file.size)
        data["pieces"] = entry.pieces
        if entry.start is None:
            return Split(file.id, data, file.size)
        data["start"] = dict(entry.start)
        return Split(file.id, data, file.size - entry.start["offset"])

    def split_of(self, file: FoundFile, facts: Mapping[str, Any], id_: str) -> Split:
        """A split of a file that was found later."""
        survey = self._survey
        assert survey is not None
        added, schema = self._added_schema(survey), _ordered(survey.schema)
        return Split(id_, self._data_of(file, facts, survey, added, schema), file.size)

    def _data_of(
        self,
        file: FoundFile,
        facts: Mapping[str, Any],
        survey: Survey,
        added: Schema,
        schema: Any,
    ) -> dict[str, Any]:
        return {
            "path": file.id,
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            **({} if file.etag is None else {"etag": file.etag}),
            "format": survey.format,
            "added": self._added_of(file, added),
            "schema": schema,
            **facts,
        }

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        output = await self._output_of(split)
        if position is None and "start" in split.data:
            position = Position(split.data["start"])
        return await in_thread(self._open, split, position, output)

    async def reread(self, rows: Sequence[UnreadRow]) -> Sequence[Reread]:
        from dataflare.connectors.file.reread import original, read_again

        answers, splits = await read_again(self, rows), await self.splits()
        if not splits or splits[0].data["format"] not in ("ndjson", "json"):
            return answers
        schema, plan = await self.schema(), self._plan(splits[0], tuple(await self._output()))
        assert not isinstance(plan, CsvPlan)
        if any(name not in _types_of(splits[0].data) for name in schema.names):
            return answers  # columns that only the file's path tells
        return [
            original(plan, row, answer, watch=self._watch) if answer.moved else answer
            for row, answer in zip(rows, answers, strict=True)
        ]

    def _open(self, split: Split, position: Position | None, output: Sequence[str]) -> SplitReader:
        data = split.data
        file: AnyFile | None = None
        if "begins" in data:
            from dataflare.connectors.file.watch import held_file

            file = held_file(self, split)
            if file is None:
                return NothingLeft(split)
        facts = FileFacts(
            file or self._file_of(data),
            data["size"],
            data["mtime_ns"],
            data.get("compression", "none"),
            data.get("encoding", "utf-8"),
            data.get("pieces"),
            CsvDialect.from_json(data["dialect"]).rewriting if "dialect" in data else None,
            data.get("head"),
            data["format"] == "json",
            file is not None,
            data.get("begins", 0),
        )
        types, listed = self._types(data), _types_of(data)
        own = dict.fromkeys(data.get("own", listed.names))
        added: dict[str, pl.Expr] = {
            name: path_literal(text, parse_type(type_))
            for name, text, type_ in data["added"]
            if name in output and name not in listed
        }
        if data["format"] not in ("ndjson", "json"):
            lacking = [name for name in output if name in types and name not in own]
            added |= {name: pl.lit(None, dtype=types[name].to_polars()) for name in lacking}
        extra = [name for name in own if name not in types] if self._watch else []
        inside = tuple(name for name in output if name not in added)
        match data["format"]:
            case "csv" | "ndjson" | "json":
                from dataflare.connectors.file.line_reader import LineReader

                plan = self._plan(split, inside)
                body = data.get("body", 0)
                return LineReader(
                    facts,
                    plan,
                    body,
                    position,
                    added,
                    output,
                    data["path"],
                    watch=self._watch,
                    extra=extra,
                    memory=self.context.memory,
                    record_max=self.context.record_bytes_max,
                    grows=self._new_only,
                )
            case "excel":
                from dataflare.connectors.file.excel_reader import ExcelReader
                from dataflare.connectors.file.survey.excel import load_tables

                tables = load_tables(facts.path, self.config, self.contract)
                return ExcelReader(
                    facts,
                    tables,
                    types,
                    added,
                    output,
                    data["path"],
                    position,
                    self.config.sheet_column,
                    own=[*own],
                    extra=extra,
                )
        from dataflare.connectors.file.table_files import open_table
        from dataflare.connectors.file.table_reader import TableReader

        with file_errors(facts.path):
            return TableReader(
                facts,
                open_table(facts.path, data["format"]),
                types,
                added,
                output,
                data["path"],
                position,
                data.get("meanings"),
                own=[*own],
                extra=extra,
            )

    def _file_of(self, data: Mapping[str, Any]) -> AnyFile:
        """The file of a split. Paths are relative to the workflow's folder, so that both can be moved;
        older listings have absolute paths."""
        path: str = data["path"]
        if not has_scheme(path):
            return self.context.base.absolute() / path
        from dataflare.connectors.file.remote_listing import open_remote

        version = data["size"], data["mtime_ns"], data.get("etag")
        storage = self.config.storage or FROM_ENVIRONMENT
        return open_remote(path, *version, storage, self.context.step)

    async def _look(self) -> Survey:
        if self._survey is None:
            result = await in_thread(self._examine)
            self._partitions = await in_thread(partition_schema, result.files)
            self._survey = result
        return self._survey

    def _examine(self) -> Survey:
        found = partial(survey, adds_columns=self.adds_columns)
        try:
            return found(self.config, self.context, self.contract, self.learned)
        except SystemError_ as error:
            if error.code != "E0601" or not self.config.watch:
                raise
            if self.contract is None:
                error.help = (
                    "give the columns in 'schema', so that the run can begin before its first file"
                )
                raise
            from dataflare.connectors.file.watch import nothing_yet

            return nothing_yet(self.config, self.contract)

    def _added_schema(self, survey: Survey) -> Schema:
        """Columns from a file's path that are not inside the file."""
        pairs = [(f.name, f.type) for f in self._partitions or ()]
        if self.config.file_column is not None:
            pairs.append((self.config.file_column, STRING))
        return Schema.of([(name, type_) for name, type_ in pairs if name not in survey.schema])

    def _added_of(self, file: FoundFile, added: Schema) -> list[list[str | None]]:
        values = partition_values(file)
        if self.config.file_column is not None:
            values[self.config.file_column] = file.id
        return [[f.name, values.get(f.name), str(f.type)] for f in added]

    def _all_columns(self, survey: Survey) -> Schema:
        return Schema((*survey.schema, *self._added_schema(survey)))

    async def _output(self) -> Sequence[str]:
        if self._columns is not None:
            return self._columns
        columns = self._all_columns(await self._look())
        return self._selected(columns.names)

    async def _output_of(self, split: Split) -> Sequence[str]:
        """The columns to read of a split, without reading the files again."""
        if self._columns is not None:
            return self._columns
        inside = self._types(split.data).names
        return self._selected([*inside, *(name for name, _, _ in split.data["added"])])

    def _types(self, data: Mapping[str, Any]) -> Schema:
        """The columns of a listed file, and those that were learned after it was listed."""
        types = _types_of(data)
        if data["format"] in ("ndjson", "json"):
            from dataflare.formats.ndjson_watch import with_learned

            columns = with_learned([TextColumn(f.name, f.type) for f in types], self.learned)
            types = Schema.of([(column.name, column.type) for column in columns])
        if self._survey is None:
            return types
        return Schema((*types, *(f for f in self._survey.schema if f.name not in types)))

    @property
    def _watch(self) -> bool:
        """Whether to search for new fields: not if the user lists the columns."""
        return self.config.columns is None

    def _plan(self, split: Split, output: tuple[str, ...]) -> CsvPlan | NdjsonPlan:
        """How to parse a text file: from its split, and from columns that were learned later."""
        columns = [TextColumn.from_json(column) for column in split.data["columns"]]
        if split.data["format"] == "csv":
            return CsvPlan(CsvDialect.from_json(split.data["dialect"]), tuple(columns), output)
        from dataflare.formats.ndjson_read import NdjsonPlan
        from dataflare.formats.ndjson_watch import with_learned

        columns = with_learned(columns, self.learned)
        names = {column.name for column in columns}
        later = [TextColumn(f.name, f.type) for f in self._types(split.data) if f.name not in names]
        return NdjsonPlan((*columns, *later), output)

    def _selected(self, names: Sequence[str]) -> Sequence[str]:
        if self.config.columns is None:
            return names
        for name in self.config.columns:
            if name not in names:
                raise ConfigError(
                    f"'columns' names '{name}', which the files do not have",
                    code="E0404",
                    step=self.context.step,
                    notes=[f"they have: {', '.join(names)}"],
                    help=did_you_mean(name, names),
                )
        columns: list[str] = self.config.columns
        return columns


def _ordered(schema: Schema) -> list[list[str]]:
    """The columns for the data of a split: a list, because a checkpoint sorts the names of an object."""
    return [[field.name, str(field.type)] for field in schema]


def _types_of(data: Mapping[str, Any]) -> Schema:
    """The columns of a listed file. Checkpoints of earlier versions have an object, whose order is lost; those of
    text formats have it in `columns`."""
    listed = data["schema"]
    if not isinstance(listed, Mapping):
        return Schema.of([(name, type_) for name, type_ in listed])
    types = Schema.of(listed)
    first = [column[0] for column in data.get("columns", ()) if column[0] in types]
    return types.select(dict.fromkeys([*first, *types.names]))
