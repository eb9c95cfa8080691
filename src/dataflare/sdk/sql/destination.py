"""A destination that writes a table exactly once: a redo file per epoch, then rows and marker in one
transaction. A connector adds its `TableStore`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace

from dataflare.errors import ConfigError
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Epoch,
    Marker,
    Owner,
    Writer,
    need_columns,
)
from dataflare.sdk.sql import redo, soft_deletes, statements, sweeping
from dataflare.sdk.sql.config import FileTableOptions, SqlOptions, TableOptions, WriteOptions
from dataflare.sdk.sql.fold import schema_with_op
from dataflare.sdk.sql.marker import MarkerRows
from dataflare.sdk.sql.names import (
    at_step,
    denied,
    holds_data,
    is_folder,
    missing_file,
    read_only,
)
from dataflare.sdk.sql.session import Session, shared_session
from dataflare.sdk.sql.shares import Share
from dataflare.sdk.sql.store import TableStore, Target
from dataflare.sdk.sql.writing import TableWriter
from dataflare.sdk.threads import in_thread

_REASONS = {
    "append": "rows and epoch are committed in one transaction",
    "overwrite": "rows are staged with their epoch and swapped in at the end of the run",
    "upsert": "rows and epoch are committed in one transaction; upsert ignores deletes and TRUNCATE",
    "mirror": "rows, deletes and epoch are committed in one transaction",
}


class TableDestination(DestinationConnector):
    """Writes a table. No row is visible before `commit`."""

    config: WriteOptions
    beside_job = True
    """The writer prepares an epoch in the transaction that the committer ends: a `Session` is of one process."""

    takes_empty_names: ClassVar[bool] = False
    """Whether the system has columns whose name is the empty text."""

    @property
    def table_name(self) -> str:
        """The table that is written, for messages and for the report of a run."""
        return str(getattr(self.config, "table", ""))

    @abstractmethod
    def session(self, context: DestinationContext) -> Session:
        """The transaction for this database, see `shared_session`."""

    @abstractmethod
    def report_place(self) -> Mapping[str, str]:
        """Where the table is, for the report of a run."""

    @abstractmethod
    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        """The columns of the existing table; none if it does not exist. check: refuse rows that cannot be
        written. Changes nothing. Blocking."""

    def capabilities(self) -> DestinationCapabilities:
        mode = self.config.mode
        return DestinationCapabilities(
            delivery=Delivery.TRANSACTIONAL,
            reason=_REASONS[mode],
            changelog=mode in ("upsert", "mirror") or self.config.changelog == "columns",
            truncates=True,
            keeps_unchanged=mode in ("upsert", "mirror") and not self.config.sequence,
            changelog_with="mode: upsert or mirror with a key, or changelog: columns",
            bounded_only=mode == "overwrite",
        )

    @property
    def adds_for_good(self) -> bool:
        return bool(self.config.mode == "append")

    def effects(self) -> Sequence[str]:
        before, after = _statements(self.config)
        return [
            *statements.effects(before, after),
            *sweeping.effects(self.config.mode, self.config.delete_max),
            *self._kept_rows(),
        ]

    def _kept_rows(self) -> Sequence[str]:
        return soft_deletes.effects(self.config.deleted_at)

    @abstractmethod
    def runs_statements(self) -> bool:
        """Whether the database can run a user's statements."""

    async def validate(self, schema: Schema) -> None:
        with at_step(self.context.step):
            statements.refuse(self.type, *_statements(self.config), possible=self.runs_statements())
            self.check_columns(schema)
            await in_thread(self.look, self.target(schema), check=True)

    async def lacking(self, schema: Schema) -> Sequence[str]:
        columns = await in_thread(self.look, self.target(schema), check=False)
        folded = {self.folded(name) for name in columns}
        return [name for name in schema.names if folded and self.folded(name) not in folded]

    def folded(self, name: str) -> str:
        """The name of a column as it is compared with others."""
        return name.casefold()

    def target(self, schema: Schema, context: DestinationContext | None = None) -> Target:
        """What this step writes. context: None before a run."""
        config = self.config
        if config.changelog is not None:
            schema = schema_with_op(self.context.step, schema)
        deleted_at = config.deleted_at
        schema = soft_deletes.with_deleted_at(self.context.step, schema, deleted_at)
        known = self.declarations
        target = Target(
            step=self.context.step,
            lineage="",
            attempt=0,
            table=self.table_name,
            mode=config.mode,
            schema=schema,
            key=tuple(config.key) if config.mode in ("upsert", "mirror") else (),
            names=tuple(config.key),
            sequence=config.sequence,
            op=config.changelog == "columns",
            create_table=config.create_table,
            delete_max=config.delete_max,
            widens=self.widens and config.create_table and config.mode != "overwrite",
            deleted_at=deleted_at,
            declarations=known if known is not None and known.system == self.type else None,
        )
        if context is None:
            return target
        return replace(
            target,
            step=context.step,
            lineage=context.lineage,
            attempt=context.attempt,
            token=context.token,
            workflow=context.workflow,
            sift=context.sift,
            refused_max=context.refused_max,
            complete=context.complete,
        )

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        self.check_columns(context.schema)
        target = self.target(context.schema, context)
        rows_max = self.config.batch_size
        return TableWriter(self.type, self.session(context), target, context, restored, rows_max)

    async def committer(self, context: DestinationContext) -> Committer:
        self.check_columns(context.schema)
        target = self.target(context.schema, context)
        before, after = _statements(self.config)
        return TableCommitter(
            self.session(context), target, context, self.report_place(), before, after
        )

    def check_columns(self, schema: Schema) -> None:
        """Raises ConfigError (E0411) if a column is missing, has no name, or has a name that is taken."""
        check_columns(self.config, self.context.step, schema)
        if not self.takes_empty_names:
            refuse_empty_name(self.context.step, schema, self.type)


def check_columns(config: Any, step: str, schema: Schema) -> None:
    """Raises ConfigError (E0411) if a column of `key` or `sequence` is missing, or the column of kinds is taken."""
    if not schema.names:
        return
    need_columns(step, [*config.key, *([config.sequence] if config.sequence else [])], schema)
    if config.changelog is not None:
        schema_with_op(step, schema)


def refuse_empty_name(step: str, schema: Schema, type_: str) -> None:
    """Raises ConfigError (E0411) for a column whose name is empty."""
    if "" in schema:
        raise ConfigError(
            f"step '{step}': a column has the empty name '', which a table of {type_} cannot have",
            code="E0411",
            step=step,
            notes=[f"it receives: {', '.join(name or chr(39) * 2 for name in schema.names)}"],
            help="give it a name with map: rename: {'': ...}, or leave it out with map: drop: ['']",
        )


def _statements(config: WriteOptions) -> tuple[Sequence[str], Sequence[str]]:
    """A user's statements before and after a run."""
    return (config.before_sql, config.after_sql) if isinstance(config, SqlOptions) else ((), ())


class FileTableDestination(TableDestination):
    """Writes a table of a database file."""

    config: FileTableOptions
    ignores_case: ClassVar[bool] = True
    """Whether the database treats names as equal that differ only in the case of A to Z."""

    @abstractmethod
    def make_store(self) -> TableStore:
        """A new store, not opened yet."""

    @property
    def path(self) -> Path:
        return self.context.path(self.config.path)

    def capabilities(self) -> DestinationCapabilities:
        return replace(super().capabilities(), local=True)

    def session(self, context: DestinationContext) -> Session:
        key = self.type, str(self.path.resolve())
        return shared_session(key, self.type, lambda aside: self.make_store())

    def report_place(self) -> Mapping[str, str]:
        return {"path": str(self.path)}

    def runs_statements(self) -> bool:
        return self.make_store().runs_statements()

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        if not self._is_there():
            return ()
        return self.make_store().look(target, check=check and target.mode != "overwrite")

    def _is_there(self) -> bool:
        """Whether the file exists. Raises an error if it cannot be created or written."""
        path = self.path
        if not path.exists():
            if not self.config.create_table:
                raise missing_file(path)
            folder = path.parent
            while not folder.exists():
                folder = folder.parent
            if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
                raise denied(folder)
            return False
        if path.is_dir():
            raise is_folder(path)
        if not os.access(path, os.W_OK):
            raise read_only(path)
        if not holds_data(path):
            if not self.config.create_table:
                raise missing_file(path)
            return False
        return True

    def check_columns(self, schema: Schema) -> None:
        super().check_columns(schema)
        names: dict[bytes, str] = {}
        for name in self.target(schema).schema.names if self.ignores_case else ():
            other = names.setdefault(name.encode().lower(), name)
            if other != name:
                raise ConfigError(
                    f"step '{self.context.step}': columns '{other}' and '{name}' differ only in "
                    f"case; {self.type} treats them as one column",
                    code="E0411",
                    step=self.context.step,
                    notes=[f"it receives: {', '.join(schema.names)}"],
                    help=f"rename one of them with map: rename: {{{name}: ...}}, or drop it",
                )


class ServerTableDestination(TableDestination):
    """Writes a table of a server."""

    config: TableOptions

    @property
    @abstractmethod
    def server(self) -> Any:
        """How to connect. Equal for two steps that may share a transaction; `label` is for messages."""

    @abstractmethod
    def make_store(self, lineage: str, attempt: int, *, aside: bool) -> TableStore:
        """A new store, not connected yet. aside: for a transaction beside the shared one."""

    def session(self, context: DestinationContext) -> Session:
        lineage, attempt = context.lineage, context.attempt
        return shared_session(
            (self.type, self.server, lineage, attempt),
            self.type,
            lambda aside: self.make_store(lineage, attempt, aside=aside),
        )

    def report_place(self) -> Mapping[str, str]:
        return {"database": self.server.label}

    def identity(self) -> str:
        return f"table {self.config.table} in {self.server.label}"

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        return self._store_to_look().look(target, check=check)

    def runs_statements(self) -> bool:
        return self._store_to_look().runs_statements()

    def _store_to_look(self) -> TableStore:
        return self.make_store(self.context.step, 0, aside=True)


class TableCommitter(Committer):
    """Commits the shared transaction, or, if that is lost, applies the redo file."""

    def __init__(
        self,
        session: Session,
        target: Target,
        context: DestinationContext,
        place: Mapping[str, str],
        before: Sequence[str] = (),
        after: Sequence[str] = (),
    ) -> None:
        self._session, self._target, self._context = session, target, context
        self._place, self._before, self._after = place, before, after
        self._rows = 0
        self._markers_read: MarkerRows | None = None

    async def marker(self) -> Marker | None:
        row = (await self._markers()).own
        if row is None:
            return None
        self._rows = row.rows_total
        can_rewind = self._target.mode != "append" or row.rows_total == 0
        return Marker(row.epoch, row.attempt, row.manifest, can_rewind)

    async def _markers(self) -> MarkerRows:
        """The rows of the marker table before this attempt changed it."""
        if self._markers_read is None:
            self._markers_read = await in_thread(self._session.markers, self._target)
        return self._markers_read

    async def owner(self) -> Owner | None:
        other = (await self._markers()).other
        if other is not None and await in_thread(self._session.is_missing, self._target):
            return replace(other, rows=0)  # the table was dropped with its rows
        return other

    async def supersede(self, epoch: int) -> None:
        self._markers_read = None
        await in_thread(self._session.supersede, self._target, epoch)

    async def is_empty(self) -> bool:
        row = (await self._markers()).own
        if row is None:
            return True
        if not row.rows_total:
            return False
        if self._target.mode == "mirror":
            # Deletes may have left it without a row.
            return await in_thread(self._session.is_missing, self._target)
        if self._target.mode not in ("append", "upsert"):
            return False
        return await in_thread(self._session.is_empty, self._target)

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        self._markers_read = None
        rows_kept = sum(int(c.data["rows_total"]) for c in committables) if committables else None
        await in_thread(self._recover, epoch, rows_kept)

    def _recover(self, epoch: int, rows_kept: int | None) -> None:
        redo.clear_after(self._context.redo, epoch)
        with at_step(self._context.step):
            self._session.recover(self._target, epoch, rows_kept)
        self._rows = rows_kept or 0

    async def begin(self, epoch: int) -> None:
        if self._before:
            with statements.user_statement(self._context.step, "before_sql"):
                await in_thread(self._session.execute, self._before)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        self._markers_read = None
        if committables and not epoch.final and not any(c.data["rows"] for c in committables):
            self._rows = int(committables[-1].data["rows_total"])  # there is nothing to commit
            return
        await in_thread(self._commit, epoch, committables)

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        if len(committables) > 1:
            raise AssertionError("one writer per table")  # capabilities().parallel is False
        for committable in committables:
            file = redo.RedoFile.of(committable)
            rows_total = int(committable.data["rows_total"])
            if file.rows or epoch.final:
                share = Share(self._target, self._context.redo, file, rows_total)
                with at_step(self._context.step):
                    self._session.commit(share, epoch)
            self._rows = rows_total
        # The last file stays until the next commit is durable too; after the final commit no file
        # is needed.
        redo.clear_before(self._context.redo, epoch.number + (1 if epoch.final else 0))
        if epoch.final and self._after:
            with statements.user_statement(self._context.step, "after_sql"):
                self._session.execute_alone(self._after)

    async def published(self) -> Mapping[str, Any]:
        sweep = self._session.sweeps.get(self._target.step) if self._target.sweeps else None
        deletes = sweep.to_json() if sweep is not None else {}
        return {**self._place, "table": self._target.table, "rows": self._rows, **deletes}

    async def aclose(self) -> None:
        await in_thread(self._session.release, self._target)
