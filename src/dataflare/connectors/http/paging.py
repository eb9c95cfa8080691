"""Which request follows an answer.

Always true: a place says all that the next request needs, as JSON; the request after an answer is a
function of its place and the answer alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

import httpx
from msgspec import Struct

from dataflare.connectors.http.config import HttpSourceConfig, Pagination
from dataflare.connectors.http.json_path import found_at

Place = Mapping[str, Any]
"""number: the pages before; and `at` (page, offset or cursor) or `url`, where paging has them.
since: the value of the incremental parameter, where there is one."""


class Request(Struct, frozen=True):
    """url, and the parameters beside those of the config."""

    url: str
    params: Mapping[str, Any]


def first_place(config: HttpSourceConfig, since: str | None = None) -> Place:
    """Where reading begins. since: the value of the incremental parameter."""
    place: dict[str, Any] = {"number": 0}
    match config.pagination:
        case Pagination(type="page", start=start):
            place["at"] = 1 if start is None else start
        case Pagination(type="offset", start=start):
            place["at"] = start or 0
    return place if since is None else {**place, "since": since}


def request_at(config: HttpSourceConfig, place: Place) -> Request:
    """What to ask for."""
    pages = config.pagination
    if "url" in place:
        return Request(place["url"], {})
    params: dict[str, Any] = dict(config.params)
    if config.incremental is not None and "since" in place:
        params[config.incremental.param] = place["since"]
    if pages is not None:
        if "at" in place:
            params[pages.param or pages.type] = place["at"]
        if pages.size_param is not None:
            params[pages.size_param] = pages.size
    return Request(config.url, params)


def next_place(
    config: HttpSourceConfig, place: Place, answer: httpx.Response, content: Any, rows: int
) -> Place | None:
    """Where the next page is; None after the last."""
    found = _following(config, place, answer, content, rows)
    return found if found is None or "since" not in place else {**found, "since": place["since"]}


def _following(
    config: HttpSourceConfig, place: Place, answer: httpx.Response, content: Any, rows: int
) -> Place | None:
    pages, number = config.pagination, place["number"] + 1
    if pages is None or (pages.max_pages is not None and number >= pages.max_pages):
        return None
    if pages.type in ("page", "offset"):
        if rows == 0 or (pages.size is not None and rows < pages.size):
            return None
        return {"number": number, "at": place["at"] + (rows if pages.type == "offset" else 1)}
    if pages.type == "link":
        url = answer.links.get("next", {}).get("url")
        return {"number": number, "url": urljoin(str(answer.url), url)} if url else None
    assert pages.path is not None
    following = found_at(content, pages.path)
    if following is None or following == "" or following is False:
        return None
    if pages.type == "next_url":
        return {"number": number, "url": urljoin(str(answer.url), str(following))}
    return {"number": number, "at": following}
