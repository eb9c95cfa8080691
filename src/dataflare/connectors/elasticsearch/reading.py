"""Read the slices of a split, page by page, and turn their documents into lines of JSON.

Always true: the position of a chunk has the place behind it and the point in time, so that a resumed run reads the same
documents; a document's own fields come before those that were asked for as metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from dataflare.connectors.elasticsearch.client import Client
from dataflare.connectors.elasticsearch.point_in_time import Hit, Points, Slice
from dataflare.connectors.elasticsearch.source_config import ElasticsearchSourceConfig
from dataflare.formats.ndjson_read import NdjsonPlan
from dataflare.model.progress import Position
from dataflare.sdk.json_pages import Cursor, Unordered, page_chunk
from dataflare.sdk.source import Chunk, ChunkReader, EndOfSplit
from dataflare.sdk.threads import in_thread


class SliceReader(ChunkReader):
    """parts: the slices, one after the other. at: the first that is not read to its end, and the place in it.
    incremental: finds the new rows."""

    resumes = True

    def __init__(
        self,
        client: Client,
        points: Points,
        config: ElasticsearchSourceConfig,
        plan: NdjsonPlan,
        parts: Sequence[Slice],
        place: Mapping[str, Any],
        request: Mapping[str, Any],
        incremental: tuple[Cursor, Unordered] | None = None,
    ) -> None:
        self._client, self._points, self._config, self._plan = client, points, config, plan
        self._parts, self._request, self._incremental = parts, request, incremental
        self._place = dict(place)

    def position(self) -> Position:
        place = dict(self._place)
        if self._incremental is not None:
            cursor, window = self._incremental
            place |= cursor.saved(window)
        return Position(place)

    async def read_chunk(self) -> Chunk:
        while self._place["part"] < len(self._parts):
            part = self._parts[self._place["part"]]
            hits, point = await self._points.page(
                self._place["point"], part, self._place["after"], self._request
            )
            first = self._place["rows"]
            if len(hits) < self._config.batch_size:
                self._place |= {"part": self._place["part"] + 1, "after": None}
            else:
                self._place["after"] = list(hits[-1].sort)
            self._place |= {"point": point, "rows": first + len(hits)}
            lines = await in_thread(lines_of, hits, self._config.metadata)
            rows = list(range(len(lines)))
            is_last = self._place["part"] == len(self._parts)
            if self._incremental is not None:
                cursor, window = self._incremental
                rows = await in_thread(cursor.new_rows, lines, window)
            # The last page is returned even if it is empty: it has the position of the end.
            if rows or is_last:
                return self._chunk(hits, lines, rows, first)
        raise EndOfSplit

    def _chunk(
        self, hits: Sequence[Hit], lines: Sequence[bytes], rows: Sequence[int], first: int
    ) -> Chunk:
        """The new rows of a page, as a chunk."""

        def place_of(row: int) -> str:
            hit = hits[rows[row]]
            return f"{hit.index} _id {hit.id}"

        text = b"\n".join(lines[row] for row in rows)
        return page_chunk(self._plan, text, len(rows), place_of, self.position(), first)

    async def aclose(self) -> None:
        await self._client.aclose()


def lines_of(hits: Sequence[Hit], metadata: Sequence[str]) -> list[bytes]:
    """Each document on a line. metadata: what is added to it."""
    sources = [b"%b" % hit.source for hit in hits]
    # A document may have been sent in several lines; inside a text a line feed is escaped.
    lines = [s.replace(b"\n", b" ").replace(b"\r", b" ").strip() for s in sources]
    if not metadata:
        return lines
    return [_with(line, hit, metadata) for line, hit in zip(lines, hits, strict=True)]


def _with(line: bytes, hit: Hit, metadata: Sequence[str]) -> bytes:
    added = orjson.dumps({f"_{name}": getattr(hit, name) for name in metadata})
    return added if line == b"{}" else line[:-1].rstrip() + b"," + added[1:]
