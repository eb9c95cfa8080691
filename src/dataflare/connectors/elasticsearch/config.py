"""The options of Elasticsearch and OpenSearch: how to reach the servers, and what to write."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from dataflare.model.units import Duration, Size
from dataflare.sdk.delete_max import DeleteMax
from dataflare.sdk.sql.config import SoftDeletes
from dataflare.sdk.tls import PasswordTls

_PORT = 9200
_PLACEHOLDER = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
_NAME = re.compile(r"[^A-Z\\/*?\"<>| ,#:]+")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[
    list[str],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""One name, or several."""


class ElasticsearchConfig(BaseModel):
    """How to reach the servers; the same for sources and destinations."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    connection: str | list[str] = Field(
        repr=False,
        description="https://user:password@host:9200, or several with commas between or as a list; another one "
        "is asked when one is away",
    )
    username: str | None = Field(None, description="who logs in, if the connection does not say it")
    password: str | None = Field(None, repr=False, description="the password of `username`")
    api_key: str | None = Field(
        None, min_length=1, repr=False, description="an encoded API key, in place of a password"
    )
    tls: PasswordTls | None = Field(
        None, description="for https: {ca, certificate, key, key_password, check_name}"
    )
    headers: dict[str, str] = Field(
        default_factory=dict, repr=False, description="sent with each request"
    )
    timeout: Duration = Field(30.0, gt=0, description="how long to wait for one answer")

    @field_validator("connection")
    @classmethod
    def _servers(cls, value: str | list[str]) -> str | list[str]:
        for each in _texts(value):
            parts = urlsplit(each)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
                raise ValueError("expected https://user:password@host:9200")
            _ = parts.port  # raises ValueError for one that is not a number
        if not _texts(value):
            raise ValueError("expected https://user:password@host:9200")
        return value

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        named = any("@" in urlsplit(each).netloc for each in _texts(self.connection))
        if sum((named, self.username is not None, self.api_key is not None)) > 1:
            raise ValueError("give one login: in 'connection', as 'username', or as 'api_key'")
        if (self.username is None) != (self.password is None):
            raise ValueError("'username' and 'password' belong together")
        return self

    @property
    def urls(self) -> list[str]:
        """The addresses of the servers, without users."""
        return [_url(each) for each in _texts(self.connection)]

    @property
    def servers(self) -> str:
        """Where they are, to show."""
        return ", ".join(url.partition("://")[2] for url in self.urls)

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password."""
        if self.username is not None and self.password is not None:
            return self.username, self.password
        for each in _texts(self.connection):
            parts = urlsplit(each)
            if parts.username is not None:
                return unquote(parts.username), unquote(parts.password or "")
        return None


def _texts(connection: str | list[str]) -> list[str]:
    texts = connection.split(",") if isinstance(connection, str) else connection
    return [text.strip() for text in texts if text.strip()]


def _url(text: str) -> str:
    parts = urlsplit(text)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or _PORT}{parts.path.rstrip('/')}"


class NewIndex(BaseModel):
    """What an index is like that is made because it is missing."""

    model_config = ConfigDict(extra="forbid")

    shards: int | None = Field(None, ge=1, description="by default as the server is set")
    replicas: int | None = Field(None, ge=0, description="by default as the server is set")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="others, such as {refresh_interval: 30s}"
    )
    properties: dict[str, Any] = Field(
        default_factory=dict,
        description="mappings in place of those that come from the columns: {name: {type: keyword}}",
    )


class IndexPart(BaseModel):
    """A piece of an index's name that is a column's value. format: of its times."""

    column: str
    format: str | None = None


class ElasticsearchDestinationConfig(SoftDeletes, ElasticsearchConfig):
    index: str = Field(
        min_length=1,
        description="the index, alias or data stream to write; {column} in it is the value of a column, "
        "and {ts:%Y.%m.%d} its date: logs-{ts:%Y.%m.%d} (in UTC, for a column with a time zone)",
    )
    id_field: Names = Field(
        default_factory=list,
        description="the columns that a document's _id is made of: one column as its text, several as a JSON "
        "list; without it the server gives each document a new one",
    )
    key: Names = Field(default_factory=list, description="another name of `id_field`")
    mode: Literal["append", "upsert", "mirror"] = Field(
        "append",
        description="append writes each row as `op` says; upsert and mirror keep the last row of each _id and take "
        "changelogs; mirror also deletes what was deleted, and at the end of a run that read all of its source, and in "
        "which no row failed, what is not in the source any more",
    )
    op: Literal["index", "create", "update", "delete"] = Field(
        "index",
        description="index: write the document, in place of an older one; create: leave an older one as it is; "
        "update: change the fields that are columns, and leave its other fields; delete: delete it",
    )
    sequence: str | None = Field(
        None,
        min_length=1,
        description="a column of whole numbers or times that is the document's version: a row is written only if "
        "it is newer",
    )
    delete_max: DeleteMax = Field(
        0.2,
        description="with mode mirror: the most documents that a run may delete because its source does not have "
        "their rows any more, as a share of the index (20%) or a count; if there are more, that is an error and none "
        "is deleted",
    )
    pipeline: str | None = Field(
        None, min_length=1, description="the ingest pipeline that documents go through"
    )
    routing: str | None = Field(
        None, min_length=1, description="the column that chooses a document's shard"
    )
    batch_size: int = Field(
        1_000, ge=1, le=100_000, description="the most rows of one bulk request"
    )
    batch_bytes: Size = Field(
        5 << 20, ge=1 << 10, description="about how many bytes one bulk request has at most"
    )
    concurrency: int = Field(
        4,
        ge=1,
        le=256,
        description="concurrent bulk requests of all tasks at best (each task has one in any case): while the server has "
        "too much to do, fewer",
    )
    refresh: Literal["true", "false", "wait_for"] = Field(
        "false",
        description="whether each request makes its documents visible to searches: true, wait_for, or false "
        "(then they are visible after the server's interval, and at the end of the run)",
    )
    create_index: NewIndex | bool = Field(
        True,
        description="make a missing index with fields of the columns' types, and add fields to one that "
        "lacks them: true, {shards, replicas, settings, properties}, or false (the server and its templates decide)",
    )
    changelog: Literal["columns"] | None = Field(
        None, description="'columns' appends changes as documents, with their kind in the field _op"
    )
    retry_policy: dict[str, Any] | None = Field(
        None,
        description="how to repeat requests after a temporary error; as in error_handling",
    )

    @field_validator("refresh", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value).lower() if isinstance(value, bool) else value

    @field_validator("index")
    @classmethod
    def _template(cls, value: str) -> str:
        name = _PLACEHOLDER.sub("x", value)
        if not _NAME.fullmatch(name) or name[0] in "-_+" or name in (".", ".."):
            raise ValueError(
                f"{value!r} cannot be the name of an index: it needs lower-case letters, without "
                'blanks and \\ / * ? " < > | , # :, and begins with a letter, a digit or a dot'
            )
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.key and self.id_field and self.key != self.id_field:
            raise ValueError("'key' and 'id_field' are the same option: give one of them")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("'id_field' names a column twice")
        for name, needed in (
            (f"mode: {self.mode}", self.mode != "append"),
            ("op: update", self.op == "update"),
            ("op: delete", self.op == "delete"),
            ("sequence", self.sequence is not None),
        ):
            if needed and not self.ids:
                raise ValueError(f"'{name}' needs 'id_field': the column with a document's _id")
        if self.mode != "append" and self.op not in ("index", "update"):
            raise ValueError(f"'op: {self.op}' needs mode 'append'")
        if "delete_max" in self.model_fields_set and self.mode != "mirror":
            raise ValueError("'delete_max' needs mode 'mirror'")
        if self.deleted_at is not None and self.sequence is not None:
            raise ValueError(
                "'deleted_at' does not go with 'sequence': the server does not compare versions of an update"
            )
        if self.op == "update" and self.sequence is not None:
            raise ValueError(
                "'sequence' does not go with 'op: update': the server does not compare versions there"
            )
        if self.op == "create" and self.sequence is not None:
            raise ValueError(
                "'sequence' does not go with 'op: create', which never replaces a document"
            )
        if self.changelog is not None and (self.mode != "append" or self.ids):
            raise ValueError("'changelog: columns' needs mode 'append', without 'id_field'")
        return self

    @property
    def ids(self) -> list[str]:
        """The columns of the _id."""
        return self.id_field or self.key

    @property
    def index_parts(self) -> list[str | IndexPart]:
        """The name of the index, in pieces."""
        parts: list[str | IndexPart] = []
        end = 0
        for match in _PLACEHOLDER.finditer(self.index):
            parts.append(self.index[end : match.start()])
            parts.append(IndexPart(column=match[1], format=match[2] or None))
            end = match.end()
        parts.append(self.index[end:])
        return [part for part in parts if part != ""]

    @property
    def index_columns(self) -> list[str]:
        """The columns that the name of the index is made of."""
        return [part.column for part in self.index_parts if isinstance(part, IndexPart)]
