"""A log has room for several of the largest messages, whatever connector it belongs to."""

from __future__ import annotations

from typing import Any

import pytest

from dataflare.errors import ConfigError
from dataflare.testing import source_of

SOURCES: dict[str, dict[str, Any]] = {
    "socket": {"listen": "tcp://127.0.0.1:0"},
    "sse": {"url": "http://localhost/events"},
    "syslog": {"listen": "udp://127.0.0.1:0"},
    "webhook": {"listen": "127.0.0.1:0"},
    "websocket": {"url": "ws://localhost/feed"},
}


@pytest.mark.parametrize("type_", SOURCES)
def test_a_message_may_have_an_eighth_of_the_log(type_: str) -> None:
    option = "max_body" if type_ == "webhook" else "max_message"
    config = {**SOURCES[type_], "log": {"max_size": "64KiB"}}
    source_of(type_, {**config, option: "8KiB"})
    with pytest.raises(ConfigError, match=f"'{option}' may be at most an eighth"):
        source_of(type_, {**config, option: "9KiB"})
    with pytest.raises(ConfigError, match=f"'{option}' may be at most an eighth"):
        source_of(type_, config)
