"""The options of a source that connects to a server and is sent to."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from dataflare.model.units import Duration
from dataflare.sdk.messages.config import ValueOptions
from dataflare.sdk.push.addresses import ClientTls
from dataflare.sdk.push.credentials import Credentials


class ClientConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    headers: dict[str, str] = Field(
        default_factory=dict, repr=False, description="sent when it connects"
    )
    params: dict[str, str | int | float | bool] = Field(
        default_factory=dict, repr=False, description="of the query string"
    )
    auth: Credentials | None = Field(None, description="who asks")
    tls: ClientTls | None = Field(
        None, description="certificates, where those of the system will not do"
    )
    timeout: Duration = Field(
        30.0,
        gt=0,
        description="how long to wait for the connection; a server that is away for longer is an error",
    )

    @property
    def all_headers(self) -> dict[str, str]:
        return {**self.headers, **(self.auth.headers if self.auth is not None else {})}

    @property
    def all_params(self) -> dict[str, str]:
        given = {name: _text(value) for name, value in self.params.items()}
        return {**given, **(self.auth.params if self.auth is not None else {})}


def refuse_headers(options: ValueOptions) -> None:
    """Raises ValueError for a format whose messages have headers."""
    if options.format == "cloudevents" and options.cloudevents.mode == "binary":
        raise ValueError("its messages have no headers, so cloudevents: {mode: binary} cannot be")


def checked_url(value: str, schemes: tuple[str, ...]) -> str:
    """Raises ValueError."""
    parts = urlsplit(value)
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(" or ".join(f"{scheme}://host/path" for scheme in schemes) + " expected")
    if parts.username or parts.password:
        raise ValueError("put name and password in 'auth', where they are not shown")
    return value


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
