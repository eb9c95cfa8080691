"""The options of an HTTP API."""

from __future__ import annotations

import re
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.connectors.http.auth_config import Auth as Auth
from dataflare.connectors.http.graphql import GraphqlQuery
from dataflare.connectors.http.json_path import JsonPath
from dataflare.model.units import Duration, Rate
from dataflare.sdk.sql.config import Incremental


class HttpIncremental(Incremental):
    """Request only rows that are new since the last run."""

    param: str = Field(
        min_length=1,
        description="the parameter for the last value seen, less `lag`, such as since; the "
        "answer has the rows from there on, in any order",
    )


PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


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

    type: Literal["page", "offset", "cursor", "link", "next_url", "header"] = Field(
        description="page: pages have numbers; offset: rows are skipped; cursor: an answer "
        "contains the mark of the next page; link: the header Link names it (rel=next); "
        "next_url: a field of the answer names it; header: a header of the answer has the mark of the next page"
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
    name: str | None = Field(
        None, min_length=1, description="for header: its name, such as X-Next-Page"
    )
    more: JsonPath | None = Field(
        None,
        description="where the answer says whether there is a next page, such as $.page.hasNextPage; for cursor",
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
        if (self.type == "header") == (self.name is None):
            verb = "needs" if self.type == "header" else "takes no"
            raise ValueError(f"pagination by {self.type} {verb} 'name'")
        if self.more is not None and self.type != "cursor":
            raise ValueError(f"pagination by {self.type} takes no 'more'")
        if self.type in ("page", "offset", "link", "header") and self.path is not None:
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


class Nested(BaseModel):
    """Rows that belong to each row of an answer, such as the lines of each order: asked for one by one."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str = Field(
        description="where the rows of one row are, on the same server; {id} in it is a field of that row, {customer.id} one "
        "inside of another: https://host/orders/{id}/lines"
    )
    params: dict[str, str | int | float | bool] = Field(
        default_factory=dict, repr=False, description="of the query string"
    )
    records: JsonPath | None = Field(
        None, description="where the answer has its rows, such as $.lines"
    )
    pagination: Pagination | None = Field(None, description="how to request the next page")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="by column that each nested row gets, the field of the outer row: {order_id: id}",
    )
    absent: Literal["error", "skip"] = Field(
        "error",
        description="skip: a row whose request is answered by 404 or 410 has no nested rows, because it was deleted meanwhile",
    )

    @property
    def fields(self) -> list[str]:
        """The fields of the outer row that are in `url`."""
        return PLACEHOLDER.findall(self.url)


class HttpSourceConfig(HttpConfig):
    method: Literal["GET", "POST"] = Field("GET", description="POST sends `body`")
    params: dict[str, str | int | float | bool] = Field(
        default_factory=dict, repr=False, description="of the query string"
    )
    body: dict[str, Any] | None = Field(
        None, repr=False, description="the JSON that POST sends; paging parameters go into it"
    )
    graphql: GraphqlQuery | None = Field(
        None, description="ask in GraphQL, by POST; errors in the answer are errors of the run"
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
    nested: Nested | None = Field(
        None,
        description="the rows are not those of the answers, but those of a second request for each of them: {url, params, "
        "records, pagination, columns}",
    )
    stable_pages: bool = Field(
        False,
        description="a page that is requested again has the same rows, so a run may resume at a "
        "page; otherwise it starts over and commits once, at its end",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.graphql is not None:
            for name in ("method", "body"):
                if name in self.model_fields_set:
                    raise ValueError(f"'graphql' says what is sent: leave out '{name}'")
            if self.records is None:
                raise ValueError("'graphql' needs 'records', such as $.data.orders.nodes")
        if self.body is not None and self.method != "POST":
            raise ValueError("'body' needs method: POST")
        if self.nested is not None:
            self._check_nested(self.nested)
        if self.incremental is not None and self.incremental.param in self.params:
            raise ValueError(f"'{self.incremental.param}' is in 'params' and in 'incremental'")
        return self

    def _check_nested(self, nested: Nested) -> None:
        if not nested.fields:
            raise ValueError("the url of 'nested' needs a field of the outer row, such as {id}")
        ours, theirs = urlsplit(self.url), urlsplit(nested.url)
        if (ours.scheme, ours.netloc.lower()) != (theirs.scheme, theirs.netloc.lower()):
            raise ValueError(
                f"the url of 'nested' must begin with {ours.scheme}://{ours.netloc}/, as 'url' does"
            )


class HttpDestinationConfig(HttpConfig):
    guarantee: Literal["at_least_once", "effectively_once"] = Field(
        "at_least_once",
        description="at_least_once: rows are sent at once, and again after a crash; effectively_once: they are sent at "
        "each checkpoint, and a request that is sent again has the same key, for servers that take a key once",
    )
    key_header: str = Field(
        "Idempotency-Key", min_length=1, description="the header with the key of a request"
    )
    method: Literal["POST", "PUT", "PATCH"] = Field("POST", description="of each request")
    batch_size: int = Field(
        100, ge=1, le=100_000, description="rows of one request; with 1 it is an object, not a list"
    )
    format: Literal["json", "ndjson"] = Field(
        "json", description="json: a list of objects; ndjson: an object a line"
    )
