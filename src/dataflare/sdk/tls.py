"""The `tls` option of connectors that call a server."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflare.errors import ConfigError
from dataflare.sdk.context import ConnectorContext


class TlsFiles(BaseModel):
    """How the servers show who they are, and who asks them. Files in PEM format."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    ca: str | None = Field(
        None, description="a file with the certificates to trust, in place of the system's"
    )
    certificate: str | None = Field(None, description="a file with the client's own certificate")
    key: str | None = Field(None, description="a file with the key of that certificate")


class Tls(TlsFiles):
    """How the servers show who they are, and who asks them."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.key is None) != (self.certificate is None):
            raise ValueError("'certificate' and 'key' belong together")
        return self

    def context(self, connector: ConnectorContext) -> ssl.SSLContext:
        """Blocking. Raises ConfigError (E0404) for a file that does not exist, and errors of `ssl`."""
        made = ssl.create_default_context(cafile=self.ca and file_of(self.ca, "tls", connector))
        if self.certificate is not None:
            certificate = file_of(self.certificate, "tls", connector)
            made.load_cert_chain(certificate, self.key and file_of(self.key, "tls", connector))
        return made


class PasswordTls(Tls):
    """How the servers show who they are, and who asks them."""

    key_password: str | None = Field(None, repr=False, description="the password of that key")
    check_name: bool = Field(
        True, description="whether the certificate must be for the host that was asked"
    )


def file_of(text: str, option: str, connector: ConnectorContext) -> Path:
    """The path of a file that an option names. Raises ConfigError (E0404) if it does not exist."""
    path = connector.path(text)
    if not path.is_file():
        raise ConfigError(
            f"step '{connector.step}': there is no file {path}",
            code="E0404",
            step=connector.step,
            help=f"look at '{option}'",
        )
    return path
