"""The `http` source: the pages of a JSON API, one after the other.

Always true: a page's rows come out whole, then its position says where the next page is; types are
found on the first pages, which are not asked for again, and rows that do not fit them are bad rows with
their place.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from dataflare.connectors.http.client import HttpClient, shown
from dataflare.connectors.http.config import HttpSourceConfig
from dataflare.connectors.http.incremental import Cursor, first_asked
from dataflare.connectors.http.page_reader import PageReader
from dataflare.connectors.http.pages import Page, check_rows, fetched
from dataflare.connectors.http.paging import Place, first_place
from dataflare.connectors.sql.incremental import State
from dataflare.errors import ConfigError, DataError, DataFlareError
from dataflare.formats.ndjson_read import NdjsonPlan, sniff
from dataflare.formats.ndjson_watch import with_learned
from dataflare.formats.text_types import TextColumn, with_contract
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import (
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsProjection,
)

_PAGES = "pages"
_SAMPLE_PAGES, _SAMPLE_ROWS, _SAMPLE_S = 3, 10_000, 5.0
"""Types are found on at most so many pages; no other one is asked for after so many rows or seconds."""
_FRESH_S = 60.0
"""Pages of the sample that are older are asked for again."""


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
            reason = "stable_pages says that a page asked for again has the same rows"
            return SourceCapabilities(replay=Replay.EXACT, replay_reason=reason, chunks=True)
        reason = "an API may answer otherwise when asked again; set stable_pages if it does not"
        return SourceCapabilities(replay=Replay.NONE, replay_reason=reason, chunks=True)

    def reads_all(self) -> bool:
        return self.config.incremental is None and (
            self.config.pagination is None or self.config.pagination.max_pages is None
        )

    def with_columns(self, columns: Sequence[str]) -> Self:
        made = copy.copy(self)
        made._output = tuple(columns)
        return made

    async def schema(self) -> Schema:
        columns = {column.name: column.type for column in await self._found()}
        names = columns if self._output is None else self._output
        return Schema.of([(name, columns[name]) for name in names])

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        data: dict[str, Any] = {"columns": [c.to_json() for c in await self._found()]}
        if self.config.incremental is not None:
            data["state"] = carried if carried is not None else State().to_json()
            columns = {column.name: column for column in await self._found()}
            found, before = columns[self.config.incremental.column].type, data["state"].get("type")
            if before is not None and before != str(found):
                raise DataError(
                    f"column '{self.config.incremental.column}' is {found} in what the API answers "
                    f"now, and was {before} in the run before",
                    code="E0508",
                    step=self.context.step,
                    help=f"say its type in 'schema': {{{self.config.incremental.column}: "
                    f'"{before}"}}',
                )
        return [Split(_PAGES, data)]

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        found = positions.get(_PAGES)
        if found is None or "window" not in found.value:
            return None
        state = State.from_json(found.value["window"]["state"]).finished()
        return {**state.to_json(), "type": found.value["type"]}

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
                place = first_place(self.config, cursor.asked(state))
            else:
                place = position.value["next"]
                window.restore(position.value["window"], cursor.column)
        return PageReader(
            self._client(), self.config, plan, place, self.context.step, self._pages(), incremental
        )

    def _client(self) -> HttpClient:
        return HttpClient(self.config, self.context.step, sleep=self.sleep)

    def _pages(self) -> deque[tuple[Place, Page]]:
        """The pages of the sample, for the first reader that is opened while they are fresh."""
        if time.monotonic() - self._sampled_at > _FRESH_S:
            self._sample.clear()
        return self._sample

    async def _found(self) -> list[TextColumn]:
        """The columns of the first pages, and those of the contract."""
        if self._columns is None:
            incremental = self.config.incremental
            await self._take_sample()
            found = sniff([b"\n".join(page.lines) for _, page in self._sample])
            contract = self.contract or Schema(())
            known = {column.name for column in found}
            absent = [
                TextColumn(f.name, f.type, declared=True) for f in contract if f.name not in known
            ]
            if not found:
                check_rows(self._sample, self.config)
            if not found and not absent:
                raise ConfigError(
                    f"{shown(self.config.url)} has no rows, so their columns are not known",
                    code="E0405",
                    step=self.context.step,
                    help="say the columns in 'schema'",
                )
            columns = with_learned([*with_contract(found, contract), *absent], self.learned)
            if incremental is not None:
                Cursor(incremental, columns, self.context.step)
            self._columns = columns
        return self._columns

    async def _take_sample(self) -> None:
        """Ask for the first pages. A page after the first that fails ends the sample: its reader asks
        for it again, as often as the step says."""
        incremental = self.config.incremental
        since = None if incremental is None else first_asked(incremental)
        # Later runs of an incremental source ask otherwise: what they sample they do not read.
        pages_max = _SAMPLE_PAGES if incremental is None else 1
        place: Place | None = first_place(self.config, since)
        self._sample, self._sampled_at = deque(), time.monotonic()
        client, rows = self._client(), 0
        try:
            while place is not None and len(self._sample) < pages_max and rows < _SAMPLE_ROWS:
                try:
                    page = await fetched(client, self.config, place, self.context.step)
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
        """For `check`: which server it is."""
        return {"server": urlsplit(self.config.url).netloc}
