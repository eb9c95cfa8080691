"""Connections to an MQTT broker, on a thread of the client library.

Always true: a connection does not reconnect by itself; nothing is acknowledged unless that is asked for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dataflare.connectors.mqtt.config import MqttConfig
from dataflare.errors import DataFlareError, SystemError_
from dataflare.sdk.brokers.errors import no_answer, no_connection, no_tls, refused_login
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.threads import in_thread
from dataflare.security.redact import text_of

_REFUSED_LOGIN = ("not authorized", "bad user name or password", "bad authentication method")


class MqttConnection:
    """One connection. on_message: called on the client's own thread. session: its name, and for how many seconds the
    broker keeps it; None: nothing is kept."""

    def __init__(
        self,
        config: MqttConfig,
        context: ConnectorContext,
        *,
        session: tuple[str, float] | None = None,
        receive_maximum: int | None = None,
        on_message: Callable[[Any], None] | None = None,
    ) -> None:
        self.config, self.context = config, context
        self._session, self._receive_maximum = session, receive_maximum
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        self.lost = asyncio.Event()
        self.lost_why = "the connection was lost"
        self.refused: list[str] = []
        """Why messages that were sent are not taken."""
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=session[0] if session is not None else "",
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_publish = self._on_publish
        if on_message is not None:
            self.client.on_message = lambda _client, _data, message: on_message(message)

    async def begin(self) -> None:
        """Connect. Raises SystemError_."""
        config = self.config
        if config.login is not None:
            self.client.username_pw_set(*config.login)
        if (tls := config.tls_context(self.context)) is not None:
            self.client.tls_set_context(tls)
        self.client.connect_timeout = config.timeout
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        if self._session is not None:
            properties.SessionExpiryInterval = int(self._session[1])
        if self._receive_maximum is not None:
            properties.ReceiveMaximum = self._receive_maximum
        try:
            await in_thread(
                self.client.connect,
                config.host,
                config.port,
                max(1, int(config.timeout // 2)),
                clean_start=self._session is None,
                properties=properties,
            )
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        self.client.loop_start()
        await self._answer(self._connected, "connect")

    async def subscribe(self, topics: list[str]) -> None:
        from paho.mqtt.subscribeoptions import SubscribeOptions

        wanted = [(topic, SubscribeOptions(qos=self.config.qos)) for topic in topics]
        self.client.subscribe(wanted)
        await self._answer(self._subscribed, "subscribe")

    async def _answer(self, future: asyncio.Future[None], doing: str) -> None:
        try:
            async with asyncio.timeout(self.config.timeout):
                await asyncio.shield(future)
        except TimeoutError:
            place = self.config.place
            raise no_answer(place, f": {doing}", "broker", self.context.step) from None

    # -- on the client's thread --------------------------------------------------------------------

    def _on_connect(self, _c: Any, _d: Any, _flags: Any, reason: Any, _p: Any) -> None:
        error = None if not reason.is_failure else self._refusal(str(reason))
        self._tell(_settle, self._connected, error)

    def _on_subscribe(self, _c: Any, _d: Any, _mid: Any, reasons: Any, _p: Any) -> None:
        failed = [str(reason) for reason in reasons if reason.is_failure]
        error = None
        if failed:
            error = SystemError_(
                f"{self.config.place} refuses a subscription: {failed[0]}",
                code="E0602" if "authorized" in failed[0].lower() else "E0600",
                step=self.context.step,
                help="grant the user the right to read the topic",
            )
        self._tell(_settle, self._subscribed, error)

    def _on_publish(self, _c: Any, _d: Any, _mid: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            self.refused.append(str(reason))

    def _on_disconnect(self, _c: Any, _d: Any, _flags: Any, reason: Any, _p: Any) -> None:
        self.lost_why = str(reason)
        self._tell(self.lost.set)
        if not self._connected.done():
            self._tell(_settle, self._connected, self._failed(ConnectionError(str(reason))))

    def _tell(self, call: Callable[..., None], *given: Any) -> None:
        """Call on the event loop, unless that has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *given)

    # -- errors ------------------------------------------------------------------------------------

    def gone(self) -> DataFlareError:
        """The error of a connection that was lost."""
        return self._failed(ConnectionError(self.lost_why))

    def _refusal(self, why: str) -> DataFlareError:
        place = self.config.place
        if why.lower() in _REFUSED_LOGIN:
            return refused_login(place, step=self.context.step)
        return SystemError_(
            f"{place} refuses the connection: {why}",
            code="E0600",
            step=self.context.step,
            help="the broker must speak MQTT 5; see what it says",
        )

    def _failed(self, error: Exception) -> DataFlareError:
        place = self.config.place
        text = text_of(error)
        if isinstance(error, ssl.SSLError) or "certificate" in text.lower():
            return no_tls(place, text, self.context.step)
        return no_connection(place, text, "broker", self.context.step)

    async def aclose(self) -> None:
        """End it. The broker keeps the session."""
        self.client.disconnect()
        await in_thread(self.client.loop_stop)


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # so that it may stay unread
