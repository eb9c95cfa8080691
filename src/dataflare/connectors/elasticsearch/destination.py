"""The `elasticsearch` and `opensearch` destinations: rows as documents, by bulk requests.

Always true: documents are written when they come, and a row that comes again replaces its document where it has an
`id_field`; rows that the server refuses are found one by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.connectors.elasticsearch.bulk import BulkSender, Refused
from dataflare.connectors.elasticsearch.client import Client
from dataflare.connectors.elasticsearch.config import ElasticsearchDestinationConfig
from dataflare.connectors.elasticsearch.documents import WHY, DocumentMaker, Documents
from dataflare.connectors.elasticsearch.index_names import check_columns
from dataflare.connectors.elasticsearch.indexes import Indexes, mappings
from dataflare.connectors.elasticsearch.mirroring import (
    MirrorCommitter,
    handed_over,
    refuse_incomplete,
)
from dataflare.connectors.elasticsearch.types import METADATA
from dataflare.errors import DataError
from dataflare.formats.text_write import python_rows
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.delete_max import effect
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    NoCommitter,
    RefusedRow,
    Target,
    Writer,
    WriteStats,
)
from dataflare.sdk.in_flight import limit_of
from dataflare.sdk.max_errors import end_search
from dataflare.sdk.sql import soft_deletes
from dataflare.sdk.threads import in_thread

_SLICE_BYTES = 16 << 20
_SHOWN = 400


class ElasticsearchDestination(DestinationConnector):
    """An index, or one for each value of columns."""

    type = "elasticsearch"
    system = "Elasticsearch"
    Config = ElasticsearchDestinationConfig
    summary = "Writes documents to indexes of Elasticsearch, by bulk requests."
    example = """\
search:
  type: elasticsearch
  inputs: [customers]
  config:
    connection: "${secret:ES_CONNECTION}"
    index: customers
    id_field: customer_id
    batch_size: 500
"""
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def capabilities(self) -> DestinationCapabilities:
        config: ElasticsearchDestinationConfig = self.config
        keyed = config.mode != "append"
        if config.ids:
            delivery = Delivery.IDEMPOTENT
            reason = "a row that comes again replaces its document, by _id"
            if config.op == "create":
                reason = "a row that comes again leaves its document as it is, by _id"
            elif config.op == "delete":
                reason = "a document that is deleted again stays deleted"
        else:
            delivery = Delivery.REPEATING
            reason = "documents are written immediately, and again after a crash; 'id_field' prevents that"
        if config.mode == "upsert":
            reason += "; upsert ignores deletes"
        return DestinationCapabilities(
            delivery,
            reason,
            parallel=True,
            changelog=keyed or config.changelog is not None,
            changelog_with="mode: upsert or mirror with an id_field, or changelog: columns",
            key=tuple(config.ids),
            by_id=bool(config.ids),
            hands_back=config.mode != "mirror",
        )

    def effects(self) -> Sequence[str]:
        config: ElasticsearchDestinationConfig = self.config
        if config.mode != "mirror":
            return []
        return [effect(config.delete_max, "index"), *soft_deletes.effects(config.deleted_at)]

    @property
    def key(self) -> Sequence[str]:
        return list(self.config.ids)

    def writes_to(self) -> Target | None:
        return Target(self._place, shared=True)

    def identity(self) -> str | None:
        return self._place

    @property
    def _place(self) -> str:
        return f"index '{self.config.index}' of {self.system} at {self.config.servers}"

    def _client(self) -> Client:
        return Client(self.config, self.context, self.system)

    async def inspect(self) -> Mapping[str, str]:
        client = self._client()
        try:
            kind, version = await client.server()
            there = {}
            if not self.config.index_columns:
                found = await mappings(client, self.config.index)
                state = "not there yet" if found is None else f"{_fields_of(found)} fields"
                there = {"index": f"'{self.config.index}': {state}"}
        finally:
            await client.aclose()
        return {"server": f"{_NAMES.get(kind, kind)} {version}", **there}

    async def lacking(self, schema: Schema) -> Sequence[str]:
        if self.config.index_columns:
            return ()
        client = self._client()
        try:
            found = await mappings(client, self.config.index)
        finally:
            await client.aclose()
        fields = {name for each in (found or {}).values() for name in each.get("properties", {})}
        if not fields:
            return ()
        return [name for name in schema.names if name not in fields and name not in METADATA]

    async def validate(self, schema: Schema) -> None:
        if schema.names:
            check_columns(self.config, self.context.step, schema)
            soft_deletes.with_deleted_at(self.context.step, schema, self.config.deleted_at)
        client = self._client()
        try:
            await client.server()
            if self.config.pipeline is not None:
                path = f"/_ingest/pipeline/{self.config.pipeline}"
                answer = await client.ask("GET", path, fine=(403, 404))
                if answer.status == 404:
                    raise client.failure(
                        f"{client.shown} has no ingest pipeline '{self.config.pipeline}'",
                        "E0604",
                        help="make it there, or look at 'pipeline'",
                    )
        finally:
            await client.aclose()

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        check_columns(self.config, context.step, context.schema)
        refuse_incomplete(self.config, context)
        client = self._client()
        return DocumentWriter(client, self.config, context, self._place, self.sleep, restored)

    async def committer(self, context: DestinationContext) -> Committer:
        if self.config.mode != "mirror" or not context.complete:
            return NoCommitter()
        refuse_incomplete(self.config, context)
        return MirrorCommitter(self._client(), self.config, context)


class OpensearchDestination(ElasticsearchDestination):
    """The same for OpenSearch."""

    type = "opensearch"
    system = "OpenSearch"
    summary = "Writes documents to indexes of OpenSearch, by bulk requests."
    example = ElasticsearchDestination.example.replace("type: elasticsearch", "type: opensearch")


_NAMES = {"elasticsearch": "Elasticsearch", "opensearch": "OpenSearch"}


def _fields_of(found: Mapping[str, Any]) -> int:
    return len({name for each in found.values() for name in each.get("properties", {})})


class DocumentWriter(Writer):
    """Sends rows when there are enough for a request, and the others at each checkpoint."""

    resumes = True
    float_losses = ("nan", "infinite")
    rows_out: int
    system_calls: int

    def __init__(
        self,
        client: Client,
        config: ElasticsearchDestinationConfig,
        context: DestinationContext,
        place: str,
        sleep: Callable[[float], Awaitable[None]],
        restored: Committable | None = None,
    ) -> None:
        self._client, self._config, self._context, self._place = client, config, context, place
        self._maker = DocumentMaker(config, context.schema)
        whole = soft_deletes.with_deleted_at(context.step, context.schema, config.deleted_at)
        self._indexes = Indexes(client, config, whole)
        most = max(config.concurrency, context.subtasks)
        limit = limit_of(context.step, config.servers, most)
        self._sender = BulkSender(client, config, limit, sleep)
        self._frames: list[pl.DataFrame] = []
        self._rows = 0
        self._last_batch: SharedDataBatch | None = None
        self._slices: deque[pl.DataFrame] = deque()
        self._documents: Documents | None = None
        self._refused: list[RefusedRow] = []
        self._refused_now = self._left_out = self.rows_out = self.system_calls = 0
        self._mirrors = config.mode == "mirror" and context.complete
        self._baseline = handed_over(context) if self._mirrors else None
        self._refused_total = int(restored.data["refused"]) if self._mirrors and restored else 0

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        if batch is not self._last_batch and batch.num_rows:
            self._frames.append(self._columns_of(batch.frame))
            self._rows += batch.num_rows
        self._last_batch = batch
        if self._rows >= self._config.batch_size or self._slices:
            await self._send_all()
        self._last_batch = None
        return WriteStats(batch.num_rows, batch.num_bytes)

    def _columns_of(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The columns of the rows, with their kinds if they may have some: a batch without any has inserts alone."""
        names = self._context.schema.names
        if not self._context.changelog:
            return frame.select(names)
        inserts = pl.lit(RowKind.INSERT.value, pl.UInt8).alias(KIND_COLUMN)
        kinds = pl.col(KIND_COLUMN) if KIND_COLUMN in frame.columns else inserts
        return frame.select(*names, kinds)

    async def flush(self) -> None:
        await self._send_all()

    async def settle(self) -> Sequence[RefusedRow]:
        await self.flush()
        refused, self._refused = self._refused, []
        return refused

    def hand_back(self) -> Sequence[pl.DataFrame]:
        names, frames = self._context.schema.names, list[pl.DataFrame]()
        if self._documents is not None:
            left = self._documents.rows[sorted(self._documents.left)]
            self.rows_out += self._slices.popleft().height - self._refused_now - left.height
            self._documents, self._refused_now = None, 0
            frames.append(left)
        frames += [*self._slices, *self._frames]
        self._slices.clear()
        self._frames, self._rows, self._last_batch = [], 0, None
        return [frame.select(names) for frame in frames if frame.height]

    def note_left_out(self, rows: Mapping[str, int]) -> None:
        self._left_out = sum(rows.get(step, 0) for step in self._context.before)

    async def prepare(self, epoch: int, *, final: bool) -> Committable | None:
        await self.flush()
        if final:
            self.system_calls += 1
            await self._indexes.refresh()
        if not self._mirrors:
            return None
        data = {
            "baseline": self._baseline, "refused": self._refused_total, "left_out": self._left_out,
        }  # fmt: skip
        return Committable(self._context.subtask, data)

    async def _send_all(self) -> None:
        """Send what was held back. After an error, another call goes on where this one stopped."""
        while self._slices or self._frames:
            self.system_calls += 1
            if not self._slices:
                self._slices.extend(_cut(pl.concat(self._frames)))
                self._frames, self._rows = [], 0
            if self._documents is None:
                made = await in_thread(self._maker.make, self._slices[0])
                await self._indexes.ensure(made.indexes)
                self._refuse(made.refused, made.refused[WHY].to_list())
                self._documents = made
            await self._send(self._documents)
            self.rows_out += self._slices.popleft().height - self._refused_now
            self._documents, self._refused_now = None, 0

    async def _send(self, documents: Documents) -> None:
        refused: list[Refused] = []
        try:
            await self._sender.send(documents, refused)
        finally:
            self.progress = self._sender.taken
            if refused:
                refused.sort(key=lambda each: each.place)
                rows = documents.rows[[each.place for each in refused]]
                self._refuse(rows, [_why(each) for each in refused])

    def _refuse(self, rows: pl.DataFrame, whys: Sequence[str]) -> None:
        """Keep rows that were refused, or raise the error of the first."""
        if not whys:
            return
        found = list(python_rows(rows.select(self._context.schema.names)))
        if not self._context.sift:
            raise self._refusal(found[0], whys[0])
        self._refused_now += len(whys)
        self._refused_total += len(whys)
        for row, why in zip(found, whys, strict=True):
            self._refused.append(RefusedRow(row, "E0510", f"{self._place} refuses a row: {why}"))
        end_search(self._context.step, len(self._refused), self._context.refused_max)

    def _refusal(self, row: Mapping[str, Any], why: str) -> DataError:
        text = ", ".join(f"{name}={value!r}" for name, value in row.items())
        return DataError(
            f"{self._place} refuses a row: {why}",
            code="E0510",
            step=self._context.step,
            notes=[f"the row: {text[:_SHOWN]}"],
            help="fix the data, or set error_handling: {on_error: dead_letter}",
        )

    async def aclose(self) -> None:
        await self._client.aclose()


def _why(refused: Refused) -> str:
    kind = f"{refused.kind}: " if refused.kind else ""
    return f"{kind}{refused.reason}"


def _cut(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """Slices whose documents need not much memory."""
    size = max(1, int(frame.estimated_size()))
    rows = max(1, min(frame.height, frame.height * _SLICE_BYTES // size))
    return list(frame.iter_slices(rows))
