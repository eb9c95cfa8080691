"""Read the pages of an API, one page ahead of the rows returned.

Always true: no page is read twice: if the next page is an earlier one, that is an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from dataflare.connectors.http.client import HttpClient, public_url
from dataflare.connectors.http.config import HttpSourceConfig
from dataflare.connectors.http.nested import page_at
from dataflare.connectors.http.pages import Page, name_of
from dataflare.connectors.http.paging import Place, mark_of
from dataflare.errors import DataError
from dataflare.formats.ndjson_read import NdjsonPlan
from dataflare.model.progress import Position
from dataflare.sdk.json_pages import Cursor, Unordered, page_chunk
from dataflare.sdk.source import Chunk, ChunkReader, EndOfSplit
from dataflare.sdk.threads import in_thread

_SAME_PAGES_MAX = 10
"""After this many equal pages in a row, the server is assumed to ignore the parameter of the
page."""


class PageReader(ChunkReader):
    """sample: pages that were read already, from the first on. incremental: finds the new rows."""

    resumes = True

    def __init__(
        self,
        client: HttpClient,
        config: HttpSourceConfig,
        plan: NdjsonPlan,
        place: Place | None,
        step: str,
        sample: deque[tuple[Place, Page]],
        incremental: tuple[Cursor, Unordered] | None = None,
    ) -> None:
        self._client, self._config, self._plan, self._step = client, config, plan, step
        self._place, self._sample, self._incremental = place, sample, incremental
        self._pages_by_mark: dict[Any, int] = {}
        self._last_rows, self._same_pages = 0, 0

    def position(self) -> Position:
        if self._incremental is None:
            return Position({"next": self._place})
        cursor, window = self._incremental
        return Position({"next": self._place, **cursor.saved(window)})

    async def read_chunk(self) -> Chunk:
        while self._place is not None:
            place = self._place
            page = await self._page(place)
            self._check_circle(place, page)
            self._place = page.following
            rows = list(range(len(page.lines)))
            if self._incremental is not None:
                cursor, window = self._incremental
                rows = await in_thread(cursor.new_rows, page.lines, window)
            # The last page is returned even if it is empty: it has the position of the end.
            if rows or (self._incremental is not None and self._place is None):
                return self._chunk(page, rows, place["number"])
        raise EndOfSplit

    async def _page(self, place: Place) -> Page:
        if self._sample and self._sample[0][0] == place:
            return self._sample.popleft()[1]
        self._sample.clear()
        return await page_at(self._client, self._config, place, self._step)

    def _check_circle(self, place: Place, page: Page) -> None:
        """Raises DataError (E0503) if the next page was read before, or if numbered pages are all
        the same."""
        if page.following is None:
            return
        number = place["number"] + 1
        self._pages_by_mark.setdefault(hash(str(mark_of(place))), number)
        earlier = self._pages_by_mark.get(hash(str(mark_of(page.following))))
        rows = hash(tuple(page.lines))
        self._same_pages = self._same_pages + 1 if rows == self._last_rows else 1
        self._last_rows = rows
        if earlier == number:
            problem = "is followed by itself"
        elif earlier is not None:
            problem = f"is followed by page {earlier} again"
        elif self._same_pages == _SAME_PAGES_MAX and "url" not in place:
            problem = f"has the same rows as the {_SAME_PAGES_MAX - 1} pages before it"
        else:
            return
        raise DataError(
            f"{name_of(self._config, place)} {problem}",
            code="E0503",
            step=self._step,
            help="check 'pagination': 'param' must be the server's parameter for the page, and "
            "the answer must name another page, or none at the end",
        )

    def _chunk(self, page: Page, rows: Sequence[int], number: int) -> Chunk:
        """The new rows of a page, as a chunk."""

        kind = "row" if self._config.nested is None else "nested row"

        def place_of(row: int) -> str:
            return (
                f"{public_url(self._config.url)} page {number + 1} {kind} {page.numbers[rows[row]]}"
            )

        lines = b"\n".join(page.lines[row] for row in rows)
        chunk = page_chunk(self._plan, lines, len(rows), place_of, self.position(), number)
        return replace(chunk, parents=self._client.requests.taken())

    async def aclose(self) -> None:
        await self._client.aclose()
