"""The options of an HTTP API."""

from __future__ import annotations

from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.connectors.http.incremental import HttpIncremental
from dataflare.connectors.http.json_path import JsonPath
from dataflare.model.units import Duration, Rate


class Auth(BaseModel):
    """The credentials of requests."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    type: Literal["bearer", "basic", "header", "query"] = Field(
        description="bearer: a token; basic: a name and password; header, query: a key under a name"
    )
    token: str | None = Field(None, min_length=1, repr=False, description="for bearer")
    username: str | None = Field(None, description="for basic")
    password: str | None = Field(None, repr=False, description="for basic")
    name: str | None = Field(None, min_length=1, description="for header and query: its name")
    value: str | None = Field(None, min_length=1, repr=False, description="for header and query")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        required = {"bearer": ("token",), "basic": ("username", "password")}.get(
            self.type, ("name", "value")
        )
        options = [
            n for n in ("token", "username", "password", "name", "value") if getattr(self, n)
        ]
        missing = [n for n in required if getattr(self, n) is None]
        if missing:
            raise ValueError(f"auth of type {self.type} needs '{missing[0]}'")
        strange = [name for name in options if name not in required]
        if strange:
            raise ValueError(f"auth of type {self.type} takes no '{strange[0]}'")
        return self


class HttpConfig(BaseModel):
    """How to reach the server; the same for sources and destinations."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str = Field(description="http://... or https://...")
    headers: dict[str, str] = Field(
        default_factory=dict, repr=False, description="sent with each request"
    )
    auth: Auth | None = Field(None, description="who asks")
    timeout: Duration = Field(30.0, gt=0, description="how long to wait for one answer")
    rate_limit: Rate | None = Field(None, description="the highest rate of requests, such as 10/s")

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://host/path or https://host/path")
        if parts.username or parts.password:
            raise ValueError("put name and password in 'auth', where they are not shown")
        return value


class Pagination(BaseModel):
    """How to request the next page."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["page", "offset", "cursor", "link", "next_url"] = Field(
        description="page: pages have numbers; offset: rows are skipped; cursor: an answer "
        "contains the mark of the next page; link: the header Link names it (rel=next); "
        "next_url: a field of the answer names it"
    )
    param: str | None = Field(
        None, description="the parameter for the page: by default page, offset or cursor"
    )
    size_param: str | None = Field(
        None, description="the parameter for the number of rows of a page; for page and offset"
    )
    size: int | None = Field(
        None,
        ge=1,
        description="rows to request in a page. A server may give fewer: reading ends at an "
        "empty page, or when `total` rows were read",
    )
    total: JsonPath | None = Field(
        None,
        description="where the answer has the number of all rows, such as $.total; for page and "
        "offset",
    )
    start: int | None = Field(
        None, ge=0, description="the first page (1) or offset (0), for page and offset"
    )
    path: JsonPath | None = Field(
        None, description="where the answer has the next cursor or URL, such as $.next"
    )
    absent: Literal["error", "end"] = Field(
        "error",
        description="what it means when the first answer has rows, and nothing at `path`: a wrong path, "
        "or the only page",
    )
    max_pages: int | None = Field(None, ge=1, description="stop after this many pages")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.type in ("cursor", "next_url") and self.path is None:
            raise ValueError(f"pagination by {self.type} needs 'path'")
        if self.type in ("page", "offset", "link") and self.path is not None:
            raise ValueError(f"pagination by {self.type} takes no 'path'")
        if self.type not in ("page", "offset") and self.total is not None:
            raise ValueError(f"pagination by {self.type} takes no 'total'")
        if self.type in ("link", "next_url") and self.param is not None:
            raise ValueError(f"pagination by {self.type} takes no 'param'")
        if self.type == "offset" and self.size is None:
            raise ValueError("pagination by offset needs 'size'")
        if self.size_param is not None and self.size is None:
            raise ValueError("'size_param' needs 'size'")
        return self


class HttpSourceConfig(HttpConfig):
    method: Literal["GET", "POST"] = Field("GET", description="POST sends `body`")
    params: dict[str, str | int | float | bool] = Field(
        default_factory=dict, repr=False, description="of the query string"
    )
    body: dict[str, Any] | None = Field(
        None, repr=False, description="the JSON that POST sends; paging parameters go into it"
    )
    records: JsonPath | None = Field(
        None,
        description="where the answer has its rows, such as $.items: a list of objects, or one object; "
        "by default the answer itself is the list",
    )
    pagination: Pagination | None = Field(
        None, description="how to request the next page; by default there is only one answer"
    )
    incremental: HttpIncremental | None = Field(
        None, description="request only rows that are new since the last run"
    )
    stable_pages: bool = Field(
        False,
        description="a page that is requested again has the same rows, so a run may resume at a "
        "page; otherwise it starts over and commits once, at its end",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.body is not None and self.method != "POST":
            raise ValueError("'body' needs method: POST")
        if self.incremental is not None and self.incremental.param in self.params:
            raise ValueError(f"'{self.incremental.param}' is in 'params' and in 'incremental'")
        return self


class HttpDestinationConfig(HttpConfig):
    method: Literal["POST", "PUT", "PATCH"] = Field("POST", description="of each request")
    batch_size: int = Field(
        100, ge=1, le=100_000, description="rows of one request; with 1 it is an object, not a list"
    )
    format: Literal["json", "ndjson"] = Field(
        "json", description="json: a list of objects; ndjson: an object a line"
    )
