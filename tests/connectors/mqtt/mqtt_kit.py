"""A topic of its own for a test, with what goes into it and what comes out of it, by the client library alone."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from servers.mosquitto import MosquittoServer
from servers.process import PASSWORD, USER

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

_numbers = itertools.count()


class Place:
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

    def put(self, values: Iterable[tuple[bytes, str | None]]) -> None:
        """values: payloads with their ids."""
        client = self.client()
        for value, id_ in values:
            about = Properties(PacketTypes.PUBLISH)
            if id_ is not None:
                about.UserProperty = [("id", id_)]
            client.publish(f"{self.topic}/in", value, qos=1, properties=about).wait_for_publish(30)
        _end(client)

    def numbers(self, first: int, after: int) -> None:
        self.put(
            (json.dumps({"n": n, "text": f"row {n}"}).encode(), f"m{n}")
            for n in range(first, after)
        )

    def listening(self) -> Listening:
        return Listening(self)

    def run(self, workflow: str, name: str = "home", **options: Any) -> RunResult:
        """A run of a workflow with this topic and this server in it."""
        loaded = load_text(self.filled(workflow), base=self.folder)
        return run(loaded, RunOptions(self.folder / name, **options))

    def filled(self, workflow: str) -> str:
        text = workflow.replace("SESSION", f"session-{self.topic}")
        return text.replace("TOPIC", self.topic).replace("SERVER", self.server.url)


class Listening:
    """What arrives below `NAME/out` while it is open."""

    def __init__(self, place: Place) -> None:
        self.messages: list[Any] = []
        self._client = place.client()
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _c, _d, message: self.messages.append(message)
        self._client.subscribe(f"{place.topic}/out/#", qos=1)
        assert subscribed.wait(30)

    def close(self) -> list[Any]:
        _end(self._client)
        return self.messages


def _end(client: Any) -> None:
    client.disconnect()
    client.loop_stop()
