"""Say hello to a broker, to learn why it cannot be used: the client library tries again whatever the reason is, and says
that it took too long.

The frame and its messages are those of PulsarApi.proto: four bytes with the size of all that follows, four with that of
the command, the command.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping

from msgspec import Struct

from dataflare.connectors.pulsar.config import PulsarConfig
from dataflare.errors import SystemError_
from dataflare.sdk.brokers.errors import no_answer, no_connection, no_tls, refused_login
from dataflare.sdk.context import ConnectorContext
from dataflare.security.redact import text_of

_CONNECT, _CONNECTED, _ERROR = 2, 3, 14
_PROTOCOL = 19
_FRAME_BYTES_MAX = 1 << 20
_MESSAGE_BYTES = 5 << 20
_REFUSED = 3
"""The number of AuthenticationError."""


class Hello(Struct, frozen=True):
    """What a broker says of itself. message_bytes: the largest message that it takes."""

    version: str
    message_bytes: int


async def hello(config: PulsarConfig, context: ConnectorContext) -> Hello:
    """Raises SystemError_ (E0606 to E0609)."""
    place = f"Pulsar at {config.server}"
    tls = await asyncio.to_thread(config.tls_context, context)
    host, _, port = config.server.rpartition(":")
    try:
        async with asyncio.timeout(config.timeout):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls)
            try:
                writer.write(_frame(_CONNECT, _login(config)))
                await writer.drain()
                size, command_size = struct.unpack(">II", await reader.readexactly(8))
                if not command_size < size <= _FRAME_BYTES_MAX:
                    raise no_connection(place, "this is not a broker of Pulsar", "broker")
                command = await reader.readexactly(command_size)
            finally:
                writer.close()
    except TimeoutError as error:
        raise no_answer(place, noun="broker") from error
    except asyncio.IncompleteReadError as error:
        raise no_connection(place, "it ended the connection", "broker") from error
    except OSError as error:
        if "certificate" in str(error).lower() or "ssl" in type(error).__name__.lower():
            raise no_tls(place, text_of(error)) from error
        raise no_connection(place, text_of(error), "broker") from error
    return _answer(_fields(command), place)


def _answer(fields: Mapping[int, int | bytes], place: str) -> Hello:
    kind = fields.get(1)
    told = _fields(_bytes(fields.get(kind))) if kind in (_CONNECTED, _ERROR) else {}
    if kind == _CONNECTED:
        largest = told.get(3, _MESSAGE_BYTES)
        return Hello(_bytes(told.get(1)).decode(), largest if isinstance(largest, int) else 0)
    if kind != _ERROR:
        raise no_connection(place, "this is not a broker of Pulsar", "broker")
    if told.get(2) == _REFUSED:
        raise refused_login(place, "'token' and 'tls'")
    text = text_of(_bytes(told.get(3)).decode(errors="replace"))
    raise SystemError_(
        f"{place}: {text}", code="E0600", help="fix the cause that the broker reports"
    )


def _bytes(value: int | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""


def _login(config: PulsarConfig) -> bytes:
    """A CommandConnect."""
    fields = _field(1, b"dataflare") + _number(4, _PROTOCOL)
    if config.token is not None:
        return fields + _field(3, config.token.encode()) + _field(5, b"token")
    if config.tls is not None and config.tls.certificate is not None:
        return fields + _field(5, b"tls")
    return fields


def _frame(kind: int, body: bytes) -> bytes:
    command = _number(1, kind) + _field(kind, body)
    return struct.pack(">II", len(command) + 4, len(command)) + command


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _fields(data: bytes) -> dict[int, int | bytes]:
    """The fields of a message that has numbers and bytes alone, as these do; empty for what is none."""
    found: dict[int, int | bytes] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while at < len(data):
            tag = varint()
            value = varint()
            if tag & 7 == 2:
                found[tag >> 3] = data[at : at + value]
                at += value
            elif tag & 7 == 0:
                found[tag >> 3] = value
            else:
                return {}
    except IndexError:
        return {}
    return found
