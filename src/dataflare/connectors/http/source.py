"""The `http` source: the pages of a JSON API, one after the other.

Always true: a page's rows are returned as one chunk, and its position has the place of the next
page; types are inferred from the first pages, which are not requested again; rows that do not fit
the types are bad rows with their place.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from dataflare.connectors.http.client import HttpClient, public_url
from dataflare.connectors.http.config import HttpSourceConfig
from dataflare.connectors.http.nested import page_at
from dataflare.connectors.http.page_reader import PageReader
from dataflare.connectors.http.pages import Page, check_rows
from dataflare.connectors.http.paging import Place, first_place
from dataflare.errors import ConfigError, DataError, DataFlareError
from dataflare.formats.ndjson_read import NdjsonPlan, sniff
from dataflare.formats.ndjson_watch import with_learned
from dataflare.formats.text_types import TextColumn, with_contract
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.json_pages import Cursor, carried, first_value
from dataflare.sdk.source import (
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsProjection,
)
from dataflare.sdk.sql.incremental import State

_PAGES = "pages"
_SAMPLE_PAGES, _SAMPLE_ROWS, _SAMPLE_S = 3, 10_000, 5.0
"""The sample has at most this many pages; it ends after this many rows or seconds."""
_FRESH_S = 60.0
"""Pages of the sample that are older than this are requested again."""


class HttpSource(SourceConnector, SupportsProjection):
    """A paged JSON API."""

    type = "http"
    finds_new_fields = True
    Config = HttpSourceConfig
    summary = "Reads a JSON API, page by page."
    example = """\
issues:
  type: http
  config:
    url: https://api.example.com/v1/issues
    params: {state: open}
    records: $.items
    pagination: {type: cursor, path: $.next_cursor, param: after}
    incremental: {column: updated_at, param: since, initial_value: "2024-01-01T00:00:00Z"}
    rate_limit: 10/s
    auth: {type: bearer, token: "${secret:API_TOKEN}"}
"""
    tries_again = True
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def __init__(self, config: HttpSourceConfig, context: ConnectorContext) -> None:
        super().__init__(config, context)
        self._output: tuple[str, ...] | None = None
        self._columns: list[TextColumn] | None = None
        self._sample: deque[tuple[Place, Page]] = deque()
        self._sampled_at = 0.0

    def capabilities(self) -> SourceCapabilities:
        if self.config.stable_pages:
            reason = "stable_pages: a page that is requested again has the same rows"
            return SourceCapabilities(replay=Replay.EXACT, replay_reason=reason, chunks=True)
        reason = (
            "an API may answer differently to a second request; set stable_pages if it does not"
        )
        return SourceCapabilities(replay=Replay.NONE, replay_reason=reason, chunks=True)

    def reads_all(self) -> bool:
        paged = [self.config.pagination]
        if self.config.nested is not None:
            paged.append(self.config.nested.pagination)
        return self.config.incremental is None and all(
            pages is None or pages.max_pages is None for pages in paged
        )

    def with_columns(self, columns: Sequence[str]) -> Self:
        copy_ = copy.copy(self)
        copy_._output = tuple(columns)
        return copy_

    async def schema(self) -> Schema:
        columns = {column.name: column.type for column in await self._all_columns()}
        names = columns if self._output is None else self._output
        return Schema.of([(name, columns[name]) for name in names])

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        data: dict[str, Any] = {"columns": [c.to_json() for c in await self._all_columns()]}
        if self.config.incremental is not None:
            data["state"] = carried if carried is not None else State().to_json()
            columns = {column.name: column for column in await self._all_columns()}
            type_, earlier_type = (
                columns[self.config.incremental.column].type,
                data["state"].get("type"),
            )
            if earlier_type is not None and earlier_type != str(type_):
                raise DataError(
                    f"column '{self.config.incremental.column}' is {type_} in what the API answers "
                    f"now, and was {earlier_type} in the run before",
                    code="E0508",
                    step=self.context.step,
                    help=f"set its type in 'schema': {{{self.config.incremental.column}: "
                    f'"{earlier_type}"}}',
                )
        return [Split(_PAGES, data)]

    def carries(self) -> bool:
        return self.config.incremental is not None

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        return carried(positions.get(_PAGES))

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        listed = [TextColumn.from_json(each) for each in split.data["columns"]]
        columns = tuple(with_learned(listed, self.learned))
        names = tuple(c.name for c in columns) if self._output is None else self._output
        plan = NdjsonPlan(columns, names)
        incremental = None
        if self.config.incremental is None:
            place = first_place(self.config) if position is None else position.value["next"]
        else:
            cursor = Cursor(self.config.incremental, columns, self.context.step)
            state = State.from_json(split.data["state"])
            window = cursor.window(state)
            incremental = (cursor, window)
            if position is None:
                place = first_place(self.config, cursor.request_value(state))
            else:
                place = position.value["next"]
                window.restore(position.value["window"], cursor.column)
        return PageReader(
            self._client(), self.config, plan, place, self.context.step, self._pages(), incremental
        )

    def _client(self) -> HttpClient:
        return HttpClient(
            self.config, self.context.step, sleep=self.sleep, body_max=self.context.answer_bytes_max
        )

    def _pages(self) -> deque[tuple[Place, Page]]:
        """The pages of the sample, for the first reader that is opened while they are fresh."""
        if time.monotonic() - self._sampled_at > _FRESH_S:
            self._sample.clear()
        return self._sample

    async def _all_columns(self) -> list[TextColumn]:
        """The columns of the first pages, and those of the contract."""
        if self._columns is None:
            incremental = self.config.incremental
            await self._take_sample()
            sampled = sniff([b"\n".join(page.lines) for _, page in self._sample])
            contract = self.contract or Schema(())
            names = {column.name for column in sampled}
            absent = [
                TextColumn(f.name, f.type, declared=True) for f in contract if f.name not in names
            ]
            if not sampled:
                check_rows(self._sample, self.config)
            if not sampled and not absent:
                raise ConfigError(
                    f"{public_url(self.config.url)} has no rows, so their columns are not known",
                    code="E0405",
                    step=self.context.step,
                    help="list the columns in 'schema'",
                )
            columns = with_learned([*with_contract(sampled, contract), *absent], self.learned)
            if incremental is not None:
                Cursor(incremental, columns, self.context.step)
            self._columns = columns
        return self._columns

    async def _take_sample(self) -> None:
        """Request the first pages. If a page after the first fails, the sample ends there: the
        reader requests it again, with the step's retries."""
        incremental = self.config.incremental
        since = None if incremental is None else first_value(incremental)
        # Later runs of an incremental source use other requests, so they do not read the pages of
        # the sample.
        # A page of nested rows is many requests.
        many = incremental is None and self.config.nested is None
        pages_max = _SAMPLE_PAGES if many else 1
        place: Place | None = first_place(self.config, since)
        self._sample, self._sampled_at = deque(), time.monotonic()
        client, rows = self._client(), 0
        try:
            while place is not None and len(self._sample) < pages_max and rows < _SAMPLE_ROWS:
                try:
                    page = await page_at(client, self.config, place, self.context.step)
                except DataFlareError:
                    if not self._sample:
                        raise
                    break
                self._sample.append((place, page))
                place, rows = page.following, rows + len(page.lines)
                if time.monotonic() - self._sampled_at > _SAMPLE_S:
                    break
        finally:
            await client.aclose()

    async def inspect(self) -> Mapping[str, str]:
        """For `check`: the server."""
        return {"server": urlsplit(self.config.url).netloc}
