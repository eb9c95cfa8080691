"""Read a table or a query of ClickHouse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from dataflare.connectors.clickhouse.config import ClickhouseSourceConfig
from dataflare.connectors.clickhouse.connection import Client, Server
from dataflare.connectors.clickhouse.errors import clickhouse_errors
from dataflare.connectors.clickhouse.incremental import IncrementalReader, check_incremental
from dataflare.connectors.clickhouse.reader import KeyReader, Reading, StreamReader
from dataflare.connectors.clickhouse.relation import Relation, find_relation
from dataflare.connectors.clickhouse.shards import make_splits
from dataflare.model.progress import Split
from dataflare.sdk.source import Replay, SplitReader
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.source import TableSource
from dataflare.sdk.threads import in_thread

T = TypeVar("T")
_COMPARED = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "String", "Date",
             "Date32", "DateTime", "DateTime64")  # fmt: skip
_MERGING = ("Replacing", "Collapsing", "VersionedCollapsing", "Summing", "Aggregating")


class ClickhouseSource(TableSource[Relation]):
    """Rows of a table, view or query."""

    type = "clickhouse"
    Config = ClickhouseSourceConfig
    summary = "Read a table or a query of ClickHouse"
    example = """\
type: clickhouse
config:
  connection_string: clickhouse://reader@localhost:8123/shop
  table: orders
"""
    dialect = "clickhouse"

    config: ClickhouseSourceConfig

    def find(self) -> Relation:
        server = self._server
        relation = self._with_client(
            self.label, lambda client: find_relation(client, server, self.config, self.contract)
        )
        if self.config.incremental is not None:
            check_incremental(relation, self.config.incremental)
        return relation

    def replay_of(self, relation: Relation | None) -> tuple[Replay, str]:
        if relation is not None and not relation.parts:
            return Replay.NONE, f"{relation.label} has no sorting key to continue from"
        return Replay.BY_KEY, "an unfinished range is read again from its last sorting key"

    def compares(self, relation: Relation, name: str) -> bool:
        """Whole numbers, text, dates and times. An Enum refuses text that it does not know."""
        column = relation.column(name)
        return not column.as_text and column.kind.bare.name in _COMPARED

    def doubts(self) -> Sequence[str]:
        relation = self._relation
        family = "" if relation is None else relation.engine.removesuffix("MergeTree")
        family = family.removeprefix("Replicated").removeprefix("Shared")
        if relation is None or family not in _MERGING or self.config.final:
            return ()
        return [
            f"{relation.label} is a {relation.engine}, which merges rows later: rows may be read that it "
            "will replace or collapse; set final: true to read what is left of them"
        ]

    def cut(self, relation: Relation) -> Sequence[Split]:
        sharding = self.config.sharding
        return self._with_client(
            relation.label, lambda client: make_splits(client, relation, sharding)
        )

    def cut_by(self) -> str:
        sharding = self.config.sharding
        return "" if sharding is None else sharding.label("the sorting key")

    def open_part(
        self, relation: Relation, split: Split, start: Mapping[str, object]
    ) -> SplitReader:
        reading = self._reading(relation)
        if relation.parts:
            return KeyReader(reading, split.data, start)
        return StreamReader(reading, split.data, start)

    def open_new(self, relation: Relation, state: State) -> SplitReader:
        assert self.config.incremental is not None
        return IncrementalReader(self._reading(relation), self.config.incremental, state)

    def _reading(self, relation: Relation) -> Reading:
        return Reading(
            server=self._server,
            step=self.context.step,
            relation=relation,
            output=self.output(relation),
            filters=self._filters,
            rows_max=self.config.batch_size,
        )

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the relation, for `dataflare check`. Raises an error if it
        cannot be read."""
        relation = await self.look()
        return await in_thread(self._facts, relation)

    def _facts(self, relation: Relation) -> Mapping[str, str]:
        facts = self._with_client(relation.label, server_facts)
        facts["reads"] = relation.label
        facts["columns"] = str(len(relation.columns))
        if relation.is_table:
            facts["engine"] = relation.engine
            facts["rows"] = f"about {relation.rows:,}"
            facts["key"] = (
                ", ".join(relation.key) or "none: read again from the start after a failure"
            )
        facts["replay"] = self._replay()[0].value.replace("_", " ")
        return facts

    @property
    def _server(self) -> Server:
        return Server.of(self.config)

    def _with_client(self, subject: str, ask: Callable[[Client], T]) -> T:
        """The result of `ask` with a client."""
        server = self._server
        client = server.connect()
        try:
            with clickhouse_errors(server.label, subject):
                return ask(client)
        finally:
            client.close()


def server_facts(client: Client) -> dict[str, str]:
    """Version, user and encryption. Raises the client's errors."""
    [(user,)] = client.rows("select currentUser()")
    return {
        "server": f"ClickHouse {client.version}",
        "user": str(user),
        "encryption": "TLS" if client.is_encrypted else "none",
    }
