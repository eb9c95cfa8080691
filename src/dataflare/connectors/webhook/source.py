"""The `webhook` source: an HTTP server whose requests are messages."""

from __future__ import annotations

from dataflare.connectors.webhook.config import WebhookConfig
from dataflare.connectors.webhook.server import WebhookListener
from dataflare.formats.messages.envelope import HEADERS
from dataflare.model.types import BINARY, STRING, Schema, timestamp
from dataflare.sdk.push.reader import Listener
from dataflare.sdk.push.source import PushSource
from dataflare.sdk.tracing import HEADER


class WebhookSource(PushSource):
    """An address to which others send."""

    type = "webhook"
    Config = WebhookConfig
    summary = "Takes HTTP requests that others send, and answers when they are on disk."
    example = """\
orders:
  type: webhook
  config:
    listen: 127.0.0.1:8080
    path: /orders
    signature: {type: github, secret: "${secret:WEBHOOK_SECRET}"}
    metadata: [time]
  schema: {id: int64, status: string}
"""
    fields = Schema.of(
        [
            ("value", BINARY),
            ("time", timestamp("us", "UTC")),
            ("method", STRING),
            ("path", STRING),
            ("query", STRING),
            ("headers", HEADERS),
            ("address", STRING),
            (HEADER, STRING),
        ]
    )

    def listener(self) -> Listener:
        return WebhookListener(self.config, self.context)

    def heard_at(self) -> str:
        scheme = "https" if self.config.tls is not None else "http"
        return f"{scheme}://{self.config.listen}{self.config.path}"
