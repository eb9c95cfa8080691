"""The credentials that a request shows, or must show."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Credentials(BaseModel):
    """What a request shows."""

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
        names = ("token", "username", "password", "name", "value")
        required = {"bearer": ("token",), "basic": ("username", "password")}.get(
            self.type, ("name", "value")
        )
        for name in names:
            if (getattr(self, name) is None) == (name in required):
                verb = "needs" if name in required else "takes no"
                raise ValueError(f"auth of type {self.type} {verb} '{name}'")
        return self

    @property
    def headers(self) -> dict[str, str]:
        """What they add to the headers."""
        match self.type:
            case "bearer":
                return {"Authorization": f"Bearer {self.token}"}
            case "basic":
                return {"Authorization": f"Basic {self._basic}"}
            case "header":
                return {self.name or "": self.value or ""}
        return {}

    @property
    def params(self) -> dict[str, str]:
        """What they add to the query."""
        return {self.name or "": self.value or ""} if self.type == "query" else {}

    @property
    def _basic(self) -> str:
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def are_in(self, headers: Mapping[str, str], query: Mapping[str, str]) -> bool:
        """Whether a request shows them. headers: whatever the case of names. The time that it takes does not depend
        on what is wrong."""
        scheme, _, rest = headers.get("Authorization", "").partition(" ")
        match self.type:
            case "bearer":
                return scheme.lower() == "bearer" and _same(rest.strip(), self.token)
            case "basic":
                return scheme.lower() == "basic" and _same(rest.strip(), self._basic)
            case "header":
                return _same(headers.get(self.name or "", ""), self.value)
        return _same(query.get(self.name or "", ""), self.value)


def _same(given: str, wanted: str | None) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), (wanted or "").encode())
