"""The options of a `webhook` source."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dataflare.connectors.webhook.signatures import Signature
from dataflare.model.units import Duration, Size
from dataflare.sdk.messages.config import ValueSourceOptions
from dataflare.sdk.push.addresses import ListenAt, ServerTls
from dataflare.sdk.push.config import LogConfig
from dataflare.sdk.push.credentials import Credentials


class WebhookConfig(ValueSourceOptions, LogConfig):
    size_option = "max_body"

    listen: ListenAt = Field(
        "127.0.0.1:8080", description="host:port, or :port for all addresses of the machine"
    )
    path: str = Field("/", pattern=r"^/[^?#\s]*$", description="where requests go; others get 404")
    methods: list[Literal["POST", "PUT", "PATCH"]] = Field(
        ["POST"], min_length=1, description="other methods get 405"
    )
    auth: Credentials | None = Field(None, description="what a request must show, or it gets 401")
    signature: Signature | None = Field(
        None, description="how senders sign requests; one that is not signed right gets 401"
    )
    tls: ServerTls | None = Field(None, description="speak HTTPS")
    rows: Literal["one", "list", "lines"] = Field(
        "one",
        description="one: a body is a message; list: it is a JSON list of messages; lines: each line is one",
    )
    max_body: Size = Field(1 << 20, ge=1, description="larger bodies get 413, also once unpacked")
    timeout: Duration = Field(
        30.0, gt=0, description="how long a sender may take for a body, before it gets 408"
    )
    status: int = Field(
        202, ge=200, le=299, description="the answer to a request that is on disk; it has no body"
    )
    challenge: str | None = Field(
        None,
        min_length=1,
        description="a parameter of GET requests that is sent back as text, by which some senders make sure "
        "that the address is wanted: hub.challenge, validationToken",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rows == "list" and self.format != "json":
            raise ValueError("rows: list needs format: json")
        if self.rows == "lines" and self.format not in ("json", "text", "raw"):
            raise ValueError(f"rows: lines does not fit format: {self.format}")
        return self
