"""Read a table or a query of ClickHouse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from dataflare.connectors.clickhouse.config import ClickhouseSourceConfig
from dataflare.connectors.clickhouse.connection import Client, Server
from dataflare.connectors.clickhouse.errors import clickhouse_errors
from dataflare.connectors.clickhouse.incremental import IncrementalReader, check_incremental
from dataflare.connectors.clickhouse.reader import KeyReader, Reading, StreamReader
from dataflare.connectors.clickhouse.relation import Relation, find_relation
from dataflare.connectors.clickhouse.shards import make_splits
from dataflare.connectors.clickhouse.tables import tables_and_views
from dataflare.model.progress import Split
from dataflare.sdk.catalog import Entry
from dataflare.sdk.source import Replay, SplitReader
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.source import ServerTableSource, SupportsTables

_COMPARED = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "String", "Date",
             "Date32", "DateTime", "DateTime64")  # fmt: skip
_MERGING = ("Replacing", "Collapsing", "VersionedCollapsing", "Summing", "Aggregating")


class ClickhouseSource(ServerTableSource[Relation], SupportsTables[Relation]):
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
    key_noun = "the sorting key"

    config: ClickhouseSourceConfig

    @property
    def server(self) -> Server:
        return Server.of(self.config)

    def connect(self) -> Client:
        return self.server.connect()

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return clickhouse_errors(self.server.label, subject)

    def list_tables(self, db: Client) -> Sequence[Entry]:
        return tables_and_views(db, self.server.database)

    def find_in(self, db: Client) -> Relation:
        return find_relation(db, self.server, self.config, self.contract)

    def check_incremental(self, relation: Relation, config: Incremental) -> None:
        check_incremental(relation, config)

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

    def cut_in(self, db: Client, relation: Relation) -> Sequence[Split]:
        return make_splits(db, relation, self.config.sharding)

    def server_facts(self, db: Client) -> Mapping[str, str]:
        return server_facts(db)

    def table_facts(self, relation: Relation) -> Mapping[str, str]:
        return {"engine": relation.engine, **super().table_facts(relation)}

    def reading(self, relation: Relation) -> Reading:
        return Reading(**self.read_options(relation), server=self.server)

    def open_part(self, relation: Relation, split: Split, start: Mapping[str, Any]) -> SplitReader:
        reader = KeyReader if relation.parts else StreamReader
        return reader(self.reading(relation), split.data, start)

    def open_new(self, relation: Relation, config: Incremental, state: State) -> SplitReader:
        return IncrementalReader(self.reading(relation), config, state)


def server_facts(client: Client) -> dict[str, str]:
    """Version, user and encryption. Raises the client's errors."""
    [(user,)] = client.rows("select currentUser()")
    return {
        "server": f"ClickHouse {client.version}",
        "user": str(user),
        "encryption": "TLS" if client.is_encrypted else "none",
    }
