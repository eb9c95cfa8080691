"""The destination for database files: a redo file per epoch, then rows and marker in one
transaction. A connector adds its `TableStore` and its check of the existing table."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dataflare.errors import ConfigError, DataFlareError, SystemError_, did_you_mean
from dataflare.model.types import STRING, Schema
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
    RefusedRow,
    Writer,
)
from dataflare.sdk.sql import redo, statements, sweeping
from dataflare.sdk.sql.config import TableDestinationConfig
from dataflare.sdk.sql.fold import OP_COLUMN
from dataflare.sdk.sql.marker import MarkerRows
from dataflare.sdk.sql.names import holds_data, missing_file
from dataflare.sdk.sql.refusals import Refusal
from dataflare.sdk.sql.shared import Share, SharedFile, shared_file
from dataflare.sdk.sql.store import TableStore, Target
from dataflare.sdk.sql.writing import RedoLogWriter
from dataflare.sdk.threads import in_thread

_HOLD_S = 0.5


class TableDestination(DestinationConnector):
    """Writes a table of a database file. Nothing is visible before `commit`."""

    config: TableDestinationConfig

    @abstractmethod
    def _make_store(self) -> TableStore:
        """A new store, not opened yet."""

    @abstractmethod
    def _look(self, schema: Schema, *, check: bool = True) -> Sequence[str]:
        """Refuse rows that cannot be written, by a check that changes nothing. Blocking."""

    @property
    def path(self) -> Path:
        return self.context.path(self.config.path)

    def capabilities(self) -> DestinationCapabilities:
        mode = self.config.mode
        reasons = {
            "append": "rows and epoch are committed in one transaction",
            "overwrite": "rows are staged with their epoch and swapped in at the end of the run",
            "upsert": "rows and epoch are committed in one transaction; upsert ignores deletes",
            "mirror": "rows, deletes and epoch are committed in one transaction",
        }
        return DestinationCapabilities(
            delivery=Delivery.TRANSACTIONAL,
            reason=reasons[mode],
            changelog=mode in ("upsert", "mirror") or self.config.changelog == "columns",
            changelog_with="mode: upsert or mirror with a key, or changelog: columns",
            bounded_only=mode == "overwrite",
            local=True,
        )

    def effects(self) -> Sequence[str]:
        return [
            *statements.effects(self.config.before_sql, self.config.after_sql),
            *sweeping.effects(self.config.mode, self.config.delete_max),
        ]

    async def validate(self, schema: Schema) -> None:
        try:
            self._check_columns(schema)
            await in_thread(self._look, self._written(schema))
        except DataFlareError as error:
            raise error.at(step=self.context.step) from error.__cause__

    async def lacking(self, schema: Schema) -> Sequence[str]:
        changes = await in_thread(self._look, self._written(schema), check=False)
        folded = {name.casefold() for name in changes}
        return [name for name in schema.names if folded and name.casefold() not in folded]

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
                raise SystemError_(
                    f"permission denied: {folder}",
                    code="E0602",
                    help="get the permission to read and write there, or choose another place",
                )
            return False
        if path.is_dir():
            raise SystemError_(
                f"{path} is a folder, not a database", code="E0602", help="name a file in it"
            )
        if not os.access(path, os.W_OK):
            raise SystemError_(
                f"{path} may not be written: it is read-only",
                code="E0602",
                help="get the permission to write it, or choose another file",
            )
        if not holds_data(path):
            if not self.config.create_table:
                raise missing_file(path)
            return False
        return True

    def _target(self, context: DestinationContext | None, schema: Schema) -> Target:
        return Target(
            step=self.context.step,
            lineage=context.lineage if context else "",
            attempt=context.attempt if context else 0,
            token=context.token if context else "",
            workflow=context.workflow if context else "",
            table=self.config.table,
            mode=self.config.mode,
            schema=schema,
            key=tuple(self.config.key),
            sequence=self.config.sequence,
            op=self.config.changelog == "columns",
            create_table=self.config.create_table,
            complete=context.complete if context else False,
            delete_max=self.config.delete_max,
        )

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        rows_max = self.config.batch_size
        return TableWriter(self.type, self._share_of(context), context, restored, rows_max)

    async def committer(self, context: DestinationContext) -> Committer:
        return TableCommitter(str(self.path), self._share_of(context), context, self.config)

    def _share_of(self, context: DestinationContext) -> StepOutput:
        self._check_columns(context.schema)
        target = self._target(context, self._written(context.schema))
        return StepOutput(shared_file(self.type, self.path, self._make_store), target)

    def _written(self, schema: Schema) -> Schema:
        if self.config.changelog is None:
            return schema
        return Schema.of([*((f.name, f.type) for f in schema), (OP_COLUMN, STRING)])

    def _check_columns(self, schema: Schema) -> None:
        if not schema.names:
            return
        sequence = [self.config.sequence] if self.config.sequence else []
        for name in [*self.config.key, *sequence]:
            if name not in schema:
                raise ConfigError(
                    f"step '{self.context.step}' needs column '{name}', which does not reach it",
                    code="E0411",
                    step=self.context.step,
                    notes=[f"it receives: {', '.join(schema.names)}"],
                    help=did_you_mean(name, schema.names),
                )
        if self.config.changelog is not None and OP_COLUMN in schema:
            raise ConfigError(
                f"'changelog: columns' writes the column '{OP_COLUMN}', and the rows have one already",
                code="E0411",
                step=self.context.step,
                help=f"rename it with map: rename: {{{OP_COLUMN}: ...}}",
            )
        self._check_case(self._written(schema))

    def _check_case(self, schema: Schema) -> None:
        """Refuse names that the database treats as equal: it ignores the case of A to Z, but not of
        other letters."""
        names: dict[bytes, str] = {}
        for name in schema.names:
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


class StepOutput:
    """The shared writer of the file, and the target of this step."""

    def __init__(self, shared: SharedFile, target: Target) -> None:
        self.shared, self.target = shared, target


class TableWriter(RedoLogWriter):
    """Appends batches to the epoch's redo file; `prepare` applies them to the database. rows_max:
    of one statement."""

    def __init__(
        self,
        type_: str,
        output: StepOutput,
        context: DestinationContext,
        restored: Committable | None,
        rows_max: int | None,
    ) -> None:
        super().__init__(type_, output.target.key, context, restored, rows_max)
        self._output = output
        self._epoch = 0
        self._unused: asyncio.TimerHandle | None = None

    async def settle(self) -> Sequence[RefusedRow]:
        refused = await super().settle()
        if self._redo.rows:
            # After the end of the input, the end of the epoch may be far away. The timer releases
            # the write lock, so that other writers need not wait that long.
            loop = asyncio.get_running_loop()
            let_go, step = self._output.shared.let_go, self._output.target.step
            self._unused = loop.call_later(_HOLD_S, loop.run_in_executor, None, let_go, step)
        return refused

    def _find_refused(self) -> list[Refusal]:
        return self._output.shared.settle(self._output.target, self._redo.frames, self._epoch)

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        self._forget_timer()
        return await super().prepare(epoch, final=final)

    def _try(self, sealed: redo.RedoFile, epoch: int, *, final: bool) -> None:
        self._epoch = epoch
        if sealed.rows or final:
            share = Share(self._output.target, self._context.redo, sealed)
            self._output.shared.prepare(share, epoch, final=final)

    async def aclose(self) -> None:
        self._forget_timer()
        await super().aclose()

    def _forget_timer(self) -> None:
        if self._unused is not None:
            self._unused.cancel()


class TableCommitter(Committer):
    """Commits the shared transaction, or, after a crash, applies the redo file."""

    def __init__(
        self,
        path: str,
        output: StepOutput,
        context: DestinationContext,
        config: TableDestinationConfig,
    ) -> None:
        self._path, self._output, self._context = path, output, context
        self._before, self._after = config.before_sql, config.after_sql
        self._rows = 0
        self._markers_read: MarkerRows | None = None

    async def marker(self) -> Marker | None:
        target = self._output.target
        row = (await self._markers()).own
        if row is None:
            return None
        self._rows = row.rows_total
        can_rewind = target.mode != "append" or row.rows_total == 0
        return Marker(row.epoch, row.attempt, row.manifest, can_rewind)

    async def _markers(self) -> MarkerRows:
        """The rows of the marker table before this attempt changed it."""
        if self._markers_read is None:
            self._markers_read = await in_thread(self._output.shared.markers, self._output.target)
        return self._markers_read

    async def owner(self) -> Owner | None:
        other = (await self._markers()).other
        if other is not None and await in_thread(
            self._output.shared.is_missing, self._output.target
        ):
            return replace(other, rows=0)  # the table was dropped with its rows
        return other

    async def supersede(self, epoch: int) -> None:
        self._markers_read = None
        await in_thread(self._output.shared.supersede, self._output.target, epoch)

    async def is_empty(self) -> bool:
        target, row = (
            self._output.target,
            (await self._markers()).own,
        )
        if row is None:
            return True
        if not row.rows_total or target.mode not in ("append", "upsert"):
            return False
        return await in_thread(self._output.shared.is_empty, target)

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        self._markers_read = None
        rows_kept = sum(int(c.data["rows_total"]) for c in committables) if committables else None
        await in_thread(self._recover, epoch, rows_kept)

    def _recover(self, epoch: int, rows_kept: int | None) -> None:
        redo.clear_after(self._context.redo, epoch)
        self._output.shared.recover(self._output.target, epoch, rows_kept)
        self._rows = rows_kept or 0

    async def begin(self, epoch: int) -> None:
        if self._before:
            with statements.user_statement(self._context.step, "before_sql"):
                await in_thread(self._output.shared.execute, self._before)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        self._markers_read = None
        await in_thread(self._commit, epoch, committables)

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        if len(committables) > 1:
            raise AssertionError("one writer per table")  # capabilities().parallel is False
        for committable in committables:
            file = redo.RedoFile.from_json(committable.data)
            if file.rows or epoch.final:
                share = Share(self._output.target, self._context.redo, file)
                try:
                    self._output.shared.commit(share, epoch)
                except DataFlareError as error:
                    raise error.at(step=self._context.step) from error.__cause__
            self._rows = int(committable.data["rows_total"])
        # The last file stays until the next commit is durable too; after the final commit no file
        # is needed.
        redo.clear_before(self._context.redo, epoch.number + (1 if epoch.final else 0))
        if epoch.final and self._after:
            with statements.user_statement(self._context.step, "after_sql"):
                self._output.shared.execute_alone(self._after)

    async def published(self) -> Mapping[str, Any]:
        target = self._output.target
        sweep = self._output.shared.sweeps.get(target.step) if target.sweeps else None
        deletes = sweep.to_json() if sweep is not None else {}
        return {"path": self._path, "table": target.table, "rows": self._rows, **deletes}

    async def aclose(self) -> None:
        await in_thread(self._output.shared.release, self._output.target.step)
