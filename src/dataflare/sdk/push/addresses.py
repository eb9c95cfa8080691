"""Where a source listens, and how it shows who it is."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Awaitable
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dataflare.errors import ConfigError, Retry, SystemError_
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.tls import TlsFiles

T = TypeVar("T")


class Address(BaseModel):
    """host: '' for all addresses of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(text: str) -> Address:
    """Of `host:port`, `:port` (all addresses of the machine) or `[::1]:port`. Raises ValueError."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        ":" not in text
        or not port.isdecimal()
        or int(port) > 65_535
        or (":" in host and not bracketed)
    ):
        raise ValueError("expected host:port, such as 127.0.0.1:8080, or :8080 for all addresses")
    return Address(host=host[1:-1] if bracketed else host, port=int(port))


def _checked(text: str) -> str:
    address_of(text)
    return text


ListenAt = Annotated[str, AfterValidator(_checked)]
"""`host:port`, as `address_of` takes it."""


class ServerTls(BaseModel):
    """How the listener shows who it is, and who may connect."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    certificate: str = Field(
        description="a file with the certificate, and those that it depends on"
    )
    key: str = Field(description="a file with its key")
    key_password: str | None = Field(None, repr=False, description="the password of that key")
    client_ca: str | None = Field(
        None,
        description="a file with the certificates of which a client's must come; without it clients need none",
    )

    def context(self, connector: ConnectorContext) -> ssl.SSLContext:
        """Blocking. Raises ConfigError (E0425)."""
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            password = self.key_password or ""
            made.load_cert_chain(
                connector.path(self.certificate), connector.path(self.key), lambda: password
            )
            if self.client_ca is not None:
                made.load_verify_locations(connector.path(self.client_ca))
                made.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise _unusable(connector.step, error) from error
        return made


class ClientTls(TlsFiles):
    """Which servers to trust, and how the client shows who it is."""

    def context(self, connector: ConnectorContext) -> ssl.SSLContext:
        """Blocking. Raises ConfigError (E0425)."""
        try:
            ca = None if self.ca is None else str(connector.path(self.ca))
            made = ssl.create_default_context(cafile=ca)
            if self.certificate is not None:
                key = None if self.key is None else connector.path(self.key)
                made.load_cert_chain(connector.path(self.certificate), key)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(connector.step, error) from error
        return made


def _unusable(step: str, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or str(error)
    return ConfigError(
        f"the certificates of 'tls' cannot be used: {why}",
        code="E0425",
        step=step,
        help="name files in PEM format, from the workflow file's folder",
    )


async def listening(awaitable: Awaitable[T], place: str, step: str) -> T:
    """What begins to listen. Raises SystemError_ (E0602, E0614)."""
    try:
        return await awaitable
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.EACCES, errno.EPERM):
            raise SystemError_(
                f"permission denied: listening at {place}",
                code="E0602",
                step=step,
                help="choose a port from 1024 on",
            ) from error
        busy = error.errno == errno.EADDRINUSE or "already in use" in why
        raise SystemError_(
            f"cannot listen at {place}: {why}",
            code="E0614",
            step=step,
            retry=Retry.LATER if busy else Retry.NEVER,
            help="end the program that has the address, or choose another one"
            if busy
            else "choose an address of this machine",
        ) from error


async def ended(tasks: set[asyncio.Task[None]], within_s: float) -> None:
    """Let tasks end; cancel those that do not in time."""
    if not tasks:
        return
    _, left = await asyncio.wait(tasks, timeout=within_s)
    for task in left:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
