"""The rows that belong to the rows of a page: a request for each of these.

Always true: nested rows come in the order of the outer rows, and of the answers; each has the fields of its outer row that
`columns` names; no page is read twice.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from dataflare.connectors.http.client import HttpClient, public_url
from dataflare.connectors.http.config import PLACEHOLDER, HttpSourceConfig, Nested
from dataflare.connectors.http.json_path import text_at
from dataflare.connectors.http.pages import Page, fetched, name_of
from dataflare.connectors.http.paging import Place, first_place, mark_of
from dataflare.errors import DataError, SystemError_
from dataflare.formats.json_values import BadJson, decode, fields_of

_GONE = "E0604"
"""The code of an answer 404 or 410."""


async def page_at(client: HttpClient, config: HttpSourceConfig, place: Place, step: str) -> Page:
    """The page at a place, or the nested rows of its rows. Raises what `fetched` raises."""
    page = await fetched(client, config, place, step)
    if config.nested is None:
        return page
    lines: list[bytes] = []
    for number, row in zip(page.numbers, page.lines, strict=True):
        asking = _Asking(config, config.nested, f"{name_of(config, place)} row {number}", step)
        lines += await asking.rows(client, row)
    return Page(lines, range(1, len(lines) + 1), page.following)


class _Asking:
    """For one outer row. name: of that row, to show."""

    def __init__(self, config: HttpSourceConfig, nested: Nested, name: str, step: str) -> None:
        self._config, self._nested, self._name, self._step = config, nested, name, step

    async def rows(self, client: HttpClient, row: bytes) -> list[bytes]:
        config = self._config.model_copy(
            update={
                "url": PLACEHOLDER.sub(lambda found: self._text(row, found[1]), self._nested.url),
                "params": self._nested.params,
                "records": self._nested.records,
                "pagination": self._nested.pagination,
                "method": "GET",
                **dict.fromkeys(("body", "graphql", "incremental", "nested")),
            }
        )
        added = self._added(row)
        place: Place | None = first_place(config)
        lines: list[bytes] = []
        marks: set[str] = set()
        while place is not None:
            try:
                page = await fetched(client, config, place, self._step)
            except SystemError_ as error:
                if error.code == _GONE and self._nested.absent == "skip":
                    return []
                raise
            lines += [self._with(added, line, config.url) for line in page.lines]
            marks.add(str(mark_of(place)))
            if page.following is not None and str(mark_of(page.following)) in marks:
                raise self._error(
                    f"{name_of(config, place)} is followed by a page that was read before",
                    "check 'pagination' of 'nested'",
                )
            place = page.following
        return lines

    def _value(self, row: bytes, field: str) -> bytes | None:
        try:
            return text_at(row, f"$.{field}")
        except BadJson:
            return None

    def _text(self, row: bytes, field: str) -> str:
        text = self._value(row, field)
        value: Any = None if text is None else decode(text)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self._error(
                f"{self._name} has {_shown(text)} in '{field}', where the url of 'nested' needs a text or a whole number",
                "look at the url of 'nested', and at what the API answers",
            )
        return quote(str(value), safe="")

    def _added(self, row: bytes) -> dict[str, bytes]:
        """The texts of the columns of the outer row."""
        return {
            column: self._value(row, field) or b"null"
            for column, field in self._nested.columns.items()
        }

    def _with(self, added: dict[str, bytes], line: bytes, url: str) -> bytes:
        """A nested row with these columns before its own. Raises DataError where it has one of them itself."""
        if not added or line[:1] != b"{":
            return line
        own = fields_of(line)
        twice = next((name for name in added if name in own), None)
        if twice is not None:
            raise self._error(
                f"the rows of {public_url(url)} have a field '{twice}' themselves",
                "give the column another name in 'nested': columns",
            )
        texts = [orjson.dumps(name) + b":" + text for name, text in added.items()]
        rest = line[1:].strip()
        return b"{" + b",".join(texts) + (rest if rest == b"}" else b"," + rest)

    def _error(self, message: str, help: str) -> DataError:
        return DataError(message, code="E0503", step=self._step, help=help)


def _shown(text: bytes | None) -> str:
    return "nothing" if text is None else text[:60].decode(errors="replace")
