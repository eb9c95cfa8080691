"""The `syslog` source: a server to which other machines send their logs."""

from __future__ import annotations

from functools import partial

from dataflare.connectors.socket.source import RECEIVED
from dataflare.connectors.syslog.config import SyslogConfig
from dataflare.connectors.syslog.parsing import SyslogEnvelope
from dataflare.formats.messages.envelope import Envelope
from dataflare.formats.messages.raw import RawDecoder
from dataflare.sdk.push.framing import Syslog
from dataflare.sdk.push.reader import Listener
from dataflare.sdk.push.source import PushSource
from dataflare.sdk.push.streams import SocketListener


class SyslogSource(PushSource):
    """A server of syslog."""

    type = "syslog"
    Config = SyslogConfig
    summary = "Takes messages of syslog (RFC 5424 and 3164) over UDP, TCP, TLS and Unix sockets."
    example = """\
logs:
  type: syslog
  config:
    listen: [udp://127.0.0.1:5514, tcp://127.0.0.1:5514]
    timezone: Europe/Berlin
"""
    fields = RECEIVED
    finds_new_fields = False

    def listener(self) -> Listener:
        config = self.config
        return SocketListener(
            config.endpoints,
            partial(Syslog, config.max_message),
            self.context,
            bytes_max=config.max_message,
            tls=config.tls,
            connections_max=config.max_connections,
        )

    def heard_at(self) -> str:
        return ", ".join(map(str, self.config.endpoints))

    def _make_envelope(self) -> Envelope:
        return SyslogEnvelope(
            RawDecoder(text=True), step=self.context.step, zone=self.config.timezone
        )
