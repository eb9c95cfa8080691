"""Make the epochs of a destination visible: each chunk of rows once, then the note that the epoch is there.

Always true:
- a chunk is sent only after its number is in the ledger, so after a crash one chunk at most is in doubt;
- a chunk in doubt is sent again only while the server certainly remembers its token; after that the run stops, and
  says which rows are in doubt;
- the token has the checksum of the epoch's rows, so other rows are never dropped for the sake of a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.clickhouse import doubt, made_tables, tables
from dataflare.connectors.clickhouse.config import ClickhouseDestinationConfig
from dataflare.connectors.clickhouse.connection import Client, Server
from dataflare.connectors.clickhouse.encode import arrow_stream
from dataflare.connectors.clickhouse.errors import clickhouse_errors
from dataflare.connectors.clickhouse.ledger import SWAP, Doing, Ledger, Notes, token_of
from dataflare.connectors.clickhouse.tables import Table
from dataflare.connectors.clickhouse.types import escaped
from dataflare.connectors.clickhouse.writing import chunks, types_of
from dataflare.errors import CheckpointError
from dataflare.model.types import TIMESTAMP_UTC, Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, Committer, Epoch, Marker, Owner
from dataflare.sdk.sql import redo, soft_deletes, statements
from dataflare.sdk.sql.fold import fold
from dataflare.sdk.sql.marker import (
    MarkerRow,
    Verdict,
    decide,
    first_marker,
    next_marker,
    rewind_marker,
)
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.sql.store import Target
from dataflare.sdk.threads import in_thread


class ClickhouseCommitter(Committer):
    """Inserts the redo files of an epoch."""

    def __init__(
        self,
        server: Server,
        target: Target,
        config: ClickhouseDestinationConfig,
        context: DestinationContext,
    ) -> None:
        self._server, self._target, self._config = server, target, config
        self._context = context
        self._ledger = Ledger(target, server.database)
        self._client: Client | None = None
        self._rows = 0
        self._committed = 0
        self._tables: dict[Schema, Table] = {}
        self._version: int | None = None

    # -- what is there -----------------------------------------------------------------------------

    async def marker(self) -> Marker | None:
        notes = await in_thread(self._asked, self._ledger.read)
        row = notes.markers.own
        if row is None:
            return None
        self._rows = row.rows_total
        return Marker(row.epoch, row.attempt, row.manifest, self._can_rewind(notes))

    def _can_rewind(self, notes: Notes) -> bool:
        row = notes.markers.own
        return self._target.mode in made_tables.KEYED or row is None or row.rows_total == 0

    async def owner(self) -> Owner | None:
        return await in_thread(self._asked, self._owner)

    def _owner(self, client: Client) -> Owner | None:
        other = self._ledger.read(client).markers.other
        if other is not None and self._find(client) is None:
            return replace(other, rows=0)  # the table was dropped with its rows
        return other

    def _find(self, client: Client) -> Table | None:
        return tables.find_table(client, self._server.database, self._target.table)

    async def supersede(self, epoch: int) -> None:
        await in_thread(self._asked, lambda client: self._supersede(client, epoch))

    def _supersede(self, client: Client, epoch: int) -> None:
        notes = self._ledger.read(client)
        if notes.markers.own is None:
            # First, so that the older owner finds it when its own note is gone.
            self._ledger.write(client, notes, first_marker(self._target, epoch), None)
        self._ledger.supersede(client)

    async def is_empty(self) -> bool:
        return await in_thread(self._asked, self._is_empty)

    def _is_empty(self, client: Client) -> bool:
        row = self._ledger.read(client).markers.own
        if row is None:
            return True
        if not row.rows_total or self._target.mode == "overwrite":
            return False
        table = self._find(client)
        return table is None or not client.rows(f"select 1 from {table.place} limit 1")

    # -- beginnings --------------------------------------------------------------------------------

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        rows_kept = sum(int(c.data["rows_total"]) for c in committables) if committables else None
        redo.clear_after(self._context.redo, epoch)
        await in_thread(self._asked, lambda client: self._recover(client, epoch, rows_kept))
        self._rows, self._committed = rows_kept or 0, 0

    def _recover(self, client: Client, epoch: int, rows_kept: int | None) -> None:
        target, notes = self._target, self._ledger.read(client)
        row = notes.markers.own
        if row is None:
            if rows_kept is None:
                self._ledger.write(client, notes, first_marker(target, epoch), None)
            return
        if rows_kept is None and target.mode == "overwrite" and row.epoch <= epoch:
            self._drop_staged(client)
        doing = notes.doing
        if doing is not None and doing.epoch > epoch and target.mode not in made_tables.KEYED:
            raise CheckpointError(
                f"rows of checkpoint {doing.epoch} of step '{target.step}' may be in table '{target.table}', and "
                f"the run continues from checkpoint {epoch}",
                code="E0705",
                step=target.step,
                help="check the rows of the table, then run with --fresh",
            )
        moved = rewind_marker(row, target, epoch, can_rewind=self._can_rewind(notes))
        if moved is not None:
            if row.epoch > epoch and rows_kept is not None:
                moved = replace(moved, rows_total=rows_kept)
            kept = doing if doing is not None and doing.epoch == epoch else None
            self._ledger.write(client, notes, moved, kept)

    async def begin(self, epoch: int) -> None:
        await in_thread(self._run_statements, "before_sql", self._config.before_sql)

    def _run_statements(self, option: str, given: Sequence[str]) -> None:
        if given:
            with statements.user_statement(self._context.step, option):
                self._asked(lambda client: [client.run(each) for each in given])

    def _drop_staged(self, client: Client) -> None:
        place = tables.place_of(self._target.written, self._server.database)
        client.run(f"drop table if exists {place} sync")

    # -- commits -----------------------------------------------------------------------------------

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        await in_thread(self._commit, epoch, committables)

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        if len(committables) > 1:
            raise AssertionError("one writer per table")  # capabilities().parallel is False
        for committable in committables:
            file = redo.RedoFile.of(committable)
            rows_total = int(committable.data["rows_total"])
            if file.rows or epoch.final:
                chunk_rows = int(committable.data["chunk_rows"])
                with at_step(self._context.step):
                    self._asked(
                        lambda client, f=file, t=rows_total, c=chunk_rows: self._insert_epoch(
                            client, epoch, f, t, c
                        )
                    )
            self._rows = rows_total
        # The last file stays until the next commit is durable too; after the final commit no file
        # is needed.
        redo.clear_before(self._context.redo, epoch.number + (1 if epoch.final else 0))
        if epoch.final:
            self._run_statements("after_sql", self._config.after_sql)

    def _insert_epoch(
        self, client: Client, epoch: Epoch, file: redo.RedoFile, rows_total: int, chunk_rows: int
    ) -> None:
        target, notes = self._target, self._ledger.read(client)
        if decide(notes.markers, target, epoch.number) is Verdict.DONE:
            self._committed = max(self._committed, epoch.number)
            return
        row = next_marker(
            notes.markers, target, epoch.number, label=client.label,
            rows_before=rows_total - file.rows, committed=self._committed,
        )  # fmt: skip
        notes = self._insert_chunks(client, notes, row, epoch, file, chunk_rows)
        if epoch.final and target.mode == "overwrite":
            notes = self._swap(client, notes, row, epoch)
        crash_point("clickhouse.commit.before_marker")
        row = replace(
            row, epoch=epoch.number, rows_total=row.rows_total + file.rows, manifest=epoch.manifest
        )
        self._ledger.write(client, notes, row, None)
        crash_point("clickhouse.commit.after_commit")
        self._committed = max(self._committed, epoch.number)

    def _insert_chunks(
        self,
        client: Client,
        notes: Notes,
        row: MarkerRow,
        epoch: Epoch,
        file: redo.RedoFile,
        chunk_rows: int,
    ) -> Notes:
        doing, first = notes.doing, 0
        in_doubt = -1
        if doing is not None and doing.epoch == epoch.number:
            if doing.chunk == SWAP:
                return notes
            self._check_doubt(client, doing, file)
            if doing.what == file.checksum:
                first = in_doubt = doing.chunk
        for number, chunk in enumerate(chunks(redo.frames(self._context.redo, file), chunk_rows)):
            if number < first:
                continue
            if number != in_doubt:  # the note of that one says when it was sent first
                doing = self._begun(client, epoch.number, number, file.checksum)
                notes = self._ledger.write(client, notes, row, doing)
            crash_point("clickhouse.commit.before_insert")
            self._insert(client, chunk, token_of(self._target, file.checksum, epoch.number, number))
            crash_point("clickhouse.commit.after_insert")
        return notes

    def _begun(self, client: Client, epoch: int, chunk: int, checksum: str) -> Doing:
        if self._target.mode in made_tables.KEYED:
            return Doing(epoch, chunk, checksum)
        table = next(iter(self._tables.values()), None) or self._written(client)
        there = doubt.inserted(client, table)
        return Doing(epoch, chunk, checksum, there.blocks, there.at_ms)

    def _check_doubt(self, client: Client, doing: Doing, file: redo.RedoFile) -> None:
        """Raise an error if the server would not know a chunk again that may be there."""
        target = self._target
        if target.mode in made_tables.KEYED:
            return
        why = "the redo file has other rows than those that the server was asked to insert"
        if doing.what == file.checksum:
            unknown = doubt.forgotten(client, self._written(client), doing)
            if unknown is None:
                return
            why = unknown
        raise CheckpointError(
            f"rows of checkpoint {doing.epoch} of step '{target.step}' may be in table '{target.table}' or not: {why}",
            code="E0705",
            step=target.step,
            notes=[f"they are in {redo.place_of(self._context.redo, file)}"],
            help="check the rows of the table, then run with --fresh",
        )

    def _written(self, client: Client) -> Table | None:
        return tables.find_table(client, self._server.database, self._target.written)

    def _insert(self, client: Client, chunk: pl.DataFrame, token: str) -> None:
        target = self._target
        if target.mode == "mirror":
            self._insert_changes(client, chunk, token)
            return
        if target.mode == "upsert":
            # Of equal versions the engine keeps the row that was inserted last.
            folded = fold(chunk, target.key, deletes=False, sequence=target.sequence, equal="last")
            chunk = folded.upserts
        self._send(client, self._table(client, chunk), chunk, token)

    def _insert_changes(self, client: Client, chunk: pl.DataFrame, token: str) -> None:
        """Rows and deletes with a version above all that are there, so that they are the newest of their keys, also where
        a chunk is sent again."""
        marks, changes = self._target.deleted_at, fold(chunk, self._target.key, deletes=True)
        upserts, keys = changes.upserts, changes.deletes.select(self._target.key)
        if marks is not None:
            upserts = upserts.with_columns(pl.lit(None, TIMESTAMP_UTC.to_polars()).alias(marks))
        table = self._table(client, upserts)
        if self._version is None:
            [[newest]] = client.rows(f"select max({made_tables.VERSION}) from {table.place}")
            self._version = int(newest)
        self._version += 1
        if marks is not None and keys.height:
            self._mark(client, table, keys)
            keys = keys.clear()
        for rows, deleted in ((upserts, 0), (keys, 1)):
            if rows.height:
                version = pl.lit(self._version, pl.UInt64).alias(made_tables.VERSION)
                mark = pl.lit(deleted, pl.UInt8).alias(made_tables.DELETED)
                rows = rows.with_columns(version, mark)
                self._send(client, table, rows, f"{token} {self._version} {deleted}")

    def _mark(self, client: Client, table: Table, keys: pl.DataFrame) -> None:
        """Write the rows with these keys again, with the time at which they were deleted. Those that have one keep it."""
        target = self._target
        assert target.deleted_at is not None
        place = tables.place_of(target.keys_table, self._server.database)
        marks, key = escaped(target.deleted_at), ", ".join(map(escaped, target.key))
        others = [n for n in table.columns if n not in table.computed]
        values = {name: escaped(name) for name in others}
        values[target.deleted_at] = f"toDateTime64({soft_deletes.now_in_utc()}, 6, 'UTC')"
        values[made_tables.VERSION] = str(self._version)
        values[made_tables.DELETED] = "0"
        client.run(f"drop table if exists {place} sync")
        client.run(
            f"create table {place} engine = MergeTree order by tuple() as select {key} from {table.place} where 0"
        )
        types = types_of(keys, target.schema)
        body = arrow_stream(keys, types, made_tables.kinds(table))
        client.insert(place, key, body, None)
        client.run(
            f"insert into {table.place} ({', '.join(map(escaped, values))}) select {', '.join(values.values())} "
            f"from {table.place} final where ({key}) in (select {key} from {place}) and {marks} is null"
        )
        client.run(f"drop table if exists {place} sync")

    def _table(self, client: Client, rows: pl.DataFrame) -> Table:
        """The table, which takes rows with these columns."""
        schema = Schema.of(types_of(rows, self._target.schema))
        table = self._tables.get(schema)
        if table is None:
            table = made_tables.ensure(client, self._server, self._target, self._config, schema)
            self._tables = {schema: table}
        return table

    def _send(self, client: Client, table: Table, rows: pl.DataFrame, token: str) -> None:
        types = types_of(rows, self._target.schema)
        body = arrow_stream(rows, types, made_tables.kinds(table))
        client.insert(table.place, ", ".join(map(escaped, types)), body, token)

    def _swap(self, client: Client, notes: Notes, row: MarkerRow, epoch: Epoch) -> Notes:
        """Let the staged rows take the place of the table. May be called again at any point of it."""
        target, database = self._target, self._server.database
        doing = notes.doing
        if doing is None or doing.chunk != SWAP:
            staged = made_tables.ensure(client, self._server, target, self._config, target.schema)
            notes = self._ledger.write(client, notes, row, Doing(epoch.number, SWAP, staged.uuid))
            doing = notes.doing
            assert doing is not None
        crash_point("clickhouse.commit.before_swap")
        table = self._find(client)
        place = tables.place_of(target.table, database)
        staging = tables.place_of(target.written, database)
        if table is None:
            client.run(f"rename table {staging} to {place}")
        elif table.uuid != doing.what:
            client.run(f"exchange tables {staging} and {place}")
        crash_point("clickhouse.commit.after_swap")
        self._drop_staged(client)
        return notes

    async def published(self) -> Mapping[str, Any]:
        return {"database": self._server.label, "table": self._target.table, "rows": self._rows}

    # -- the connection ----------------------------------------------------------------------------

    def _asked(self, ask: Any) -> Any:
        """The result of `ask` with the committer's client."""
        with at_step(self._context.step):
            if self._client is None:
                self._client = self._server.connect()
            try:
                with clickhouse_errors(self._server.label, f"table '{self._target.table}'"):
                    return ask(self._client)
            except BaseException:
                self._client.close()
                raise

    async def aclose(self) -> None:
        if self._client is not None:
            await in_thread(self._client.close)
