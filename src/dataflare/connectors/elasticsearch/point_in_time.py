"""A point in time: what an index was when a run began to read it, as pages of documents.

Always true: a page has all of its documents, or is an error; the documents of a slice come in one order, so a page that
is requested again is the same page. Elasticsearch and OpenSearch differ here only in the names of the requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from dataflare.connectors.elasticsearch.client import Client
from dataflare.connectors.elasticsearch.indexes import path_of
from dataflare.errors import CheckpointError

OPENSEARCH = "opensearch"
_GONE = ("search_context_missing_exception", "No search context found")


class Slice(Struct, frozen=True):
    """A part of an index: number `id` of `of`. It lies in one shard, where each document has a number of its own."""

    index: str
    id: int
    of: int


class Hit(Struct, frozen=True):
    """A document. source: its text. sort: its place in the order of its slice."""

    id: str = msgspec.field(name="_id")
    index: str = msgspec.field(name="_index")
    sort: Sequence[Any] = ()
    source: msgspec.Raw = msgspec.field(name="_source", default=msgspec.Raw(b"{}"))
    routing: str | None = msgspec.field(name="_routing", default=None)
    version: int | None = msgspec.field(name="_version", default=None)
    seq_no: int | None = msgspec.field(name="_seq_no", default=None)
    primary_term: int | None = msgspec.field(name="_primary_term", default=None)


class _Shards(Struct, frozen=True):
    failed: int = 0


class _Hits(Struct, frozen=True):
    hits: Sequence[Hit]


class _Page(Struct, frozen=True):
    hits: _Hits
    timed_out: bool
    shards: _Shards = msgspec.field(name="_shards")
    pit_id: str | None = None


_DECODER = msgspec.json.Decoder(_Page)


class Points:
    """The requests about points in time. kind: of the server, as `Client.server` tells it."""

    def __init__(self, client: Client, kind: str, keep_alive_s: float) -> None:
        self._client, self._is_opensearch = client, kind == OPENSEARCH
        self._keep_alive = f"{max(1, round(keep_alive_s))}s"

    async def open(self, indexes: Sequence[str]) -> str:
        """A new one, of these indexes as they are now. Raises SystemError_."""
        end = "_search/point_in_time" if self._is_opensearch else "_pit"
        names = ",".join(map(path_of, indexes))
        answer = await self._client.ask(
            "POST", f"/{names}/{end}", params={"keep_alive": self._keep_alive},
            doing="keep a point in time",
        )  # fmt: skip
        try:
            return str(answer.data["pit_id" if self._is_opensearch else "id"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._client.strange("read a point in time") from error

    async def close(self, point: str) -> None:
        """Let the server forget it; it may have done so."""
        if self._is_opensearch:
            path, body = "/_search/point_in_time", {"pit_id": [point]}
        else:
            path, body = "/_pit", {"id": point}  # type: ignore[dict-item]
        await self._client.ask("DELETE", path, json=body, fine=(403, 404), doing="forget")

    async def page(
        self,
        point: str,
        part: Slice,
        after: Sequence[Any] | None,
        request: Mapping[str, Any],
    ) -> tuple[Sequence[Hit], str]:
        """The next documents of a slice, and the point in time to ask with from now on. request: the rest of it. Raises
        CheckpointError (E0703) if the server has forgotten it."""
        query = {"bool": {"filter": [{"term": {"_index": part.index}}, request["query"]]}}
        body: dict[str, Any] = {
            **request,
            "query": query,
            "pit": {"id": point, "keep_alive": self._keep_alive},
            "sort": ["_doc"],
            "track_total_hits": False,
        }
        if part.of > 1:
            body["slice"] = {"id": part.id, "max": part.of}
        if after is not None:
            body["search_after"] = [*after]
        answer = await self._client.ask(
            "POST", "/_search", params={"allow_partial_search_results": "false"}, json=body,
            fine=(404, 500, 503), doing="a search",
        )  # fmt: skip
        if answer.status >= 300:
            if any(text.encode() in answer.content for text in _GONE):
                raise self._gone(part.index)
            raise self._client.refusal(answer, "a search")
        try:
            page = _DECODER.decode(answer.content)
        except msgspec.MsgspecError as error:
            raise self._client.strange("read documents") from error
        if page.timed_out or page.shards.failed:
            raise self._client.failed(
                503, "", f"{self._client.shown} gave only a part of the documents", ()
            )
        return page.hits.hits, page.pit_id or point

    async def sample(self, indexes: Sequence[str], request: Mapping[str, Any]) -> Sequence[Hit]:
        """Some documents as they are now, without a point in time."""
        names = ",".join(map(path_of, indexes))
        answer = await self._client.ask(
            "POST", f"/{names}/_search", params={"allow_partial_search_results": "false"},
            json={**request, "track_total_hits": False}, doing="a search",
        )  # fmt: skip
        try:
            return _DECODER.decode(answer.content).hits.hits
        except msgspec.MsgspecError as error:
            raise self._client.strange("read documents") from error

    def _gone(self, index: str) -> CheckpointError:
        return CheckpointError(
            f"{self._client.shown} no longer has the point in time of '{index}' that this run reads",
            code="E0703",
            step=self._client.step,
            help="it was not asked for longer than 'keep_alive', or a server was restarted: --fresh reads from the "
            "beginning; a greater 'keep_alive' makes this less likely",
        )
