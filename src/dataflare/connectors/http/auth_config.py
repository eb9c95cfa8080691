"""The options of credentials."""

from __future__ import annotations

import re
from typing import Literal, Self
from urllib.parse import urlsplit

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

_PARTS = ("method", "path", "query", "timestamp", "body", "body_sha256")
_PART = re.compile("(" + "|".join(rf"\{{{part}\}}" for part in _PARTS) + ")")
_NEEDS = {
    "bearer": ("token",),
    "basic": ("username", "password"),
    "header": ("name", "value"),
    "query": ("name", "value"),
    "oauth2": ("token_url", "client_id"),
    "hmac": ("name", "secret"),
}
_MAY = {
    "oauth2": ("client_secret", "refresh_token", "scope", "token_params", "client_auth"),
    "hmac": ("algorithm", "encoding", "prefix", "sign", "timestamp"),
}


class Token(Struct):
    """The token of OAuth 2 that is used now. until: on the clock of `time.monotonic`. refresh: the newest refresh
    token."""

    text: str = ""
    until: float = 0.0
    refresh: str | None = None


class Auth(BaseModel):
    """The credentials of requests."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    type: Literal["bearer", "basic", "header", "query", "oauth2", "hmac"] = Field(
        description="bearer: a token; basic: a name and password; header, query: a key under a name; oauth2: a "
        "token that is asked for; hmac: a signature of each request"
    )
    token: str | None = Field(None, min_length=1, repr=False, description="for bearer")
    username: str | None = Field(None, description="for basic")
    password: str | None = Field(None, repr=False, description="for basic")
    name: str | None = Field(None, min_length=1, description="for header, query and hmac: its name")
    value: str | None = Field(None, min_length=1, repr=False, description="for header and query")
    token_url: str | None = Field(
        None, description="for oauth2: where tokens are asked for, https://..."
    )
    client_id: str | None = Field(None, min_length=1, description="for oauth2")
    client_secret: str | None = Field(None, min_length=1, repr=False, description="for oauth2")
    refresh_token: str | None = Field(
        None,
        min_length=1,
        repr=False,
        description="for oauth2: ask with it (grant refresh_token) in place of client credentials. A new one in "
        "the answer is used for the rest of the run",
    )
    scope: str | None = Field(None, min_length=1, description="for oauth2: with blanks between")
    token_params: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="for oauth2: other fields of the question, such as audience",
    )
    client_auth: Literal["basic", "form"] = Field(
        "basic", description="for oauth2: whether id and secret are in a header or in the form"
    )
    secret: str | None = Field(None, min_length=1, repr=False, description="for hmac")
    algorithm: Literal["sha1", "sha256", "sha512"] = Field("sha256", description="for hmac")
    encoding: Literal["hex", "base64"] = Field("hex", description="for hmac")
    prefix: str = Field("", description="for hmac: the text before the signature, such as sha256=")
    sign: str = Field(
        "{body}",
        min_length=1,
        description="for hmac: what is signed, with {method}, {path}, {query}, {timestamp}, {body} and {body_sha256}",
    )
    timestamp: str | None = Field(
        None, min_length=1, description="for hmac: the header for the time, in seconds since 1970"
    )

    _held: Token = PrivateAttr(default_factory=Token)

    @property
    def held(self) -> Token:
        """All clients of a step share one token, because a refresh token may be good only once."""
        return self._held

    @model_validator(mode="after")
    def _whole(self) -> Self:
        required, optional = _NEEDS[self.type], _MAY.get(self.type, ())
        for name in type(self).model_fields:
            if name == "type":
                continue
            if name in required and getattr(self, name) is None:
                raise ValueError(f"auth of type {self.type} needs '{name}'")
            if name in self.model_fields_set and name not in (*required, *optional):
                raise ValueError(f"auth of type {self.type} takes no '{name}'")
        if self.token_url is not None:
            parts = urlsplit(self.token_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("'token_url' is not https://host/path")
        if "{timestamp}" in self.sign and self.timestamp is None:
            raise ValueError(
                "a {timestamp} that is signed must be sent: name its header in 'timestamp'"
            )
        return self

    @property
    def sign_pieces(self) -> list[tuple[bool, str]]:
        """What is signed: whether it is a part of the request, and the part in braces or the text."""
        pieces = _PART.split(self.sign)
        return [(at % 2 == 1, piece) for at, piece in enumerate(pieces) if piece]
