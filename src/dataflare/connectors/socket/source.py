"""The `socket` source: messages that come over TCP, UDP or a Unix socket."""

from __future__ import annotations

from dataflare.connectors.socket.config import SocketSourceConfig
from dataflare.model.types import BINARY, STRING, Schema, timestamp
from dataflare.sdk.push.reader import Listener
from dataflare.sdk.push.source import PushSource
from dataflare.sdk.push.streams import SocketListener

RECEIVED = Schema.of([("value", BINARY), ("time", timestamp("us", "UTC")), ("address", STRING)])
"""What the log has of a message: its bytes, when it came, and from where."""


class SocketSource(PushSource):
    """A socket at which others send."""

    type = "socket"
    Config = SocketSourceConfig
    summary = "Takes messages over TCP, UDP and Unix sockets, and puts them on disk before it reads further."
    example = """\
readings:
  type: socket
  config:
    listen: tcp://127.0.0.1:9000
    reply: "OK\\n"
  schema: {sensor: string, value: float64}
"""
    fields = RECEIVED

    def listener(self) -> Listener:
        config = self.config
        return SocketListener(
            [config.endpoint],
            config.make_framing,
            self.context,
            bytes_max=config.max_message,
            datagram_framing=config.datagram_framing,
            tls=config.tls,
            reply=config.reply.encode(),
            connections_max=config.max_connections,
        )

    def heard_at(self) -> str:
        return str(self.config.listen)
