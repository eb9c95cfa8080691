"""A topic of its own for a test, with what goes into it and what comes out of it, by the client library alone."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from broker_moving import BrokerPlace
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from servers.mosquitto import MosquittoServer
from servers.process import PASSWORD, USER

_numbers = itertools.count()


class Place(BrokerPlace):
    """Topics below `NAME/`, a session, and a folder for runs."""

    def __init__(self, server: MosquittoServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.topic = f"t{next(_numbers)}"

    def client(self, name: str = "", **more: Any) -> Any:
        made = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5
        )
        made.username_pw_set(USER, PASSWORD)
        connected = threading.Event()
        made.on_connect = lambda *_: connected.set()
        made.connect("127.0.0.1", self.server.port, 30, **more)
        made.loop_start()
        assert connected.wait(30), "the broker does not answer"
        return made

    def session(self) -> None:
        """Make the session, so that the broker keeps messages before the first run."""
        expiry = Properties(PacketTypes.CONNECT)
        expiry.SessionExpiryInterval = 3600
        client = self.client(f"session-{self.topic}", clean_start=True, properties=expiry)
        subscribed = threading.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        client.subscribe(f"{self.topic}/in", qos=1)
        assert subscribed.wait(30)
        _end(client)

    def put(self, values: Iterable[tuple[bytes, str | None]], topic: str | None = None) -> None:
        """values: payloads with their ids."""
        client = self.client()
        for value, id_ in values:
            about = Properties(PacketTypes.PUBLISH)
            if id_ is not None:
                about.UserProperty = [("id", id_)]
            client.publish(
                topic or f"{self.topic}/in", value, qos=1, properties=about
            ).wait_for_publish(30)
        _end(client)

    def numbers(self, first: int, after: int) -> None:
        self.put(
            (json.dumps({"n": n, "text": f"row {n}"}).encode(), f"m{n}")
            for n in range(first, after)
        )

    def listening(self, topics: str | None = None) -> Listening:
        return Listening(self, topics or f"{self.topic}/out/#")

    def filled(self, workflow: str) -> str:
        text = workflow.replace("SESSION", f"session-{self.topic}")
        return text.replace("TOPIC", self.topic).replace("SERVER", self.server.url)


class Listening:
    """What arrives at some topics while it is open, in their order."""

    def __init__(self, place: Place, topics: str) -> None:
        self.messages: list[Any] = []
        self._mark, self._marked = f"{place.topic}/mark", threading.Event()
        self._client = place.client()
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _c, _d, message: self._note(message)
        self._client.subscribe([(topics, 1), (self._mark, 1)])
        assert subscribed.wait(30)

    def _note(self, message: Any) -> None:
        if message.topic == self._mark:
            self._marked.set()
        else:
            self.messages.append(message)

    def so_far(self) -> list[Any]:
        """All that the broker got before this call."""
        self._marked.clear()
        self._client.publish(self._mark, b"", qos=1)
        assert self._marked.wait(30), "the broker sends nothing"
        return list(self.messages)

    def close(self) -> list[Any]:
        _end(self._client)
        return self.messages


def _end(client: Any) -> None:
    client.disconnect()
    client.loop_stop()
