"""Traces go through messages of MQTT 5: their user properties name one, and say which one wrote them."""

from __future__ import annotations

import threading
from typing import Any

from mqtt_kit import Place
from remembered_spans import OWN, traced_run

WRITE = """\
name: traced
sources: {given: {type: inline, config: {rows: [{n: 1}, {n: 2}]}}}
destinations:
  out: {type: mqtt, inputs: [given], config: {connection: "SERVER", topic: TOPIC/out}}
"""


def test_messages_name_the_trace_that_wrote_them(place: Place) -> None:
    found: list[Any] = []
    arrived = threading.Event()

    def keep(*arguments: Any) -> None:
        found.append(arguments[2])
        if len(found) == 2:
            arrived.set()

    client = place.client()
    client.on_message = keep
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.subscribe(f"{place.topic}/out", qos=1)
    assert subscribed.wait(30)
    text = WRITE.replace("SERVER", place.server.url).replace("TOPIC", place.topic)
    traced_run(text, place.folder)
    assert arrived.wait(30)
    client.disconnect()
    client.loop_stop()
    for message in found:
        properties = dict(message.properties.UserProperty)
        assert properties["traceparent"].startswith(OWN)
