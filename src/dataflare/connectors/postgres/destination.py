"""Write a table of a PostgreSQL database: rows and epoch in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dataflare.connectors.postgres import kept, tables
from dataflare.connectors.postgres.config import PostgresDestinationConfig
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.connectors.postgres.facts import destination_facts
from dataflare.connectors.postgres.session import Session, shared_session
from dataflare.connectors.postgres.shares import Share
from dataflare.errors import ConfigError, DataFlareError, did_you_mean
from dataflare.model.types import STRING, Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.declarations import Declarations
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
)
from dataflare.sdk.sql import redo, statements, sweeping
from dataflare.sdk.sql.fold import OP_COLUMN
from dataflare.sdk.sql.marker import MarkerRows
from dataflare.sdk.sql.refusals import Refusal
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.writing import RedoLogWriter
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    import polars as pl

_REASONS = {
    "append": "rows and epoch are committed in one transaction",
    "overwrite": "rows are staged with their epoch and swapped in at the end of the run",
    "upsert": "rows and epoch are committed in one transaction; upsert ignores deletes",
    "mirror": "rows, deletes and epoch are committed in one transaction",
}


class PostgresDestination(DestinationConnector):
    """Writes a table. Only an empty table is visible before `commit`."""

    type = "postgres"
    Config = PostgresDestinationConfig
    summary = "Write a table of a PostgreSQL database, exactly once"
    example = """\
type: postgres
inputs: [orders]
config:
  connection_string: postgresql://writer@localhost:5432/shop
  table: public.orders
  mode: upsert
  key: [order_id]
"""

    config: PostgresDestinationConfig

    def capabilities(self) -> DestinationCapabilities:
        mode = self.config.mode
        return DestinationCapabilities(
            delivery=Delivery.TRANSACTIONAL,
            reason=_REASONS[mode],
            changelog=mode in ("upsert", "mirror") or self.config.changelog == "columns",
            changelog_with="mode: upsert or mirror with a key, or changelog: columns",
            bounded_only=mode == "overwrite",
        )

    def effects(self) -> Sequence[str]:
        return [
            *statements.effects(self.config.before_sql, self.config.after_sql),
            *sweeping.effects(self.config.mode, self.config.delete_max),
            *kept.effects(self._declarations(), self.config.mode, self.config.table),
        ]

    def identity(self) -> str:
        return f"table {self.config.table} in {Server.of(self.config).label}"

    async def validate(self, schema: Schema) -> None:
        try:
            self._check_columns(schema)
            await in_thread(self._look, self._target_of(schema))
        except DataFlareError as error:
            raise error.at(step=self.context.step) from error.__cause__

    async def lacking(self, schema: Schema) -> Sequence[str]:
        changes = await in_thread(self._look, self._target_of(schema), check=False)
        return [name for name in schema.names if changes and name not in changes]

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        return PostgresWriter(self._session(context), self._target(context), context, restored,
                              self.config.batch_size)  # fmt: skip

    async def committer(self, context: DestinationContext) -> Committer:
        server = Server.of(self.config)
        return PostgresCommitter(
            server, self._session(context), self._target(context), context, self.config
        )

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the table, for `dataflare check`. Raises an error if it cannot
        be used."""
        return await in_thread(
            destination_facts, Server.of(self.config), self.config.table, self.config.mode
        )

    def _session(self, context: DestinationContext) -> Session:
        return shared_session(Server.of(self.config), context.lineage, context.attempt)

    def _look(self, target: Target, *, check: bool = True) -> Sequence[str]:
        """The columns of the existing table; none if it does not exist. Refuses rows that cannot be
        written, by a check that changes nothing. Blocking."""
        server = Server.of(self.config)
        db = server.connect(f"dataflare {self.context.step}")
        try:
            with postgres_errors(server.label, f"table '{target.table}'"):
                server.begin(db, "read only")
                table = tables.require(db, server, target)
                if check and table is not None:
                    tables.refuse_misfits(target, table)
                    tables.widening(target, table, server)
                return () if table is None else list(table.columns)
        finally:
            db.close()

    def _target(self, context: DestinationContext) -> Target:
        self._check_columns(context.schema)
        target = self._target_of(context.schema, context.step, context.lineage, context.attempt)
        return replace(
            target,
            sift=context.sift,
            complete=context.complete,
            token=context.token,
            workflow=context.workflow,
        )

    def _target_of(
        self, schema: Schema, step: str = "", lineage: str = "", attempt: int = 0
    ) -> Target:
        if self.config.changelog is not None:
            schema = Schema.of([*((f.name, f.type) for f in schema), (OP_COLUMN, STRING)])
        keyed = self.config.mode in ("upsert", "mirror")
        return Target(
            step=step,
            lineage=lineage,
            attempt=attempt,
            table=self.config.table,
            mode=self.config.mode,
            schema=schema,
            key=tuple(self.config.key) if keyed else (),
            sequence=self.config.sequence,
            op=self.config.changelog == "columns",
            create_table=self.config.create_table,
            delete_max=self.config.delete_max,
            declarations=self._declarations(),
        )

    def _declarations(self) -> Declarations | None:
        known = self.declarations
        return known if known is not None and known.system == self.type else None

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


class PostgresWriter(RedoLogWriter):
    """Appends batches to the epoch's redo file, and copies them to the server as they arrive."""

    def __init__(
        self,
        session: Session,
        target: Target,
        context: DestinationContext,
        restored: Committable | None,
        rows_max: int | None,
    ) -> None:
        super().__init__("postgres", target.key, context, restored)
        self._session, self._target, self._rows_max = session, target, rows_max

    def _send(self, frame: pl.DataFrame, num_bytes: int) -> None:
        self._session.write(self._target, frame, num_bytes, self._rows_total, self._rows_max)

    def _send_again(self) -> None:
        self._session.write_again(self._target, self._redo.frames, self._rows_total)

    def _find_refused(self) -> list[Refusal]:
        return self._session.settle(self._target, self._redo.frames, self._rows_total)

    def _try(self, sealed: redo.RedoFile, epoch: int, *, final: bool) -> None:
        share = Share(self._target, self._context.redo, sealed, self._rows_total)
        self._session.prepare(share, epoch, final=final)


class PostgresCommitter(Committer):
    """Commits the shared transaction, or, if that is lost, applies the redo file."""

    def __init__(
        self,
        server: Server,
        session: Session,
        target: Target,
        context: DestinationContext,
        config: PostgresDestinationConfig,
    ) -> None:
        self._before, self._after = config.before_sql, config.after_sql
        self._server, self._session, self._target = server, session, target
        self._context = context
        self._rows = 0
        self._markers_read: MarkerRows | None = None

    async def marker(self) -> Marker | None:
        row = (await self._markers()).own
        if row is None:
            return None
        self._rows = row.rows_total
        free = self._target.mode != "append" or row.rows_total == 0
        return Marker(row.epoch, row.attempt, row.manifest, free)

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
        target, row = (
            self._target,
            (await self._markers()).own,
        )
        if row is None:
            return True
        if not row.rows_total or target.mode not in ("append", "upsert"):
            return False
        return await in_thread(self._session.is_empty, target)

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        self._markers_read = None
        rows_kept = sum(int(c.data["rows_total"]) for c in committables) if committables else None
        await in_thread(self._recover, epoch, rows_kept)

    def _recover(self, epoch: int, rows_kept: int | None) -> None:
        redo.clear_after(self._context.redo, epoch)
        try:
            self._session.recover(self._target, epoch, rows_kept)
        except DataFlareError as error:
            raise error.at(step=self._context.step) from error.__cause__
        self._rows = rows_kept or 0

    async def begin(self, epoch: int) -> None:
        if self._before:
            with statements.user_statement(self._context.step, "before_sql"):
                await in_thread(self._session.execute, self._before)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        await in_thread(self._commit, epoch, committables)

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        if len(committables) > 1:
            raise AssertionError("one writer per table")  # capabilities().parallel is False
        for committable in committables:
            file = redo.RedoFile.from_json(committable.data)
            rows_total = int(committable.data["rows_total"])
            if file.rows or epoch.final:
                share = Share(self._target, self._context.redo, file, rows_total)
                try:
                    self._session.commit(share, epoch)
                except DataFlareError as error:
                    raise error.at(step=self._context.step) from error.__cause__
            self._rows = rows_total
        # The last file stays until the next commit is durable too; after the final commit no file
        # is needed.
        redo.clear_before(self._context.redo, epoch.number + (1 if epoch.final else 0))
        if epoch.final and self._after:
            with statements.user_statement(self._context.step, "after_sql"):
                self._session.execute_alone(self._after)

    async def published(self) -> Mapping[str, Any]:
        sweep = self._session.sweeps.get(self._target.step)
        deletes = sweep.to_json() if sweep is not None else {}
        place = {"database": self._server.label, "table": self._target.table}
        return {**place, "rows": self._rows, **deletes}

    async def aclose(self) -> None:
        await in_thread(self._session.release, self._target.step)
