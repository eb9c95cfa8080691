"""Decoders and encoders of Avro from the options of messages."""

from __future__ import annotations

from collections.abc import Callable

from dataflare.errors import ConfigError, DataError
from dataflare.formats.messages.avro import AvroDecoder
from dataflare.formats.messages.avro_encode import AvroEncoder, schema_of
from dataflare.formats.messages.avro_schema import AvroType, parse
from dataflare.formats.messages.contract import Decoder, Encoder
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.messages.config import RegistryConfig
from dataflare.sdk.messages.registry import Registered, RegistryClient

_TYPE = "AVRO"


def avro_decoder(
    schema: str | None, registry: RegistryConfig | None, subject: str, context: ConnectorContext
) -> Decoder:
    """schema: a file or its JSON; without one the newest of the subject says what the rows look like."""
    given = schema_text(schema, context) if schema is not None else None
    if registry is None:
        assert given is not None
        return AvroDecoder(parse(given, where="`schema`"))
    client = RegistryClient(registry, context.step, context.base)
    if given is not None:
        reader = parse(given, where="`schema`")
    else:
        newest = latest(client, registry, subject, context.step)
        reader = parsed(client, newest, f"the newest schema of '{subject}'")
    return AvroDecoder(reader, writer_of=_writers(client))


def avro_encoder(
    schema: str | None,
    registry: RegistryConfig | None,
    subject: str,
    columns: Schema,
    context: ConnectorContext,
) -> Encoder:
    """Without a schema the rows have one of their own, which the registry gets."""
    if registry is None:
        assert schema is not None
        text = schema_text(schema, context)
        return AvroEncoder(columns, parse(text, where="`schema`"))
    client = RegistryClient(registry, context.step, context.base)
    if schema is None and not registry.register_:
        newest = latest(client, registry, subject, context.step)
        type_ = parsed(client, newest, f"the newest schema of '{subject}'")
        return AvroEncoder(columns, type_, id_=newest.id)
    text = schema_of(columns, "Row") if schema is None else schema_text(schema, context)
    type_ = parse(text, where="`schema`")
    if registry.register_:
        return AvroEncoder(columns, type_, id_=client.register(subject, text, _TYPE))
    found = client.find(subject, text, _TYPE)
    if found is None:
        raise ConfigError(
            f"the registry {registry.url} does not have the schema under '{subject}'",
            code="E0424",
            step=context.step,
            help="register it, or leave out `register: false`",
        )
    return AvroEncoder(columns, type_, id_=found.id)


def latest(client: RegistryClient, registry: RegistryConfig, subject: str, step: str) -> Registered:
    """Raises ConfigError (E0405) where there is no such subject."""
    found = client.latest(subject)
    if found is None:
        raise ConfigError(
            f"the registry {registry.url} has no subject '{subject}', so the columns are not known",
            code="E0405",
            step=step,
            help="name it in `registry: {subject: ...}`, or give the `schema`",
        )
    return found


def parsed(client: RegistryClient, registered: Registered, where: str) -> AvroType:
    """Raises DataError (E0571) for a schema of another kind, ConfigError (E0421)."""
    if registered.type != _TYPE:
        raise DataError(
            f"{where} is of type {registered.type}, not AVRO",
            code="E0571",
            help="set the `format` that the messages have",
        )
    references = [text for _, text in client.texts(registered)]
    return parse(registered.text, references, where=where)


def _writers(client: RegistryClient) -> Callable[[int], AvroType]:
    def writer_of(id_: int) -> AvroType:
        return parsed(client, client.schema(id_), f"the schema with id {id_}")

    return writer_of


def schema_text(schema: str, context: ConnectorContext) -> str:
    """The text of a schema that stands in the workflow, or in a file that it names."""
    if schema.lstrip().startswith(("{", "[")):
        return schema
    return file_text(schema, context)


def file_text(name: str, context: ConnectorContext) -> str:
    path = context.path(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the schema {path} cannot be read: {error}",
            code="E0405",
            step=context.step,
            help="name a file, from the workflow file's folder",
        ) from error
