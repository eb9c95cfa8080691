"""TLS between the processes of a run: both sides of each link show a certificate of the same authority.

Always true: only paths go from process to process. Each one reads the files itself, and no error has anything of a key.

The names in a certificate are not compared. Workers are reached by addresses that the cluster gives them, so what counts is who
signed: the authority must sign for this cluster only. That a process belongs to the job is proved by the token (`trust`).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NoReturn

from msgspec import Struct

from dataflare.errors import ConfigError
from dataflare.sdk.threads import in_thread

BAD_TLS = "E0439"

_ALL_NODES = "put a certificate, its key and the certificate of the authority under the paths of settings.cluster.tls on every node"
_EXPIRED, _EARLY = 10, 9
_OTHER_AUTHORITY = {2, 7, 18, 19, 20, 21}
"""`X509_V_ERR_...` of OpenSSL: the issuer or its signature is not one of the authority's."""
_ALERTS = {
    "CERTIFICATE_EXPIRED": "it has expired, or is not valid yet",
    "UNKNOWN_CA": "it is not signed by the authority that is trusted there",
    "DECRYPT_ERROR": "it is not signed by the authority that is trusted there",
    "CERTIFICATE_REQUIRED": "there is none",
    "UNSUPPORTED_CERTIFICATE": "it is not for this purpose",
}


class Tls(Struct, frozen=True):
    """The files of a node, in PEM: its certificate, with those between it and the authority behind it; the key; the
    certificate of the authority, or several."""

    cert: str
    key: str
    ca: str

    def server(self) -> ssl.SSLContext:
        """What accepts links: who connects must show a certificate. Raises as `client` does. Blocking."""
        return self._contexts()[1]

    def client(self) -> ssl.SSLContext:
        """What connects. Raises ConfigError (E0439) for files that others would refuse. Blocking."""
        return self._contexts()[0]

    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        client = self._context(ssl.PROTOCOL_TLS_CLIENT)
        server = self._context(ssl.PROTOCOL_TLS_SERVER)
        try:
            _shake_hands(client, server)
        except ssl.SSLError as error:
            raise _bad(f"the certificate in {self.cert} {_fault(error, self.ca)}") from error
        return client, server

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        for name, path in {"cert": self.cert, "key": self.key, "ca": self.ca}.items():
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise _bad(f"the file of settings.cluster.tls.{name} cannot be read: {path}: {error.strerror}") from error  # fmt: skip
        try:
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, OSError) as error:
            raise _bad(f"{self.ca} has no certificate in PEM") from error
        if not context.get_ca_certs():
            raise _bad(f"the certificate in {self.ca} is not one of an authority")
        try:
            context.load_cert_chain(self.cert, self.key, self._no_password)
        except (ssl.SSLError, OSError) as error:
            if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                raise _bad(f"the key in {self.key} is not that of the certificate in {self.cert}") from error  # fmt: skip
            raise _bad(f"{self.cert} has no certificate in PEM, or {self.key} no key") from error
        return context

    def _no_password(self) -> NoReturn:
        raise ConfigError(
            f"the key in {self.key} has a passphrase",
            code=BAD_TLS,
            help="store it without one, in a file that only the user of the workers can read",
        )


async def client_context(tls: Tls | None) -> ssl.SSLContext | None:
    """`Tls.client`, for callers on a loop. None without TLS."""
    return await in_thread(tls.client) if tls is not None else None


def refused(other: str, error: ssl.SSLError) -> ConfigError:
    """There is no TLS with another process. other: what the error calls it."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _bad(f"the certificate of {other} {_fault(error, 'the file of settings.cluster.tls.ca')}")  # fmt: skip
    for alert, why in _ALERTS.items():
        if alert in reason and "ALERT" in reason:
            return _bad(f"{other} refuses the certificate of this process: {why}")
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return _bad(f"{other} answers without TLS, and settings.cluster.tls asks for it")
    return _bad(f"no TLS connection to {other}: {reason or error}")


def closed(other: str) -> ConfigError:
    """The other process has closed the connection before both had proved themselves."""
    return _bad(
        f"{other} closed the connection: it does not trust the certificate of this process, or it is not a worker of this cluster"
    )


def _fault(error: ssl.SSLError, authority: str) -> str:
    """What is wrong with a certificate that was refused."""
    code = getattr(error, "verify_code", None)
    if code == _EXPIRED:
        return "has expired"
    if code == _EARLY:
        return "is not valid yet, or the clock of this machine is late"
    if code in _OTHER_AUTHORITY:
        return f"is not signed by an authority of {authority}"
    return f"is refused: {getattr(error, 'verify_message', None) or error.reason or error}"


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Connect both in memory, so that each checks the certificate of the other, which is its own."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while sides:
        for side in [*sides]:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)


def _bad(message: str) -> ConfigError:
    return ConfigError(message, code=BAD_TLS, help=_ALL_NODES)
