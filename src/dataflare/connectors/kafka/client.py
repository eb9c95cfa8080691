"""The settings of the client library, and what it says of its connections.

Always true: nothing is printed; no password is in a text that is shown.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from dataflare.connectors.kafka.config import ANSWER_MAX_S, KafkaConfig
from dataflare.connectors.kafka.errors import UNANSWERED, translated
from dataflare.errors import DataFlareError
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.tls import PasswordTls, file_of


class KafkaClient:
    """One step's way to the brokers. servers: to show. problem: the last that the client said of its
    connections, down_since: when it said that no broker can be reached; both None when all is well.

    Blocking. It may be used by several threads; it does not pickle.
    """

    def __init__(self, config: KafkaConfig, context: ConnectorContext) -> None:
        self.config, self._context = config, context
        self.servers = config.servers
        self.problem: KafkaError | None = None
        self.down_since: float | None = None
        self._admin: AdminClient | None = None

    @property
    def step(self) -> str:
        return self._context.step

    def settings(self, **more: Any) -> dict[str, Any]:
        """Those of every client. more: others, with _ for each dot."""
        config = self.config
        timeout_ms = max(1, int(config.timeout * 1000))
        settings: dict[str, Any] = {
            "bootstrap.servers": config.servers,
            "client.id": f"dataflare-{self.step}",
            "log_level": 0,
            "error_cb": calls(self._said),
            "socket.timeout.ms": max(10, min(timeout_ms, int(ANSWER_MAX_S * 1000))),
            "socket.connection.setup.timeout.ms": max(1000, min(timeout_ms, 30_000)),
            "socket.keepalive.enable": True,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.propagation.max.ms": min(timeout_ms, 10_000),
        }
        settings |= self._security()
        settings |= config.options
        return settings | {name.replace("_", "."): value for name, value in more.items()}

    def consumer(self, **more: Any) -> Consumer:
        """A consumer that stores no offsets and joins no group."""
        with self.errors():
            return Consumer(
                self.settings(
                    **{"group_id": "dataflare", "enable_auto_commit": False, **more},
                    enable_auto_offset_store=False,
                    auto_offset_reset="error",
                    enable_partition_eof=True,
                )
            )

    @property
    def admin(self) -> AdminClient:
        """The client for topics and offsets. It asks the controller that it knows, and asks for another one only each
        five minutes. So after a call that got no answer another client takes its place."""
        if self._admin is None:
            with self.errors():
                self._admin = AdminClient(self.settings())
        return self._admin

    def _security(self) -> dict[str, Any]:
        config = self.config
        settings: dict[str, Any] = {}
        if isinstance(config.tls, PasswordTls):
            tls = config.tls
            places = {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key}
            paths = {name: self._file(place) for name, place in places.items() if place}
            settings |= {f"ssl.{name}.location": path for name, path in paths.items()}
            if tls.key_password is not None:
                settings["ssl.key.password"] = tls.key_password
            if not tls.check_name:
                settings["ssl.endpoint.identification.algorithm"] = "none"
        if config.sasl is not None:
            settings |= {
                "sasl.mechanism": config.sasl.mechanism,
                "sasl.username": config.sasl.username,
                "sasl.password": config.sasl.password,
            }
        kind = "SSL" if config.tls else "PLAINTEXT"
        settings["security.protocol"] = kind if config.sasl is None else f"SASL_{kind}"
        return settings

    def _file(self, place: str) -> str:
        return str(file_of(place, "tls", self._context))

    def _said(self, error: KafkaError) -> None:
        """An error that belongs to no call."""
        self.problem = error if error.code() != KafkaError._ALL_BROKERS_DOWN else self.problem
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self.down_since is None:
            self.down_since = time.monotonic()
            self.problem = self.problem or error

    def is_well(self) -> None:
        """A broker has answered."""
        self.problem = self.down_since = None

    def failed(self, error: KafkaError | Exception, doing: str = "") -> DataFlareError:
        """DataFlare's error for one of the client."""
        made = translated(error, self.servers, doing=doing, before=self.problem)
        return made.at(step=self.step)

    @contextmanager
    def errors(self, doing: str = "") -> Iterator[None]:
        """Convert the client's exceptions inside into DataFlare's."""
        try:
            yield
        except (KafkaException, ValueError, TypeError, RuntimeError) as error:
            raise self.failed(error, doing) from error

    def result(self, future: Any, doing: str) -> Any:
        """The result of a future of the admin client."""
        admin = self.admin
        with self.errors(doing):
            try:
                return future.result(self.config.timeout + 5)
            except TimeoutError as error:
                self._admin = None
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from error
            except KafkaException as error:
                if error.args[0].code() in UNANSWERED:
                    self._admin = None
                raise
            finally:
                admin.poll(0)  # what it has said of its connections arrives by this call

    def results(self, futures: dict[Any, Any], doing: str) -> dict[Any, Any]:
        """The results of several futures, by the same keys."""
        return {each: self.result(future, doing) for each, future in futures.items()}


def calls(method: Callable[..., None]) -> Callable[..., None]:
    """Calls a bound method as long as its object is there. A client of the library holds on to its callbacks: with the
    method itself, the two would keep each other, and the connections open."""
    held = weakref.WeakMethod(method)

    def call(*arguments: Any) -> None:
        there = held()
        if there is not None:
            there(*arguments)

    return call


def shown(names: Sequence[str]) -> str:
    """Names of topics in a message."""
    head = ", ".join(f"'{name}'" for name in names[:5])
    return head if len(names) <= 5 else f"{head} and {len(names) - 5} more"
