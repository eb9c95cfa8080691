"""The `elasticsearch` and `opensearch` sources: the documents of indexes at a point in time.

Always true: all slices of a run read one point in time; types come from the mapping and from a sample of documents, and
rows that do not fit them are bad rows with their _id.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from msgspec.structs import replace

from dataflare.connectors.elasticsearch.client import Client
from dataflare.connectors.elasticsearch.indexes import listed, mappings, path_of
from dataflare.connectors.elasticsearch.point_in_time import Points, Slice
from dataflare.connectors.elasticsearch.reading import SliceReader, lines_of
from dataflare.connectors.elasticsearch.source_config import ElasticsearchSourceConfig
from dataflare.connectors.elasticsearch.types import ANALYSED, DATES, merged, noted_in_all
from dataflare.errors import ConfigError, DataError
from dataflare.formats.ndjson_read import NdjsonPlan, sniff
from dataflare.formats.ndjson_watch import with_learned
from dataflare.formats.text_types import TextColumn, with_contract
from dataflare.model.progress import Position, Split
from dataflare.model.types import INT64, STRING, TIMESTAMP_UTC, Schema
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.json_pages import Cursor, carried
from dataflare.sdk.source import (
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsCommits,
    SupportsProjection,
)
from dataflare.sdk.sql.incremental import State

_ALL = "documents"
_SAMPLE = 1_000
_METADATA_TYPES = {"_version": INT64, "_seq_no": INT64}


class ElasticsearchSource(SourceConnector, SupportsProjection, SupportsCommits, SupportsCatalog):
    """Documents of one or more indexes."""

    type = "elasticsearch"
    system = "Elasticsearch"
    finds_new_fields = True
    Config = ElasticsearchSourceConfig
    summary = "Reads the documents of indexes of Elasticsearch, at a point in time."
    example = """\
logs:
  type: elasticsearch
  config:
    connection: "${secret:ES_CONNECTION}"
    index: logs-*
    query: {term: {level: error}}
    incremental: {column: ts, lag: 1m}
"""

    unchosen: ClassVar[Mapping[str, Any]] = {"index": "-"}

    def __init__(self, config: ElasticsearchSourceConfig, context: ConnectorContext) -> None:
        super().__init__(config, context)
        self._output: tuple[str, ...] | None = None
        self._columns: list[TextColumn] | None = None
        self._mappings: Mapping[str, Any] = {}
        self._kind = ""

    def capabilities(self) -> SourceCapabilities:
        reason = "a run reads one point in time, which the server keeps"
        return SourceCapabilities(replay=Replay.EXACT, replay_reason=reason, chunks=True)

    def reads_all(self) -> bool:
        return self.config.incremental is None and self.config.query is None

    def with_columns(self, columns: Sequence[str]) -> Self:
        copy_ = copy.copy(self)
        copy_._output = tuple(columns)
        return copy_

    def _client(self) -> Client:
        return Client(self.config, self.context, self.system)

    async def catalog(self) -> Sequence[Entry]:
        client = self._client()
        try:
            found = await listed(client)
        finally:
            await client.aclose()
        return [Entry(name, kind, {"index": name}, rows) for name, kind, rows in found]

    async def schema(self) -> Schema:
        columns = {column.name: column.type for column in await self._all_columns()}
        names = columns if self._output is None else self._output
        return Schema.of([(name, columns[name]) for name in names])

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        columns = await self._all_columns()
        client = self._client()
        try:
            parts = await self._slices(client)
            points = Points(client, self._kind, self.config.keep_alive)
            point = await points.open(self.config.index)
        finally:
            await client.aclose()
        data = {"columns": [c.to_json() for c in columns], "kind": self._kind, "point": point}
        if self.config.incremental is not None:
            state = carried if carried is not None else State().to_json()
            self._check_carried(state)
            listed = [[part.index, part.id, part.of] for part in parts]
            return [Split(_ALL, {**data, "parts": listed, "splits": 1, "state": state})]
        return [
            Split(
                f"{part.index}/{part.id}/{part.of}",
                {**data, "parts": [[part.index, part.id, part.of]], "splits": len(parts)},
            )
            for part in parts
        ]

    async def _slices(self, client: Client) -> list[Slice]:
        """The parts of all indexes; each lies in one shard."""
        names = ",".join(map(path_of, self._mappings))
        found = "*.settings.index.number_of_shards"
        answer = await client.ask(
            "GET", f"/{names}/_settings", params={"filter_path": found}, doing="tell the shards"
        )
        parts: list[Slice] = []
        try:
            for index, each in sorted(answer.data.items()):
                shards = int(each["settings"]["index"]["number_of_shards"])
                wanted = self.config.slices or shards
                count = -(-wanted // shards) * shards
                parts += [Slice(index, number, count) for number in range(count)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise client.strange("tell the shards") from error
        return parts

    def _check_carried(self, state: Mapping[str, Any]) -> None:
        cursor = self._cursor()
        earlier = state.get("type")
        if earlier is not None and earlier != str(cursor.column.type):
            raise DataError(
                f"column '{cursor.column.name}' is {cursor.column.type} now, and was {earlier} in the run before",
                code="E0508",
                step=self.context.step,
                help=f"set its type in 'schema': {{{cursor.column.name}: \"{earlier}\"}}",
            )

    def _cursor(self) -> Cursor:
        assert self._columns is not None
        incremental = self.config.incremental
        cursor = Cursor(incremental, self._columns, self.context.step)
        for mapping in self._mappings.values():
            field = mapping.get("properties", {}).get(incremental.column, {})
            if field.get("type") in ANALYSED:
                raise ConfigError(
                    f"the field '{incremental.column}' is {field['type']}, whose order cannot show which documents "
                    "are new",
                    code="E0413",
                    step=self.context.step,
                    help="take a field of numbers, dates or keywords that grows",
                )
        return cursor

    def carries(self) -> bool:
        return self.config.incremental is not None

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        return carried(positions.get(_ALL))

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        data = split.data
        listed = [TextColumn.from_json(each) for each in data["columns"]]
        columns = tuple(with_learned(listed, self.learned))
        names = tuple(c.name for c in columns) if self._output is None else self._output
        parts = [Slice(*each) for each in data["parts"]]
        place: dict[str, Any] = {
            "part": 0, "after": None, "rows": 0, "point": data["point"], "splits": data["splits"],
            "parts": len(parts), "kind": data["kind"],
        }  # fmt: skip
        if position is not None:
            place |= {name: position.value[name] for name in place}
        incremental, query = None, self.config.query or {"match_all": {}}
        if self.config.incremental is not None:
            cursor = Cursor(self.config.incremental, columns, self.context.step)
            state = State.from_json(data["state"])
            window = cursor.window(state)
            if position is not None:
                window.restore(position.value["window"], cursor.column)
            incremental = (cursor, window)
            query = {"bool": {"filter": [query, *_newer(cursor, state)]}}
        client = self._client()
        points = Points(client, data["kind"], self.config.keep_alive)
        request = {**self._request(), "query": query}
        return SliceReader(
            client, points, self.config, NdjsonPlan(columns, names), parts, place, request, incremental
        )  # fmt: skip

    def _request(self) -> dict[str, Any]:
        """What each page is asked for."""
        request: dict[str, Any] = {"size": self.config.batch_size}
        if self.config.columns:
            request["_source"] = self.config.columns
        if "version" in self.config.metadata:
            request["version"] = True
        if "seq_no" in self.config.metadata:
            request["seq_no_primary_term"] = True
        return request

    async def committed(self, positions: Mapping[str, Position]) -> None:
        """Let the server forget the point in time when all of it is in the destinations."""
        places = [position.value for position in positions.values()]
        if not places or len(places) < places[0]["splits"]:
            return
        if any(place["part"] < place["parts"] for place in places):
            return
        client = self._client()
        try:
            points = Points(client, places[0]["kind"], self.config.keep_alive)
            for point in {place["point"] for place in places}:
                await points.close(point)
        finally:
            await client.aclose()

    async def _all_columns(self) -> list[TextColumn]:
        """The columns of the mappings, of a sample, and of the contract."""
        if self._columns is None:
            client = self._client()
            try:
                self._kind, _ = await client.server()
                self._mappings = await self._found(client)
                sample = await self._sample(client)
            finally:
                await client.aclose()
            columns = self._typed(sniff([b"\n".join(sample)]))
            contract = self.contract or Schema(())
            names = {column.name for column in columns}
            absent = [
                TextColumn(f.name, f.type, declared=True) for f in contract if f.name not in names
            ]
            if not columns and not absent:
                raise ConfigError(
                    f"the index '{','.join(self.config.index)}' has no fields, so the columns are not known",
                    code="E0405",
                    step=self.context.step,
                    help="list the columns in 'schema'",
                )
            columns = [*with_contract(columns, contract), *absent]
            self._columns = with_learned(columns, self.learned)
            if self.config.incremental is not None:
                self._cursor()
        return self._columns

    async def _found(self, client: Client) -> dict[str, Any]:
        """The mappings of all indexes that are read. Raises SystemError_ (E0604) if there are none."""
        names = ",".join(self.config.index)
        found = await mappings(client, names)
        if not found:
            raise client.failure(
                f"{client.shown} has no index '{names}'", "E0604", help="look at 'index'"
            )
        for index, mapping in found.items():
            if mapping.get("_source", {}) not in ({}, {"enabled": True}):
                raise ConfigError(
                    f"the index '{index}' does not keep its documents whole (_source in its mapping)",
                    code="E0405",
                    step=self.context.step,
                    help="read an index that keeps them",
                )
        return found

    async def _sample(self, client: Client) -> list[bytes]:
        points = Points(client, self._kind, 60)
        request = {
            **self._request(),
            "size": _SAMPLE,
            "query": self.config.query or {"match_all": {}},
        }
        hits = await points.sample(self.config.index, request)
        return lines_of(hits, self.config.metadata)

    def _typed(self, sampled: Sequence[TextColumn]) -> list[TextColumn]:
        """The columns of the mappings, as the sample shows them, and others of the sample."""
        by_name = {column.name: column for column in sampled}
        chosen = self.config.columns
        fields: dict[str, Any] = {}
        for mapping in self._mappings.values():
            for name, field in mapping.get("properties", {}).items():
                if not chosen or name in chosen:
                    fields.setdefault(name, field)
        columns = []
        for name, field in fields.items():
            seen = by_name.pop(name, None)
            type_ = merged(field, None if seen is None else seen.type)
            if seen is not None and type_ == seen.type:
                columns.append(seen)
            elif seen is None and field.get("type") in DATES:
                columns.append(TextColumn(name, TIMESTAMP_UTC, declared=True))
            else:
                columns.append(TextColumn(name, type_))
        for each in (f"_{name}" for name in self.config.metadata):
            by_name.pop(each, None)
        columns += by_name.values()
        noted = with_contract(columns, noted_in_all(self._mappings.values()))
        columns = [_exact(column) for column in noted]
        added = [f"_{name}" for name in self.config.metadata]
        return columns + [
            TextColumn(n, _METADATA_TYPES.get(n, STRING), declared=True) for n in added
        ]

    async def inspect(self) -> Mapping[str, str]:
        client = self._client()
        try:
            kind, version = await client.server()
            found = await self._found(client)
        finally:
            await client.aclose()
        system = {"elasticsearch": "Elasticsearch", "opensearch": "OpenSearch"}.get(kind, kind)
        return {"server": f"{system} {version}", "indexes": f"{len(found)}"}


class OpensearchSource(ElasticsearchSource):
    """The same for OpenSearch."""

    type = "opensearch"
    system = "OpenSearch"
    summary = "Reads the documents of indexes of OpenSearch, at a point in time."
    example = ElasticsearchSource.example.replace("type: elasticsearch", "type: opensearch")


def _exact(column: TextColumn) -> TextColumn:
    """A number that the mapping promises and a document does not keep is a bad row, never rounded."""
    if column.type.is_integer or column.type.is_float:
        return replace(column, declared=False)
    return column


def _newer(cursor: Cursor, state: State) -> list[dict[str, Any]]:
    """The condition on documents that may be new."""
    bound = cursor.request_value(state)
    if bound is None:
        return []
    name = cursor.config.column
    limits: dict[str, Any] = {"gte": bound}
    if cursor.column.type.name in ("date", "timestamp"):
        limits["format"] = "strict_date_optional_time"
    newer: dict[str, Any] = {"range": {name: limits}}
    if state.nulls_done:
        return [newer]
    without = {"bool": {"must_not": [{"exists": {"field": name}}]}}
    return [{"bool": {"should": [newer, without], "minimum_should_match": 1}}]
