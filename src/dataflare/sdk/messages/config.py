"""The options of messages, the same for every broker. A connector's config inherits from them."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.tls import TlsFiles

Format = Literal["json", "avro", "protobuf", "csv", "cloudevents", "raw", "text"]
KeyFormat = Literal["json", "avro", "protobuf", "raw", "text"]
DataFormat = Literal["json", "avro", "protobuf", "csv", "raw", "text"]
WITH_SCHEMA = ("avro", "protobuf")
"""Formats whose bytes cannot be read without a schema."""


class ChangeOptions(NamedTuple):
    """facts: the columns of what changes say of themselves. outbox: whether the table is an outbox."""

    facts: tuple[str, ...] = ()
    outbox: bool = False


class Coded(NamedTuple):
    """Values or keys. prefix: of their options."""

    prefix: str
    format: str | None
    schema: str | None
    message: str | None


class RegistryAuth(BaseModel):
    """The credentials for a schema registry."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    type: Literal["basic", "bearer"] = Field(description="a name and password, or a token")
    username: str | None = Field(None, description="for basic")
    password: str | None = Field(None, repr=False, description="for basic")
    token: str | None = Field(None, min_length=1, repr=False, description="for bearer")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        wanted = ("username", "password") if self.type == "basic" else ("token",)
        for name in ("username", "password", "token"):
            if (getattr(self, name) is None) == (name in wanted):
                verb = "needs" if name in wanted else "takes no"
                raise ValueError(f"auth of type {self.type} {verb} '{name}'")
        return self


class RegistryTls(TlsFiles):
    """How a schema registry shows who it is, and who asks it."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("'key' needs 'certificate'")
        return self


class RegistryConfig(BaseModel):
    """A schema registry that speaks Confluent's protocol."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str = Field(description="http://... or https://...")
    auth: RegistryAuth | None = Field(None, description="who asks")
    tls: RegistryTls | None = Field(None, description="for https")
    timeout: Duration = Field(10.0, gt=0, description="how long to wait for one answer")
    subject: str | None = Field(
        None,
        min_length=1,
        description="under which name schemas are found and registered; by default the topic's name with "
        "-value, or -key for keys",
    )
    register_: bool = Field(
        True,
        alias="register",
        description="a destination registers the schema of its rows; false: the subject must have it",
    )

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://host:port or https://host:port")
        if parts.username or parts.password:
            raise ValueError("put name and password in 'auth', where they are not shown")
        return value.rstrip("/")


class CsvOptions(BaseModel):
    """How messages of CSV are written."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    columns: list[str] | None = Field(
        None,
        min_length=1,
        description="the fields of a message, in order; by default the columns of the step's `schema`, or for a "
        "destination those that reach it",
    )
    delimiter: str = Field(
        ",", min_length=1, max_length=1, description="the character between fields"
    )

    @field_validator("columns")
    @classmethod
    def _once(cls, value: list[str] | None) -> list[str] | None:
        return _each_once(value)


class SourceCsvOptions(CsvOptions):
    quote: str | None = Field(
        '"',
        min_length=1,
        max_length=1,
        description="around fields; null: quotes are ordinary characters",
    )
    null_values: list[str] = Field(
        default_factory=list, description="texts that are NULL, beside the empty one"
    )


class CloudEventsOptions(BaseModel):
    """How events are written."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    mode: Literal["structured", "binary"] = Field(
        "structured",
        description="structured: a JSON object with all of the event; binary: the value is the data, headers are "
        "the attributes",
    )
    data: DataFormat = Field("json", description="the format of the data, with its own options")
    source: str | None = Field(
        None,
        min_length=1,
        description="the attribute `source` of each event; else the column ce_source",
    )
    type: str | None = Field(
        None,
        min_length=1,
        description="the attribute `type` of each event; else the column ce_type",
    )


class SourceCloudEventsOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    mode: Literal["auto", "structured", "binary"] = Field(
        "auto",
        description="structured: a JSON object with all of the event; binary: the value is the data, headers are "
        "the attributes; auto: each message as it is",
    )
    data: DataFormat = Field("json", description="the format of the data, with its own options")
    extensions: list[str] = Field(
        default_factory=list,
        description="other attributes that become columns: [traceparent] gives ce_traceparent",
    )

    @field_validator("extensions")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        for name in value:
            if not re.fullmatch("[a-z0-9]+", name):
                raise ValueError(
                    f"'{name}' is not an attribute: they have lower-case letters and digits"
                )
        return _each_once(value) or []


def _each_once(value: list[str] | None) -> list[str] | None:
    for name in value or ():
        if value is not None and value.count(name) > 1:
            raise ValueError(f"'{name}' is twice in it")
    return value


class ValueOptions(BaseModel):
    """What the bytes of messages without keys are; for sources and destinations."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    format: Format = Field(
        "json",
        description="json: an object in each message; avro: a record; protobuf: a message of Protobuf; csv: a row; "
        "cloudevents: an event; raw, text: one column `value` of bytes or of text",
    )
    schema_: str | None = Field(
        None,
        alias="schema",
        min_length=1,
        description="avro: the schema, as a file (.avsc) or as its JSON; protobuf: a .proto file, or a "
        "descriptor set. With a registry it is what the rows look like, whatever schema a message has",
    )
    message: str | None = Field(
        None,
        min_length=1,
        description="protobuf: the full name of the message, where the schema has several",
    )
    includes: list[str] = Field(
        default_factory=list,
        description="protobuf: folders in which imports of a .proto file are found",
    )
    registry: RegistryConfig | None = Field(
        None, description="the registry in which messages find their schemas"
    )
    csv: CsvOptions = Field(
        default_factory=lambda: CsvOptions.model_validate({}),
        description="csv: how messages are written",
    )
    cloudevents: CloudEventsOptions = Field(
        default_factory=lambda: CloudEventsOptions.model_validate({}),
        description="cloudevents: how events are written",
    )

    @property
    def value_format(self) -> DataFormat:
        """The format of values; of events, that of their data."""
        return self.cloudevents.data if self.format == "cloudevents" else self.format

    @property
    def has_changes(self) -> bool:
        """Whether messages are changes as Debezium writes them."""
        return False

    @property
    def change_options(self) -> ChangeOptions:
        """Of such messages, what is to be read of them."""
        return ChangeOptions()

    def coded(self) -> list[Coded]:
        """What has a format: values, and keys where there are some."""
        return [Coded("", self.value_format, self.schema_, self.message)]

    @model_validator(mode="after")
    def _schemas_are_used(self) -> Self:
        value_format = self.value_format
        for name, used in (("csv", value_format), ("cloudevents", self.format)):
            if name in self.model_fields_set and used != name:
                raise ValueError(f"'{name}' has no effect on format: {used}")
        formats = {each.format for each in self.coded()}
        for prefix, format_, schema, message in self.coded():
            if schema is not None and format_ not in WITH_SCHEMA:
                raise ValueError(f"'{prefix}schema' has no effect on {prefix}format: {format_}")
            if format_ in WITH_SCHEMA and schema is None and self.registry is None:
                raise ValueError(f"{prefix}format: {format_} needs '{prefix}schema' or 'registry'")
            if message is not None and format_ != "protobuf":
                raise ValueError(f"'{prefix}message' has no effect on {prefix}format: {format_}")
        if self.includes and "protobuf" not in formats:
            raise ValueError(f"'includes' has no effect on format: {value_format}")
        if self.registry is not None and not formats & {*WITH_SCHEMA}:
            raise ValueError(f"'registry' has no effect on format: {value_format}")
        return self


class MessageOptions(ValueOptions):
    """What the bytes of messages with keys are; for sources and destinations."""

    key_format: KeyFormat | None = Field(
        None, description="the same for keys, which are bytes without it"
    )
    key_schema: str | None = Field(None, min_length=1, description="the same as `schema` for keys")
    key_message: str | None = Field(
        None, min_length=1, description="the same as `message` for keys"
    )

    def coded(self) -> list[Coded]:
        return [
            *super().coded(),
            Coded("key_", self.key_format, self.key_schema, self.key_message),
        ]


class ValueSourceOptions(ValueOptions):
    """Of a source whose messages have no keys, and are never without a value."""

    csv: SourceCsvOptions = Field(
        default_factory=lambda: SourceCsvOptions.model_validate({}),
        description="csv: how messages are written",
    )
    # A source has other options, and both are used through `data` alone.
    cloudevents: SourceCloudEventsOptions = Field(  # type: ignore[assignment]
        default_factory=lambda: SourceCloudEventsOptions.model_validate({}),
        description="cloudevents: how events are written",
    )
    metadata: list[str] = Field(
        default_factory=list,
        description="what else of a message becomes a column, with an underscore before its name",
    )
    metadata_nested: bool = Field(
        False, description="these are the fields of one column, `_message`, instead"
    )

    @field_validator("metadata")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return _each_once(value) or []


class SourceMessageOptions(MessageOptions):
    """Of a source whose messages have keys."""

    csv: SourceCsvOptions = Field(
        default_factory=lambda: SourceCsvOptions.model_validate({}),
        description="csv: how messages are written",
    )
    # A source has other options, and both are used through `data` alone.
    cloudevents: SourceCloudEventsOptions = Field(  # type: ignore[assignment]
        default_factory=lambda: SourceCloudEventsOptions.model_validate({}),
        description="cloudevents: how events are written",
    )
    metadata: list[str] = Field(
        default_factory=list,
        description="what else of a message becomes a column, with an underscore before its name: "
        "[key, topic, partition, offset, timestamp, headers] of Kafka",
    )
    metadata_nested: bool = Field(
        False, description="these are the fields of one column, `_message`, instead"
    )
    tombstones: Literal["null", "skip", "delete"] = Field(
        "null",
        description="what a message without a value is: null: a row in which the value's columns are "
        "NULL; skip: nothing; delete: the delete of the row with that key, for destinations with mode "
        "upsert or mirror",
    )

    @field_validator("metadata")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return _each_once(value) or []

    @model_validator(mode="after")
    def _key_is_read(self) -> Self:
        if self.key_format is not None and "key" not in self.metadata:
            raise ValueError("'key_format' has no effect unless 'metadata' has key")
        return self
