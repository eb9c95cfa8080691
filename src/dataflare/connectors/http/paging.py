"""Compute the next request from an answer.

Always true: a place has all that the next request needs, as JSON; the next request is a function of
only the place and the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

import httpx
from msgspec import Struct

from dataflare.connectors.http.config import HttpSourceConfig, Pagination
from dataflare.connectors.http.json_path import text_at
from dataflare.connectors.http.link_header import next_url
from dataflare.formats.json_values import decode

Place = Mapping[str, Any]
"""number: of earlier pages. at (page, offset or cursor) or url: of the page, if the paging has it.
since: the value of the incremental parameter, if there is one. rows: of earlier pages, if a total
is expected. short: the page before had fewer rows than requested."""


class Request(Struct, frozen=True):
    """url, and the parameters that are not in the config."""

    url: str
    params: Mapping[str, Any]


def first_place(config: HttpSourceConfig, since: str | None = None) -> Place:
    """The first place. since: the value of the incremental parameter."""
    place: dict[str, Any] = {"number": 0}
    match config.pagination:
        case Pagination(type="page", start=start):
            place["at"] = 1 if start is None else start
        case Pagination(type="offset", start=start):
            place["at"] = start or 0
    return place if since is None else {**place, "since": since}


def request_at(config: HttpSourceConfig, place: Place) -> Request:
    """The request for a place."""
    pages = config.pagination
    if "url" in place:
        return Request(place["url"], {})
    params: dict[str, Any] = dict(config.params)
    if config.incremental is not None and "since" in place:
        params[config.incremental.param] = place["since"]
    if pages is not None:
        if "at" in place:
            params[pages.param or ("page" if pages.type == "header" else pages.type)] = place["at"]
        if pages.size_param is not None:
            params[pages.size_param] = pages.size
    return Request(config.url, params)


def next_place(
    config: HttpSourceConfig, place: Place, answer: httpx.Response, content: bytes, rows: int
) -> Place | None:
    """The place of the next page; None after the last. content: the answer's JSON text; rows: the
    number of its items. Raises BadPages if the answer lacks a field that the config names."""
    place_after = _following(config, place, answer, content, rows)
    return (
        place_after
        if place_after is None or "since" not in place
        else {**place_after, "since": place["since"]}
    )


class BadPages(Exception):
    """The pages contradict the config. help: what the user can do."""

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.help = help


def ends_at(config: HttpSourceConfig, place: Place, status: int) -> bool:
    """Whether a refusal with this status only means that there are no more pages."""
    pages = config.pagination
    if pages is None or pages.type not in ("page", "offset") or not place["number"]:
        return False
    return status in (404, 410) or (bool(place.get("short")) and status in (400, 416, 422))


def mark_of(place: Place) -> Any:
    """The mark that identifies a page."""
    return place.get("url", place.get("at"))


def _following(
    config: HttpSourceConfig, place: Place, answer: httpx.Response, content: bytes, rows: int
) -> Place | None:
    pages, number = config.pagination, place["number"] + 1
    if pages is None or (pages.max_pages is not None and number >= pages.max_pages):
        return None
    if pages.type in ("page", "offset"):
        return _counted(pages, place, content, rows)
    if pages.type == "link":
        url = next_url(answer.headers.get_list("link"), str(answer.url))
        return None if url is None else {"number": number, "url": url}
    if pages.type == "header":
        mark = answer.headers.get(pages.name or "", "").strip()
        return {"number": number, "at": mark} if mark else None
    if pages.more is not None:
        more = text_at(content, pages.more)
        if more is None or more not in (b"true", b"false"):
            raise BadPages(
                f"has neither true nor false at '{pages.more}', where 'pagination' expects whether more follows",
                "set its 'more' to where the answer says whether there is a next page",
            )
        if more == b"false":
            return None
    assert pages.path is not None
    text = text_at(content, pages.path)
    if text is None and number == 1 and rows and pages.absent == "error":
        raise BadPages(
            f"has nothing at '{pages.path}', where 'pagination' expects the next page",
            "set its 'path' to where the answer names the next page, or, if the API leaves that "
            "out on the last page, 'absent: end'",
        )
    following = None if text is None else decode(text)
    if following is None or following == "" or following is False:
        return None
    if pages.type == "next_url":
        return {"number": number, "url": urljoin(str(answer.url), str(following))}
    return {"number": number, "at": following}


def _counted(pages: Pagination, place: Place, content: bytes, rows: int) -> Place | None:
    """The next page by number or offset. A short page is not the last: a server may return fewer
    rows than requested."""
    rows_read = place.get("rows", 0) + rows
    total = None
    if pages.total is not None:
        text = text_at(content, pages.total)
        total = None if text is None else decode(text)
        if type(total) is not int:
            raise BadPages(
                f"has no whole number at '{pages.total}', where 'pagination' expects the total",
                "set 'total' to where the answer has the number of all rows",
            )
    if rows == 0:
        if total is not None and rows_read < total:
            raise BadPages(
                f"is empty after {rows_read} rows, and says that there are {total}",
                "check 'pagination': a parameter may have another name, or 'total' may count more",
            )
        return None
    if total is not None and rows_read >= total:
        return None
    following: dict[str, Any] = {
        "number": place["number"] + 1,
        "at": place["at"] + (rows if pages.type == "offset" else 1),
    }
    if pages.total is not None:
        following["rows"] = rows_read
    if pages.size is not None and rows < pages.size:
        following["short"] = True
    return following
