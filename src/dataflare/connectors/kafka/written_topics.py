"""What is known of the topics that are written, and the missing ones made. Blocking."""

from __future__ import annotations

from confluent_kafka import KafkaError
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,
    NewTopic,
    ResourceType,
)

from dataflare.connectors.kafka import config as options
from dataflare.connectors.kafka.client import KafkaClient
from dataflare.connectors.kafka.config import KafkaDestinationConfig
from dataflare.connectors.kafka.markers import make_topic
from dataflare.connectors.kafka.messages import Limits

_BATCH_BYTES = 1_000_000
_BATCH_BYTES_ANY = 64 << 10
"""Where the topics are not known before their first row."""


class Topics:
    """What is known of the topics that are written. Makes those that are missing, if it may."""

    def __init__(self, client: KafkaClient, config: KafkaDestinationConfig) -> None:
        self._client, self._config = client, config
        self._limits: dict[str, Limits] = {}

    def reach(self) -> None:
        """Raises where no broker can be reached."""
        with self._client.errors("list topics"):
            self._client.admin.list_topics(timeout=self._client.config.timeout)

    def limits(self, topic: str) -> Limits:
        """What a topic takes. Raises SystemError_ (E0604) if it is not there and may not be made."""
        if topic not in self._limits:
            self._limits[topic] = self._ask(topic)
        return self._limits[topic]

    def batch_bytes(self) -> int:
        """How large a batch of messages may be: the brokers refuse a larger one with all its messages."""
        if self._config.topic_columns:
            return _BATCH_BYTES_ANY
        return min(_BATCH_BYTES, self.limits(self._config.topic).message_bytes * 9 // 10)

    def _ask(self, topic: str) -> Limits:
        client, doing = self._client, f"write topic '{topic}'"
        with client.errors(doing):
            listed = client.admin.list_topics(topic, timeout=client.config.timeout).topics[topic]
        if listed.error is not None and listed.error.code() in (
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError._UNKNOWN_TOPIC,
        ):
            make_topic(client, self._new(topic, listed.error))
            return self._ask(topic)
        if listed.error is not None:
            raise client.failed(listed.error, doing)
        resource = ConfigResource(ResourceType.TOPIC, topic)
        with client.errors(doing):
            futures = client.admin.describe_configs(
                [resource], request_timeout=client.config.timeout
            )
        found = client.result(futures[resource], f"read the settings of topic '{topic}'")
        return Limits(
            len(listed.partitions),
            int(found["max.message.bytes"].value),
            "compact" in found["cleanup.policy"].value,
        )

    def _new(self, topic: str, error: KafkaError) -> NewTopic:
        how = self._config.create_topic
        if how is False:
            raise self._client.failed(error, f"write topic '{topic}'")
        how = (
            how
            if isinstance(how, options.NewTopic)
            else options.NewTopic(partitions=None, replication=None)
        )
        return NewTopic(
            topic,
            how.partitions if how.partitions is not None else -1,
            how.replication if how.replication is not None else -1,
            config=how.settings,
        )
