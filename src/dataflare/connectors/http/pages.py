"""One page of an API: the request, and the rows of the answer.

Always true: rows are the texts of the answer's items, as they were written; a null item is not a
row; an answer without content (204) has no rows.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

import httpx
from msgspec import Struct

from dataflare.connectors.http.client import (
    HttpClient,
    excerpt,
    origin_of,
    other_server,
    public_url,
)
from dataflare.connectors.http.config import HttpSourceConfig
from dataflare.connectors.http.graphql import errors_in
from dataflare.connectors.http.json_path import parts_of, text_at
from dataflare.connectors.http.paging import BadPages, Place, ends_at, next_place, request_at
from dataflare.errors import DataError, SystemError_
from dataflare.formats.json_spans import items_apart
from dataflare.formats.json_values import BadJson, fields_of, list_items

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Page(Struct, frozen=True):
    """One answer. lines: its rows; numbers: the places of the rows among its items, from 1; following: the
    place of the next page, or None."""

    lines: Sequence[bytes]
    numbers: Sequence[int]
    following: Place | None = None

    @classmethod
    def of(cls, items: Sequence[bytes], following: Place | None) -> Page:
        rows = [(n, item) for n, item in enumerate(items, 1) if item != b"null"]
        return cls([item for _, item in rows], [n for n, _ in rows], following)


def name_of(config: HttpSourceConfig, place: Place) -> str:
    return f"page {place['number'] + 1} of {public_url(config.url)}"


async def fetched(client: HttpClient, config: HttpSourceConfig, place: Place, step: str) -> Page:
    """The page at a place. Raises SystemError_ and ConfigError, and DataError (E0503) if the answer
    is not a page."""
    name = name_of(config, place)
    answer = await _answer(client, config, place, step)
    if answer.status_code == 204 or ends_at(config, place, answer.status_code):
        return Page((), ())
    if answer.status_code >= 400:
        raise _refused(answer, name)
    content = _text(answer, name)
    if config.graphql is not None and (problem := errors_in(content)) is not None:
        raise DataError(
            f"{name}: the API answers with errors: {problem}",
            code="E0503",
            step=step,
            help="look at 'graphql', and whether the credentials may read all that it asks for",
        )
    try:
        try:
            items = _items(content, config, name)
        except BadJson as error:
            # One item may be broken, or nested too deep: the others are rows.
            apart = items_apart(content, parts_of(config.records or "$"))
            if apart is None:
                raise error from None
            items, content = apart
        return Page.of(items, next_place(config, place, answer, content, len(items)))
    except BadJson as error:
        kind = answer.headers.get("content-type", "no content type").partition(";")[0]
        raise DataError(
            f"{name} is {error}",
            code="E0503",
            notes=[f"it is {kind}, and begins: {excerpt(answer)[:80]}"],
            help="check whether 'url' is the address of the API, not of a web page",
        ) from error
    except BadPages as error:
        raise DataError(f"{name} {error}", code="E0503", help=error.help) from error


async def _answer(
    client: HttpClient, config: HttpSourceConfig, place: Place, step: str
) -> httpx.Response:
    request = request_at(config, place)
    is_private = bool(config.auth or config.headers or config.body)
    if is_private and origin_of(request.url) != origin_of(config.url):
        before = {**place, "number": place["number"] - 1}
        raise other_server(f"{name_of(config, before)} leads", request.url, step)
    if config.graphql is not None:
        question = config.graphql.body(request.params)
        return await client.ask("POST", request.url, json=question)
    if config.method == "POST":
        body = {**(config.body or {}), **request.params}
        return await client.ask("POST", request.url, json=body)
    return await client.ask("GET", request.url, params=request.params)


def _items(content: bytes, config: HttpSourceConfig, name: str) -> list[bytes]:
    """The texts of an answer's rows."""
    records = text_at(content, config.records or "$")
    if records == b"null":
        return []
    first = b"" if records is None else records[:1]
    if records is not None and first == b"[":
        return list_items(records)
    if records is not None and first == b"{" and config.records is not None:
        return list_items(b"[" + records + b"]")
    start = content.lstrip()[:1]
    if records is None and start and start not in b"{[":
        raise BadJson("not JSON")
    fields = fields_of(content) if start == b"{" else {}
    if records is not None and not fields:
        list_items(b"[" + records + b"]")  # raises BadJson with the problem
    keys = ", ".join(sorted(fields)[:12])
    raise DataError(
        f"{name} has {_kind(first)} at '{config.records or '$'}' where a list of rows was expected",
        code="E0503",
        notes=[f"its keys: {keys}"] if keys else [],
        help="set 'records' to where the rows are, such as $.items",
    )


def check_rows(pages: Sequence[tuple[Place, Page]], config: HttpSourceConfig) -> None:
    """Raises DataError (E0503) if pages have items and none of them is an object."""
    for place, page in pages:
        if page.lines and not any(line[:1] == b"{" for line in page.lines):
            shown_item = page.lines[0][:60].decode(errors="replace")
            raise DataError(
                f"{name_of(config, place)} has items that are not JSON objects: {shown_item}",
                code="E0503",
                help="set 'records' to where the answer has a list of objects",
            )


def _refused(answer: httpx.Response, name: str) -> SystemError_:
    text = excerpt(answer)
    return SystemError_(
        f"{name}: the server answered {answer.status_code} {answer.reason_phrase}".rstrip(),
        code="E0604" if answer.status_code in (404, 410) else "E0611",
        notes=[f"it says: {text}"] if text else [],
        help="look at 'url', 'method' and 'params'",
    )


def _text(answer: httpx.Response, name: str) -> bytes:
    """The answer's text as UTF-8, without a byte order mark."""
    data, charset = answer.content, answer.charset_encoding or "utf-8"
    if data.startswith(codecs.BOM_UTF8):
        return data[len(codecs.BOM_UTF8) :]
    if data.startswith(_UTF_16):
        charset = "utf-16"
    try:
        if codecs.lookup(charset).name in ("utf-8", "ascii"):
            return data
        return data.decode(charset).encode()
    except (LookupError, UnicodeError) as error:
        raise DataError(
            f"{name} cannot be read as {charset}, which its header Content-Type names",
            code="E0504",
            help="report it to the operator of the server: JSON is UTF-8",
        ) from error


def _kind(first: bytes) -> str:
    names: dict[bytes, Any] = {b"": "nothing", b"{": "a mapping", b'"': "a text"}
    names |= dict.fromkeys((b"t", b"f"), "a truth value")
    return str(names.get(first, "a number"))
