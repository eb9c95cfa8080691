"""A source that reads a table of a lake: the rows of one version, the rows that later versions added, or the
changes of each version.

Always true: a run reads versions that do not change, so each position means the same rows for ever, as long
as the files of the version are kept.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from dataflare.errors import ConfigError, SystemError_
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema, parse_type
from dataflare.sdk.lakes.reading import FileReader, LogReader, conformed
from dataflare.sdk.lakes.table import DataFile, LakeTable
from dataflare.sdk.source import (
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsProjection,
)
from dataflare.sdk.sql.names import at_step, missing_column
from dataflare.sdk.threads import in_thread

LOG = "log"
_MIB = 1 << 20


class LakeSource(SourceConnector, SupportsProjection):
    """Methods that are not async may block. A version is a number that never means another state."""

    finds_new_fields = True
    config: Any
    noun: ClassVar[str] = "version"
    """What the lake calls a version."""

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self._output: tuple[str, ...] | None = None
        self._tables: dict[int | None, LakeTable] = {}

    # -- for subclasses ----------------------------------------------------------------------------

    @abstractmethod
    def load(self, version: int | None) -> LakeTable:
        """The table as of a version; None: as the config says, by default the newest one. Raises an error if
        it cannot be read."""

    @abstractmethod
    def version_of(self, table: LakeTable) -> int | None:
        """The version of a loaded table; None for a table that has none yet."""

    @abstractmethod
    def later(self, version: int | None) -> Sequence[int]:
        """The versions after this one, in order, that are there now. Raises an error if the table's history
        does not go back so far."""

    @abstractmethod
    def added(self, version: int) -> Sequence[DataFile]:
        """The files whose rows the version added to the one before. Raises an error if it changed or
        removed rows."""

    @property
    def follows(self) -> bool:
        """Whether rows are read in the order of versions, by one reader."""
        return bool(self.config.watch or self.gives_changes)

    @property
    def gives_changes(self) -> bool:
        """Whether changes are read. Only a ChangeFeed gives them."""
        return False

    @property
    def only_new(self) -> bool:
        """Whether a run goes on behind the last one."""
        return bool(self.config.new_only or self.follows)

    @property
    def first_version(self) -> int | None:
        """The version behind which the first run begins, instead of with all rows."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}

    # -- the source --------------------------------------------------------------------------------

    def capabilities(self) -> SourceCapabilities:
        reason = f"a {self.noun} of the table never changes"
        return SourceCapabilities(
            replay=Replay.EXACT,
            replay_reason=reason,
            bounded=not self.config.watch,
            changelog=self.gives_changes,
            at_once=bool(self.config.watch),
        )

    def reads_all(self) -> bool:
        return not self.only_new

    def is_incremental(self) -> bool:
        return self.only_new

    def carries(self) -> bool:
        return self.only_new

    def effects(self) -> Sequence[str]:
        if self.gives_changes:
            return [f"reads the changes of each {self.noun} since the last run"]
        if self.only_new:
            return ["reads only rows that were added since the last run"]
        return ()

    async def validate(self) -> None:
        await self.schema()

    async def schema(self) -> Schema:
        with at_step(self.context.step):
            table = await in_thread(self.version, None)
            schema = self._all_columns(table)
            names = self._output if self._output is not None else self.config.columns
            if names is None:
                return schema
            for name in names:
                if name not in schema:
                    raise missing_column(name, table.label, schema.names)
            return schema.select(names)

    def _all_columns(self, table: LakeTable) -> Schema:
        columns = {f.name: f.type for f in table.schema}
        for name, text in self.learned.items():
            columns.setdefault(name, parse_type(text))
        for field in self.contract or ():
            if columns.get(field.name) not in (None, field.type):
                raise ConfigError(
                    f"'schema' says {field.type} for the column '{field.name}', which is {columns[field.name]} in "
                    f"{table.label}",
                    code="E0405",
                    step=self.context.step,
                    help=f"leave it out of 'schema', and convert it with map: cast: {{{field.name}: {field.type}}}",
                )
            if field.name not in columns:
                raise missing_column(field.name, table.label, tuple(columns))
        return Schema.of(columns) if self.contract is None else self.contract

    def with_columns(self, columns: Sequence[str]) -> Self:
        copy_ = copy.copy(self)
        copy_._output = tuple(columns)
        return copy_

    @property
    def projects(self) -> bool:
        """Whether the plan leaves columns unread."""
        return self._output is not None

    def version(self, version: int | None) -> LakeTable:
        """A version, loaded once."""
        if version not in self._tables:
            if len(self._tables) > 4:
                self._tables.clear()
            self._tables[version] = self.load(version)
        return self._tables[version]

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        with at_step(self.context.step):
            return await in_thread(self._splits, carried)

    def _splits(self, carried: Mapping[str, Any] | None) -> Sequence[Split]:
        self._tables.pop(None, None)
        table = self.version(None)
        version = self.version_of(table)
        if self.follows:
            # A later run goes on where the last one ended, and ends with what is there now.
            until = None if self.config.watch else version
            return [
                Split(
                    LOG,
                    {"start": dict(carried) if carried else self._start(version), "until": until},
                )
            ]
        if version is None:
            return []
        self._tables[version] = table
        if carried is None:
            return [self._split(version, version, file) for file in table.files()]
        later = list(self.later(carried["after"]))
        if version in later:
            later = later[: later.index(version) + 1]
        return [self._split(version, each, file) for each in later for file in self.added(each)]

    def _start(self, version: int | None) -> dict[str, Any]:
        first = self.first_version
        if first is not None:
            return {"after": first}
        return {"snapshot": version, "row": 0}

    def _split(self, last: int, version: int, file: DataFile) -> Split:
        data = {"path": file.path, "version": version, "last": last}
        return Split(f"{version:020d}-{file.path}", data, file.num_bytes)

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        if not self.only_new:
            return None
        if LOG in positions:
            return dict(positions[LOG].value)
        if not positions:
            return self.started_from
        return {"after": max(int(each.value["last"]) for each in positions.values())}

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        schema = await self.schema()
        with at_step(self.context.step):
            if split.id == LOG:
                start = dict(position.value if position is not None else split.data["start"])
                return LogReader(self, schema, start, split.data["until"])
            row = int(position.value["row"]) if position is not None else 0
            return await in_thread(self._open, split, schema, row)

    def _open(self, split: Split, schema: Schema, row: int) -> SplitReader:
        table = self.version(split.data["version"])
        path = split.data["path"]
        file = next((each for each in table.files() if each.path == path), None)
        if file is None:
            raise SystemError_(
                f"{table.label} has no file {path} in {self.noun} {split.data['version']}",
                code="E0601",
                help="run with --fresh",
            )
        return FileReader(conformed(table, file, schema, row), row, split.data["last"])
