"""The options of Kafka sources and destinations."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.model.units import Duration, Moment
from dataflare.sdk.many_tables import ManyTables
from dataflare.sdk.messages.config import (
    ChangeOptions,
    DataFormat,
    Format,
    MessageOptions,
    SourceMessageOptions,
)
from dataflare.sdk.tls import PasswordTls

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
_OURS = re.compile(
    r"bootstrap\.servers|group\..*|enable\.auto.*|auto\.(offset\.reset|commit.*)|isolation\.level"
    r"|transactional\.id|transaction\.timeout\.ms|enable\.(idempotence|partition\.eof)|acks|request\.required\.acks"
    r"|security\.protocol|sasl\..*|ssl\..*|.*_cb|partitioner|delivery\.report.*|message\.max\.bytes|max\.in\.flight.*"
    r"|retries|message\.send\.max\.retries|partition\.assignment\.strategy|plugin\..*"
)
"""Settings of the client that have an option of their own, or that must have the value that they have."""
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


ANSWER_MAX_S = 60.0
"""The client gives up a request after this time, or after `timeout` if that is less."""


class Sasl(BaseModel):
    """Who logs in."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    mechanism: Mechanism = Field("SCRAM-SHA-512", description="how the password is shown")
    username: str = Field(min_length=1, description="the user's name")
    password: str = Field(min_length=1, repr=False, description="the user's password")


class KafkaConfig(BaseModel):
    """How to reach the brokers; the same for sources and destinations."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    bootstrap_servers: str | None = Field(
        None, description="one or more brokers: host:port, with commas between, or as a list"
    )
    connection: str | None = Field(None, description="another name of `bootstrap_servers`")
    tls: PasswordTls | bool = Field(False, description="speak TLS: true, or {ca, certificate, key}")
    sasl: Sasl | None = Field(None, description="log in: {mechanism, username, password}")
    timeout: Duration = Field(
        30.0, gt=0, description="how long to wait for an answer of the brokers"
    )
    options: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        repr=False,
        description="other settings of the client library, by their names in librdkafka, such as "
        "fetch.max.bytes or compression.type",
    )

    @field_validator("bootstrap_servers", "connection", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        if isinstance(value, list):
            value = ",".join(str(each) for each in value)
        if isinstance(value, str):
            value = value.removeprefix("kafka://")
            for each in value.split(","):
                if not re.fullmatch(r"\s*[^\s:/@]+(:\d+)?\s*|\s*\[[0-9a-fA-F:]+\](:\d+)?\s*", each):
                    raise ValueError("expected host:port, or several with commas between")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.bootstrap_servers is None) == (self.connection is None):
            raise ValueError("needs 'bootstrap_servers' (or 'connection', which is the same)")
        return self

    @property
    def servers(self) -> str:
        """The brokers that are asked first."""
        return self.bootstrap_servers or self.connection or ""

    @field_validator("options")
    @classmethod
    def _free(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if _OURS.fullmatch(name):
                raise ValueError(f"'{name}' cannot be set here")
        return value


class Offsets(BaseModel):
    """Where reading begins, by partition."""

    model_config = ConfigDict(extra="forbid")

    offsets: dict[str, dict[int, int]] = Field(
        description="by topic and partition, the first offset to read: {orders: {0: 1200, 1: 980}}; other "
        "partitions are read from their oldest message"
    )


class From(BaseModel):
    """Where reading begins, by time."""

    model_config = ConfigDict(extra="forbid")

    time: Moment = Field(description="the first message of each partition at or after this time")


class DebeziumOptions(BaseModel):
    """What is known of the table whose changes are in a topic."""

    model_config = ConfigDict(extra="forbid")

    key: list[str] = Field(
        default_factory=list,
        description="the columns of the table's key. Steps that need the row which is deleted, such as a filter, "
        "find it by them",
    )
    metadata: list[Literal["ts", "lsn", "txid", "snapshot"]] = Field(
        default_factory=list,
        description="what `source` of a change says, as columns: ts (`_ts`, when it was committed), lsn (`_lsn`, its place in "
        "the log), txid (`_txid`, its transaction), snapshot (`_snapshot`, whether it is of the first read, where the others "
        "are NULL)",
    )
    outbox: bool = Field(
        False,
        description="the table is an outbox: its new rows are events, that they are removed later says nothing, and one that is "
        "updated is bad. The rows are plain inserts then",
    )


class KafkaSourceConfig(SourceMessageOptions, KafkaConfig, ManyTables):
    chosen_by: ClassVar[str] = "topic"
    # A source reads one format more.
    format: Literal[Format, "debezium"] = Field(  # type: ignore[assignment]
        "json",
        description="json: an object in each message; avro: a record; protobuf: a message of Protobuf; csv: a row; "
        "cloudevents: an event; raw, text: one column `value` of bytes or of text; debezium: changes of a table, in JSON, or with "
        "'registry' in Avro",
    )
    debezium: DebeziumOptions = Field(
        default_factory=lambda: DebeziumOptions.model_validate({}),
        description="debezium: what is known of the table",
    )
    topic: str | list[str] = Field(
        description="a topic, a list of topics, or a regular expression that begins with ^"
    )
    start: Literal["earliest", "latest", "group"] | From | Offsets = Field(
        "earliest",
        description="where the first run begins: earliest: the oldest message; latest: messages from now on; "
        "group: where the group `group_id` is, else the oldest; {time: ...}; {offsets: {topic: {0: 12}}}",
    )
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read to the messages that are there when the run starts, and end; the next run goes "
        "on there. By default the source has no end",
    )
    group_id: str | None = Field(
        None,
        min_length=1,
        description="a consumer group to which positions are told after each checkpoint, so that other tools show "
        "the lag. A run does not join it, and takes its position from there only at the first start",
    )
    isolation: Literal["read_committed", "read_uncommitted"] = Field(
        "read_committed",
        description="whether messages of transactions that are open or were aborted are read",
    )
    lost_offsets: Literal["fail", "skip"] = Field(
        "fail",
        description="when the next message is not there any more, because the topic keeps messages for a limited "
        "time: fail, or skip to the oldest that is there and say how many are gone",
    )
    discovery: Duration = Field(
        30.0, gt=0, description="the time between two looks for new partitions and topics"
    )

    @field_validator("topic")
    @classmethod
    def _names(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        if not names:
            raise ValueError("expected at least one topic")
        for name in names:
            if name.startswith("^"):
                try:
                    re.compile(name)
                except re.error as error:
                    raise ValueError(f"{name!r} is not a regular expression: {error}") from error
            elif not _TOPIC.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a topic")
        if len(set(names)) != len(names):
            raise ValueError("a topic is named twice")
        return value

    @property
    def has_changes(self) -> bool:
        return self.format == "debezium"

    @property
    def value_format(self) -> DataFormat:
        if self.has_changes:
            return "json" if self.registry is None else "avro"
        return super().value_format

    @property
    def change_options(self) -> ChangeOptions:
        facts = tuple(f"_{name}" for name in dict.fromkeys(self.debezium.metadata))
        return ChangeOptions(facts, self.debezium.outbox)

    @property
    def is_changelog(self) -> bool:
        if self.has_changes:
            return not self.debezium.outbox
        return self.tombstones == "delete"

    @model_validator(mode="after")
    def _changes(self) -> Self:
        if not self.has_changes and "debezium" in self.model_fields_set:
            raise ValueError(f"'debezium' has no effect on format: {self.format}")
        if self.has_changes and "tombstones" in self.model_fields_set:
            raise ValueError(
                "'tombstones' has no effect on format: debezium, where a change says it"
            )
        return self

    @model_validator(mode="after")
    def _group(self) -> Self:
        if self.start == "group" and self.group_id is None:
            raise ValueError("'start: group' needs 'group_id'")
        return self

    @property
    def topics(self) -> list[str]:
        return [self.topic] if isinstance(self.topic, str) else self.topic


class NewTopic(BaseModel):
    """What a topic is like that is made because it is missing."""

    model_config = ConfigDict(extra="forbid")

    partitions: int | None = Field(None, ge=1, description="by default as the brokers are set")
    replication: int | None = Field(None, ge=1, description="by default as the brokers are set")
    settings: dict[str, str] = Field(
        default_factory=dict, description="such as {cleanup.policy: compact}"
    )


class DebeziumWriteOptions(BaseModel):
    """How changes are written."""

    model_config = ConfigDict(extra="forbid")

    schemas: bool = Field(
        False,
        description="whether each message and each key has its schema in front (`schemas.enable`)",
    )
    tombstones: bool = Field(
        True, description="whether a message without a value follows that of a delete"
    )
    database: str = Field("", description="`source.db` of each message")
    table: str | None = Field(
        None, min_length=1, description="`source.table` of each message; by default the topic"
    )


class KafkaDestinationConfig(MessageOptions, KafkaConfig):
    # As for a source.
    format: Literal[Format, "debezium"] = Field(  # type: ignore[assignment]
        "json",
        description="json: an object in each message; avro: a record; protobuf: a message of Protobuf; csv: a row; "
        "cloudevents: an event; raw, text: one column `value` of bytes or of text; debezium: changes as Debezium writes them, "
        "in JSON, or with 'registry' in Avro",
    )
    debezium: DebeziumWriteOptions = Field(
        default_factory=lambda: DebeziumWriteOptions.model_validate({}),
        description="debezium: how changes are written",
    )
    topic: str = Field(
        min_length=1,
        description="the topic to write; {column} in it is the value of a column, so rows go to several topics",
    )
    mode: Literal["append", "upsert", "mirror"] = Field(
        "append",
        description="append: each row is a message; upsert, mirror: rows of a changelog too, the last message of "
        "a key is its row; mirror writes a message without a value for a delete",
    )
    key: list[str] = Field(
        default_factory=list,
        description="the columns of a message's key: one column as its text or bytes, several as a JSON object; "
        "messages of one key are in one partition, in order",
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="by header, the column with its value: {trace-id: trace}"
    )
    timestamp: str | None = Field(
        None, min_length=1, description="the column with a message's time; by default it is now"
    )
    partition: str | None = Field(
        None, min_length=1, description="the column with the number of a message's partition"
    )
    partitioner: Literal["murmur2_random", "consistent_random", "fnv1a_random", "random"] = Field(
        "murmur2_random",
        description="how a key chooses its partition: murmur2_random as Java's client does, consistent_random as "
        "librdkafka does",
    )
    guarantee: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="exactly_once: the messages of an epoch are one transaction, seen when the checkpoint is done; "
        "at_least_once: they are sent at once, and again after a crash",
    )
    transaction_timeout: Duration = Field(
        60.0,
        gt=1,
        description="how long the brokers wait for the end of a transaction; readers with read_committed wait as long "
        "for a run that was killed while it committed and does not come back",
    )
    create_topic: NewTopic | bool = Field(
        True,
        description="make a missing topic: true, false, or {partitions, replication, settings}",
    )
    marker_topic: str = Field(
        "_dataflare_epochs",
        min_length=1,
        description="the topic that records which epoch was committed, made when it is missing",
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "lz4", description="of the messages"
    )

    @field_validator("key", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("topic")
    @classmethod
    def _template(cls, value: str) -> str:
        if not _TOPIC.fullmatch(_PLACEHOLDER.sub("x", value)):
            raise ValueError(f"{value!r} cannot be the name of a topic")
        return value

    @property
    def has_changes(self) -> bool:
        return self.format == "debezium"

    @property
    def value_format(self) -> DataFormat:
        if self.has_changes:
            return "json" if self.registry is None else "avro"
        return super().value_format

    @model_validator(mode="after")
    def _changes(self) -> Self:
        if not self.has_changes:
            if "debezium" in self.model_fields_set:
                raise ValueError(f"'debezium' has no effect on format: {self.format}")
            return self
        if self.topic_columns:
            raise ValueError("format: debezium writes one topic: 'topic' takes no {column}")
        if self.key_format is not None:
            raise ValueError("format: debezium has keys of its own: leave 'key_format' out")
        if self.debezium.schemas and self.registry is not None:
            raise ValueError("'debezium: {schemas: true}' has no effect with 'registry'")
        return self

    @model_validator(mode="after")
    def _keyed(self) -> Self:
        if self.mode != "append" and not self.key:
            raise ValueError(f"mode {self.mode} needs 'key'")
        return self

    @model_validator(mode="after")
    def _transactions_outlast_an_answer(self) -> Self:
        answer = min(self.timeout, ANSWER_MAX_S)
        if self.guarantee == "exactly_once" and self.transaction_timeout < answer:
            raise ValueError(
                f"'transaction_timeout' ({self.transaction_timeout:g} s) is shorter than 'timeout' "
                f"({self.timeout:g} s): the brokers would end a transaction while its producer waits for an answer; raise the first or lower the second"
            )
        return self

    @property
    def topic_columns(self) -> list[str]:
        """The columns that the name of the topic is made of."""
        return _PLACEHOLDER.findall(self.topic)

    @property
    def topic_pieces(self) -> list[str]:
        """The name of the topic, in pieces: text and column in turn."""
        return _PLACEHOLDER.split(self.topic)
