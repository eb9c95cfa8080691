"""Write a table of ClickHouse: each row once, by INSERTs that the server knows again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from dataflare.connectors.clickhouse import made_tables, tables
from dataflare.connectors.clickhouse.committing import ClickhouseCommitter
from dataflare.connectors.clickhouse.config import ClickhouseDestinationConfig
from dataflare.connectors.clickhouse.connection import Server
from dataflare.connectors.clickhouse.errors import clickhouse_errors
from dataflare.connectors.clickhouse.source import server_facts
from dataflare.connectors.clickhouse.writing import ClickhouseWriter
from dataflare.errors import ConfigError
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Writer,
)
from dataflare.sdk.sql import soft_deletes, statements
from dataflare.sdk.sql.destination import check_columns, refuse_empty_name
from dataflare.sdk.sql.fold import schema_with_op
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.sql.store import Target
from dataflare.sdk.threads import in_thread

_REASONS = {
    "append": "the server drops an INSERT that it knows by its token",
    "overwrite": "rows are staged, and take the place of the table at the end of the run",
    "upsert": "of the rows with one key the table keeps the last; upsert ignores deletes",
    "mirror": "of the rows with one key the table keeps the last, and hides it if it was deleted",
}


class ClickhouseDestination(DestinationConnector):
    """Writes a table. Only an empty table or a new column is visible before `commit`."""

    type = "clickhouse"
    Config = ClickhouseDestinationConfig
    summary = "Write a table of ClickHouse, each row once"
    example = """\
type: clickhouse
inputs: [orders]
config:
  connection_string: clickhouse://writer@localhost:8123/shop
  table: orders
  mode: upsert
  key: [order_id]
"""

    config: ClickhouseDestinationConfig

    def capabilities(self) -> DestinationCapabilities:
        mode = self.config.mode
        return DestinationCapabilities(
            delivery=Delivery.IDEMPOTENT,
            reason=_REASONS[mode],
            changelog=mode in made_tables.KEYED or self.config.changelog == "columns",
            changelog_with="mode: upsert or mirror with a key, or changelog: columns",
            bounded_only=mode == "overwrite",
            at_commit=True,
        )

    def effects(self) -> Sequence[str]:
        return [
            *statements.effects(self.config.before_sql, self.config.after_sql),
            *soft_deletes.effects(self.config.deleted_at),
        ]

    @property
    def adds_for_good(self) -> bool:
        return self.config.mode == "append"

    def identity(self) -> str:
        return f"table {self.config.table} in {self._server.label}"

    @property
    def _server(self) -> Server:
        return Server.of(self.config)

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the table, for `dataflare check`. Raises an error if it cannot
        be used."""
        return await in_thread(self._inspect)

    def _inspect(self) -> Mapping[str, str]:
        server, name = self._server, self.config.table
        client = server.connect()
        try:
            with clickhouse_errors(server.label, f"table '{name}'"):
                facts = server_facts(client)
                table = tables.find_table(client, server.database, name)
                if table is None:
                    facts["table"] = "missing; it will be created"
                else:
                    facts |= {"table": table.label, "engine": table.engine}
                    facts["rows"] = f"about {table.rows:,}"
                return facts
        finally:
            client.close()

    async def validate(self, schema: Schema) -> None:
        with at_step(self.context.step):
            self._check_columns(schema)
            await in_thread(self._look, self._target(schema))

    def _check_columns(self, schema: Schema) -> None:
        check_columns(self.config, self.context.step, schema)
        refuse_empty_name(self.context.step, schema, "ClickHouse")

    def _look(self, target: Target) -> None:
        server = self._server
        client = server.connect()
        try:
            with clickhouse_errors(server.label, f"table '{target.table}'"):
                made_tables.look(client, server, target, self.config)
        finally:
            client.close()

    async def lacking(self, schema: Schema) -> Sequence[str]:
        return await in_thread(self._lacking, schema)

    def _lacking(self, schema: Schema) -> Sequence[str]:
        server = self._server
        client = server.connect()
        try:
            with clickhouse_errors(server.label, f"table '{self.config.table}'"):
                table = tables.find_table(client, server.database, self.config.table)
        finally:
            client.close()
        return [] if table is None else [n for n in schema.names if n not in table.columns]

    def _target(self, schema: Schema, context: DestinationContext | None = None) -> Target:
        """What this step writes. context: None before a run."""
        config = self.config
        if config.changelog is not None:
            schema = schema_with_op(self.context.step, schema)
        schema = soft_deletes.with_deleted_at(self.context.step, schema, config.deleted_at)
        target = Target(
            step=self.context.step, lineage="", attempt=0, table=config.table, mode=config.mode,
            schema=schema, key=tuple(config.key) if config.mode in made_tables.KEYED else (),
            names=tuple(config.key), sequence=config.sequence, op=config.changelog == "columns",
            create_table=config.create_table, deleted_at=config.deleted_at,
        )  # fmt: skip
        if context is None:
            return target
        return replace(
            target, step=context.step, lineage=context.lineage, attempt=context.attempt,
            token=context.token, workflow=context.workflow, sift=context.sift,
        )  # fmt: skip

    def _refuse_full_mirror(self, context: DestinationContext) -> None:
        if self.config.mode == "mirror" and context.complete:
            raise ConfigError(
                "mode mirror of ClickHouse deletes what a changelog deletes; this source gives all its rows each time, and "
                "which ones are gone is not known",
                code="E0404",
                step=context.step,
                help="write with mode: overwrite, or read the changes of the source",
            )

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        self._check_columns(context.schema)
        self._refuse_full_mirror(context)
        target = self._target(context.schema, context)
        return ClickhouseWriter(self._server, target, self.config, context, restored)

    async def committer(self, context: DestinationContext) -> Committer:
        self._check_columns(context.schema)
        target = self._target(context.schema, context)
        return ClickhouseCommitter(self._server, target, self.config, context)
