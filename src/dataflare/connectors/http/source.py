"""The `http` source: the pages of a JSON API, one after the other.

Always true: a page's rows come out whole, then its position says where the next page is; types are
found on the first page, and rows that do not fit them are bad rows with their place.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import orjson

from dataflare.connectors.http.client import HttpClient, excerpt, shown
from dataflare.connectors.http.config import HttpSourceConfig
from dataflare.connectors.http.incremental import Cursor, Unordered, first_asked
from dataflare.connectors.http.json_path import found_at
from dataflare.connectors.http.paging import Place, first_place, next_place, request_at
from dataflare.connectors.sql.incremental import State
from dataflare.errors import ConfigError, DataError, SystemError_
from dataflare.formats import ndjson_watch
from dataflare.formats.ndjson_read import NdjsonPlan, sniff
from dataflare.formats.ndjson_watch import with_learned
from dataflare.formats.text_types import TextColumn, with_contract
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import (
    Chunk,
    ChunkReader,
    EndOfSplit,
    NewFields,
    Replay,
    Salvaged,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsProjection,
)

_PAGES = "pages"


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
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def __init__(self, config: HttpSourceConfig, context: ConnectorContext) -> None:
        super().__init__(config, context)
        self._output: tuple[str, ...] | None = None
        self._columns: list[TextColumn] | None = None

    def capabilities(self) -> SourceCapabilities:
        if self.config.stable_pages:
            reason = "stable_pages says that a page asked for again has the same rows"
            return SourceCapabilities(replay=Replay.EXACT, replay_reason=reason, chunks=True)
        reason = "an API may answer otherwise when asked again; set stable_pages if it does not"
        return SourceCapabilities(replay=Replay.NONE, replay_reason=reason, chunks=True)

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
        if self.config.incremental is None:
            place = first_place(self.config) if position is None else position.value["next"]
            return PageReader(self._client(), self.config, plan, place, self.context.step)
        cursor = Cursor(self.config.incremental, columns, self.context.step)
        state = State.from_json(split.data["state"])
        window = cursor.window(state)
        if position is None:
            place = first_place(self.config, cursor.asked(state))
        else:
            place = position.value["next"]
            window.restore(position.value["window"], cursor.column)
        return PageReader(self._client(), self.config, plan, place, self.context.step,
                          (cursor, window))  # fmt: skip

    def _client(self) -> HttpClient:
        return HttpClient(self.config, self.context.step, sleep=self.sleep)

    async def _found(self) -> list[TextColumn]:
        """The columns of the first page, and those of the contract."""
        if self._columns is None:
            client = self._client()
            incremental = self.config.incremental
            since = None if incremental is None else first_asked(incremental)
            try:
                page = await fetched(client, self.config, first_place(self.config, since))
            finally:
                await client.aclose()
            found = sniff([page.lines])
            contract = self.contract or Schema(())
            known = {column.name for column in found}
            absent = [
                TextColumn(f.name, f.type, declared=True) for f in contract if f.name not in known
            ]
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

    async def inspect(self) -> Mapping[str, str]:
        """For `check`: which server it is."""
        return {"server": urlsplit(self.config.url).netloc}


class Page:
    """One answer. following: the place of the next page, or None."""

    __slots__ = ("following", "records")

    def __init__(self, records: Sequence[Any], following: Place | None) -> None:
        self.records, self.following = records, following

    @property
    def lines(self) -> bytes:
        """Its rows as NDJSON."""
        return ndjson(self.records)


def ndjson(records: Sequence[Any]) -> bytes:
    return b"\n".join(orjson.dumps(record) for record in records)


async def fetched(client: HttpClient, config: HttpSourceConfig, place: Place) -> Page:
    """The page at a place. Raises SystemError_, ConfigError and, for what is no page, DataError
    (E0503)."""
    request = request_at(config, place)
    if config.method == "POST":
        body = {**(config.body or {}), **request.params}
        answer = await client.ask("POST", request.url, json=body)
    else:
        answer = await client.ask("GET", request.url, params=request.params)
    name = f"page {place['number'] + 1} of {shown(config.url)}"
    if answer.status_code >= 400:
        raise _refused(answer, name)
    content = _json(answer, name)
    records = found_at(content, config.records or "$")
    if isinstance(records, dict) and config.records is not None:
        records = [records]
    if not isinstance(records, list):
        found = "nothing" if records is None else f"a {_kind(records)}"
        keys = ", ".join(sorted(content)[:12]) if isinstance(content, dict) else ""
        raise DataError(
            f"{name} has {found} at '{config.records or '$'}' where a list of rows was expected",
            code="E0503",
            notes=[f"its keys: {keys}"] if keys else [],
            help="set 'records' to where the rows are, such as $.items",
        )
    return Page(records, next_place(config, place, answer, content, len(records)))


def _refused(answer: httpx.Response, name: str) -> SystemError_:
    said = excerpt(answer)
    return SystemError_(
        f"{name}: the server answered {answer.status_code} {answer.reason_phrase}".rstrip(),
        code="E0604" if answer.status_code in (404, 410) else "E0611",
        notes=[f"it says: {said}"] if said else [],
        help="look at 'url', 'method' and 'params'",
    )


def _json(answer: httpx.Response, name: str) -> Any:
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError as error:
        kind = answer.headers.get("content-type", "no content type").partition(";")[0]
        raise DataError(
            f"{name} is not valid JSON: {error.msg} at character {error.pos + 1}",
            code="E0503",
            notes=[f"it is {kind}, and begins: {excerpt(answer)[:80]}"],
            help="see whether 'url' is the address of the API, not of a page for people",
        ) from error


def _kind(value: Any) -> str:
    names = {dict: "mapping", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)


class PageReader(ChunkReader):
    """Asks for one page ahead of what was let out. incremental: what tells new rows."""

    resumes = True

    def __init__(
        self, client: HttpClient, config: HttpSourceConfig, plan: NdjsonPlan, place: Place | None,
        step: str, incremental: tuple[Cursor, Unordered] | None = None,
    ) -> None:  # fmt: skip
        self._client, self._config, self._plan, self._step = client, config, plan, step
        self._place, self._incremental = place, incremental

    def position(self) -> Position:
        if self._incremental is None:
            return Position({"next": self._place})
        cursor, window = self._incremental
        type_ = str(cursor.column.type)
        return Position({"next": self._place, "window": window.to_json(), "type": type_})

    async def read_chunk(self) -> Chunk:
        while self._place is not None:
            place = self._place
            page = await fetched(self._client, self._config, place)
            if page.following == place:
                raise DataError(
                    f"page {place['number'] + 1} of {shown(self._config.url)} is followed by itself",
                    code="E0503",
                    step=self._step,
                    help="see 'pagination': the server must name another page, or none at the end",
                )
            self._place = page.following
            rows = list(range(len(page.records)))
            if self._incremental is not None:
                cursor, window = self._incremental
                rows = await asyncio.to_thread(cursor.new_rows, page.records, window)
            # The last page is let out also when it is empty: it has the position of the end.
            if rows or (self._incremental is not None and self._place is None):
                return self._chunk(page, rows, place["number"])
        raise EndOfSplit

    def _chunk(self, page: Page, rows: Sequence[int], number: int) -> Chunk:
        """The rows of a page that are to be given."""
        plan, lines = self._plan, ndjson([page.records[row] for row in rows])

        def place_of(row: int) -> str:
            return f"{shown(self._config.url)} page {number + 1} row {rows[row] + 1}"

        def salvage() -> Salvaged:
            found = plan.salvage(lines, place_of)
            return Salvaged(found.good, found.good_rows, found.bad)

        def new_fields() -> NewFields | None:
            return ndjson_watch.new_fields(plan.columns, lines)

        return Chunk(
            scan=lambda: plan.scan(lines),
            position=self.position(),
            key=number,
            num_bytes=len(lines),
            rows=len(rows),
            salvage=salvage,
            place=place_of,
            new_fields=new_fields,
            watched=lambda: (plan.scan(lines), new_fields()),
        )

    async def aclose(self) -> None:
        await self._client.aclose()
