"""Connection strings of servers that are URLs, and what their connections have in common."""

from __future__ import annotations

import socket
from urllib.parse import SplitResult, parse_qsl, urlsplit

from msgspec import Struct

from dataflare.errors import ConfigError, did_you_mean

_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3),
              ("TCP_USER_TIMEOUT", 60_000))  # fmt: skip
"""A server that has disappeared is noticed within about a minute, also while nothing is sent."""


class UrlForm(Struct, frozen=True):
    """What a connection string looks like. options: those after the question mark. lacks: what is wrong with a text
    that is not such a URL. example: without user and password."""

    product: str
    schemes: tuple[str, ...]
    options: tuple[str, ...]
    lacks: str
    example: str

    def refused(self, why: str = "", help_: str | None = None) -> ConfigError:
        """The error (E0414) for a text that is not a connection string. It does not show the text."""
        scheme, _, rest = self.example.partition("://")
        return ConfigError(
            f"'connection_string' is not one for {self.product}: {why or self.lacks}",
            code="E0414",
            help=help_
            or f"write {scheme}://user:password@{rest}, with special characters of the password in "
            "percent encoding, such as %40",
        )

    def read(self, text: str) -> tuple[SplitResult, dict[str, str]]:
        """The parts, and the options. Raises `refused`."""
        try:
            parts = urlsplit(text)
            _ = parts.port  # raises ValueError for one that is not a number
            strict = bool(parts.query)
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=strict))
        except ValueError:
            raise self.refused() from None
        if parts.scheme not in self.schemes or parts.fragment:
            raise self.refused()
        unknown = next((name for name in options if name not in self.options), None)
        if unknown is not None:
            raise self.refused(f"it has no option '{unknown}'", did_you_mean(unknown, self.options))
        return parts, options


def unreadable_files(label: str, error: OSError, options: str) -> ConfigError:
    """The error for TLS files of a connection string. label: of the server. options: those that name the files."""
    return ConfigError(
        f"the TLS files of {label} cannot be read: {error}",
        code="E0414",
        help=f"check {options} in 'connection_string'",
    )


def keep_alive(sock: socket.socket) -> None:
    """Notice a server that has disappeared."""
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
