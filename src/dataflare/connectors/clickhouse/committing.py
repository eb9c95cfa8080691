"""Make the epochs of a destination visible: each chunk of rows once, then the note that the epoch is there.

Always true:
- a chunk is sent only after its number is in the ledger, so after a crash one chunk at most is in doubt;
- a chunk in doubt is sent again only while the server remembers its token; after that the run stops, and says
  which rows are in doubt;
- the token has the checksum of the epoch's rows, so other rows are never dropped for the sake of a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from dataflare.connectors.clickhouse import made_tables, tables
from dataflare.connectors.clickhouse.config import ClickhouseDestinationConfig
from dataflare.connectors.clickhouse.connection import Client, Server
from dataflare.connectors.clickhouse.encode import arrow_stream
from dataflare.connectors.clickhouse.errors import clickhouse_errors
from dataflare.connectors.clickhouse.ledger import SWAP, Doing, Ledger, Notes, token_of
from dataflare.connectors.clickhouse.tables import Table
from dataflare.connectors.clickhouse.types import escaped
from dataflare.connectors.clickhouse.writing import chunks, types_of
from dataflare.errors import CheckpointError
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, Committer, Epoch, Marker, Owner
from dataflare.sdk.sql import redo
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
        return self._target.mode == "upsert" or row is None or row.rows_total == 0

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
        if doing is not None and doing.epoch > epoch and target.mode != "upsert":
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
            file = redo.RedoFile.from_json(committable.data)
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
        if doing is not None and doing.epoch == epoch.number:
            if doing.chunk == SWAP:
                return notes
            self._check_doubt(client, doing, file)
            first = doing.chunk if doing.what == file.checksum else 0
        for number, chunk in enumerate(chunks(redo.frames(self._context.redo, file), chunk_rows)):
            if number < first:
                continue
            if notes.doing != doing or doing is None or doing.epoch != epoch.number or not first:
                notes = self._ledger.write(
                    client, notes, row, Doing(epoch.number, number, file.checksum)
                )
            crash_point("clickhouse.commit.before_insert")
            self._insert(client, chunk, token_of(self._target, file.checksum, epoch.number, number))
            crash_point("clickhouse.commit.after_insert")
        return notes

    def _check_doubt(self, client: Client, doing: Doing, file: redo.RedoFile) -> None:
        """Raise an error if the server would not know a chunk again that may be there."""
        target = self._target
        if target.mode == "upsert":
            return
        table = tables.find_table(client, self._server.database, target.written)
        window_s = made_tables.window_s(client, table) if table is not None else None
        if doing.what == file.checksum and (window_s is None or doing.age_s < window_s):
            return
        raise CheckpointError(
            f"rows of checkpoint {doing.epoch} of step '{target.step}' may be in table '{target.table}' or not: "
            f"the server was asked to insert them {doing.age_s:.0f} s ago, and does not know them again",
            code="E0705",
            step=target.step,
            notes=[f"they are in {self._context.redo / (file.name or '')}"],
            help="check the rows of the table, then run with --fresh",
        )

    def _insert(self, client: Client, chunk: Any, token: str) -> None:
        target = self._target
        types = types_of(chunk, target.schema)
        schema = Schema.of(types)
        table = self._tables.get(schema)
        if table is None:
            table = made_tables.ensure(client, self._server, target, self._config, schema)
            self._tables = {schema: table}
        if target.mode == "upsert":
            chunk = fold(chunk, target.key, deletes=False, sequence=target.sequence).upserts
        body = arrow_stream(chunk, types, made_tables.kinds(table))
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
