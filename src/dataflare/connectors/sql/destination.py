"""The destination that every database file shares: redo file per epoch, then rows and marker in one
transaction. A connector brings its `TableStore` and its look at what is there."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dataflare.connectors.sql import redo, statements, sweeping
from dataflare.connectors.sql.config import TableDestinationConfig
from dataflare.connectors.sql.fold import OP_COLUMN
from dataflare.connectors.sql.marker import MarkerRows
from dataflare.connectors.sql.names import holds_data, missing_file
from dataflare.connectors.sql.refusals import Refusal
from dataflare.connectors.sql.shared import Share, SharedFile, shared_file
from dataflare.connectors.sql.store import TableStore, Target
from dataflare.connectors.sql.writing import RedoLogWriter
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

_HOLD_S = 0.5


class TableDestination(DestinationConnector):
    """Writes a table of a database file. Nothing is visible before `commit`."""

    config: TableDestinationConfig

    @abstractmethod
    def _make_store(self) -> TableStore:
        """A new connection, not yet opened."""

    @abstractmethod
    def _look(self, schema: Schema, *, check: bool = True) -> Sequence[str]:
        """Refuse what cannot be written, looking without changing or making anything. Blocking."""

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
            await asyncio.to_thread(self._look, self._written(schema))
        except DataFlareError as error:
            raise error.at(step=self.context.step) from error.__cause__

    async def lacking(self, schema: Schema) -> Sequence[str]:
        known = await asyncio.to_thread(self._look, self._written(schema), check=False)
        folded = {name.casefold() for name in known}
        return [name for name in schema.names if folded and name.casefold() not in folded]

    def _is_there(self) -> bool:
        """Whether the file exists and may be written. Raises what stands in the way of either."""
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
                    help="give yourself the right to read and write there, or choose another place",
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
                help="give yourself the right to write it, or choose another file",
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

    def _share_of(self, context: DestinationContext) -> _Ours:
        self._check_columns(context.schema)
        target = self._target(context, self._written(context.schema))
        return _Ours(shared_file(self.type, self.path, self._make_store), target)

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
        """Refuse names that are one to the database, which takes A to Z for a to z and no others."""
        known: dict[bytes, str] = {}
        for name in schema.names:
            other = known.setdefault(name.encode().lower(), name)
            if other != name:
                raise ConfigError(
                    f"step '{self.context.step}': columns '{other}' and '{name}' are one to "
                    f"{self.type}, which takes upper and lower case for the same",
                    code="E0411",
                    step=self.context.step,
                    notes=[f"it receives: {', '.join(schema.names)}"],
                    help=f"rename one of them with map: rename: {{{name}: ...}}, or drop it",
                )


class _Ours:
    """The file's shared writer and what our step writes through it."""

    def __init__(self, shared: SharedFile, target: Target) -> None:
        self.shared, self.target = shared, target


class TableWriter(RedoLogWriter):
    """Appends batches to the epoch's redo file; `prepare` tries them on the database. rows_max: of one
    statement."""

    def __init__(
        self,
        type_: str,
        ours: _Ours,
        context: DestinationContext,
        restored: Committable | None,
        rows_max: int | None,
    ) -> None:
        super().__init__(type_, ours.target.key, context, restored, rows_max)
        self._ours = ours
        self._epoch = 0
        self._unused: asyncio.TimerHandle | None = None

    async def settle(self) -> Sequence[RefusedRow]:
        found = await super().settle()
        if self._redo.rows:
            # At the end of input the epoch's end may be far, and nobody else could write so long.
            loop = asyncio.get_running_loop()
            let_go, step = self._ours.shared.let_go, self._ours.target.step
            self._unused = loop.call_later(_HOLD_S, loop.run_in_executor, None, let_go, step)
        return found

    def _find_refused(self) -> list[Refusal]:
        return self._ours.shared.settle(self._ours.target, self._redo.frames, self._epoch)

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        self._forget_timer()
        return await super().prepare(epoch, final=final)

    def _try(self, sealed: redo.RedoFile, epoch: int, *, final: bool) -> None:
        self._epoch = epoch
        if sealed.rows or final:
            share = Share(self._ours.target, self._context.redo, sealed)
            self._ours.shared.prepare(share, epoch, final=final)

    async def aclose(self) -> None:
        self._forget_timer()
        await super().aclose()

    def _forget_timer(self) -> None:
        if self._unused is not None:
            self._unused.cancel()


class TableCommitter(Committer):
    """Commits the shared transaction, or, after a crash, applies the redo file."""

    def __init__(
        self, path: str, ours: _Ours, context: DestinationContext, config: TableDestinationConfig
    ) -> None:
        self._path, self._ours, self._context = path, ours, context
        self._before, self._after = config.before_sql, config.after_sql
        self._rows = 0
        self._found: MarkerRows | None = None

    async def marker(self) -> Marker | None:
        target = self._ours.target
        stored = (await self._markers()).own
        if stored is None:
            return None
        self._rows = stored.rows_total
        can_rewind = target.mode != "append" or stored.rows_total == 0
        return Marker(stored.epoch, stored.attempt, stored.manifest, can_rewind)

    async def _markers(self) -> MarkerRows:
        """What the marker table said before this attempt changed it."""
        if self._found is None:
            self._found = await asyncio.to_thread(self._ours.shared.markers, self._ours.target)
        return self._found

    async def owner(self) -> Owner | None:
        other = (await self._markers()).other
        if other is not None and await asyncio.to_thread(
            self._ours.shared.is_missing, self._ours.target
        ):
            return replace(other, rows=0)  # the table was dropped, and its rows with it
        return other

    async def supersede(self, epoch: int) -> None:
        self._found = None
        await asyncio.to_thread(self._ours.shared.supersede, self._ours.target, epoch)

    async def is_empty(self) -> bool:
        target, stored = (
            self._ours.target,
            (await self._markers()).own,
        )
        if stored is None:
            return True
        if not stored.rows_total or target.mode not in ("append", "upsert"):
            return False
        return await asyncio.to_thread(self._ours.shared.is_empty, target)

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        self._found = None
        kept = sum(int(c.data["rows_total"]) for c in committables) if committables else None
        await asyncio.to_thread(self._recover, epoch, kept)

    def _recover(self, epoch: int, kept: int | None) -> None:
        redo.clear_after(self._context.redo, epoch)
        self._ours.shared.recover(self._ours.target, epoch, kept)
        self._rows = kept or 0

    async def begin(self, epoch: int) -> None:
        if self._before:
            with statements.named(self._context.step, "before_sql"):
                await asyncio.to_thread(self._ours.shared.execute, self._before)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        self._found = None
        await asyncio.to_thread(self._commit, epoch, committables)

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        if len(committables) > 1:
            raise AssertionError("one writer per table")  # capabilities().parallel is False
        for committable in committables:
            file = redo.RedoFile.from_json(committable.data)
            if file.rows or epoch.final:
                share = Share(self._ours.target, self._context.redo, file)
                try:
                    self._ours.shared.commit(share, epoch)
                except DataFlareError as error:
                    raise error.at(step=self._context.step) from error.__cause__
            self._rows = int(committable.data["rows_total"])
        # The last file stays until the next commit is durable too; after the final one none is needed.
        redo.clear_before(self._context.redo, epoch.number + (1 if epoch.final else 0))
        if epoch.final and self._after:
            with statements.named(self._context.step, "after_sql"):
                self._ours.shared.execute_alone(self._after)

    async def published(self) -> Mapping[str, Any]:
        return {"path": self._path, "table": self._ours.target.table, "rows": self._rows}

    async def aclose(self) -> None:
        await asyncio.to_thread(self._ours.shared.release, self._ours.target.step)
