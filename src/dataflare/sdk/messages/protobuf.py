"""Decoders and encoders of Protobuf from the options of messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataflare.errors import ConfigError
from dataflare.formats.messages.avro_datum import varint
from dataflare.formats.messages.contract import Decoder, Encoder
from dataflare.formats.messages.protobuf import IndexesOf, ProtobufCodec, ProtobufDecoder
from dataflare.formats.messages.protobuf_encode import ProtobufEncoder
from dataflare.formats.messages.protobuf_schema import (
    ProtobufSchema,
    compiled,
    differing_fields,
    path_of,
)
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.messages.avro import file_text, latest
from dataflare.sdk.messages.config import RegistryConfig
from dataflare.sdk.messages.registry import Registered, RegistryClient

_TYPE = "PROTOBUF"
_MAIN = "schema.proto"


def protobuf_decoder(
    schema: str | None,
    message: str | None,
    includes: Sequence[str],
    registry: RegistryConfig | None,
    subject: str,
    context: ConnectorContext,
) -> Decoder:
    """schema: a `.proto` file or a descriptor set; without one the newest of the subject."""
    if registry is None:
        assert schema is not None
        return ProtobufDecoder(ProtobufCodec(_file(schema, includes, context).message(message)))
    client = RegistryClient(registry, context.step, context.base)
    if schema is not None:
        descriptor = _file(schema, includes, context).message(message)
    else:
        newest = latest(client, registry, subject, context.step)
        registered = _registered(client, newest, f"the newest schema of '{subject}'")
        descriptor = registered.message(message) if message else registered.at([0])
        if descriptor is None:
            descriptor = registered.message()
    codec = ProtobufCodec(descriptor)
    return ProtobufDecoder(codec, check=_check(client, codec))


def protobuf_encoder(
    schema: str | None,
    message: str | None,
    includes: Sequence[str],
    registry: RegistryConfig | None,
    subject: str,
    columns: Schema,
    context: ConnectorContext,
) -> Encoder:
    if registry is None:
        assert schema is not None
        codec = ProtobufCodec(_file(schema, includes, context).message(message))
        return ProtobufEncoder(columns, codec)
    client = RegistryClient(registry, context.step, context.base)
    if schema is None:
        newest = latest(client, registry, subject, context.step)
        found, id_ = _registered(client, newest, f"the newest schema of '{subject}'"), newest.id
    else:
        found = _file(schema, includes, context)
        id_ = _id(client, registry, subject, file_text(schema, context), context.step)
    codec = ProtobufCodec(found.message(message))
    path = path_of(codec.descriptor)
    indexes = b"\0" if path == [0] else b"".join(map(varint, [len(path), *path]))
    return ProtobufEncoder(columns, codec, head=b"\0" + id_.to_bytes(4, "big") + indexes)


def _id(
    client: RegistryClient, registry: RegistryConfig, subject: str, text: str, step: str
) -> int:
    if registry.register_:
        return client.register(subject, text, _TYPE)
    found = client.find(subject, text, _TYPE)
    if found is None:
        raise ConfigError(
            f"the registry {registry.url} does not have the schema under '{subject}'",
            code="E0424",
            step=step,
            help="register it, or leave out `register: false`",
        )
    return found.id


def _file(schema: str, includes: Sequence[str], context: ConnectorContext) -> ProtobufSchema:
    path = context.path(schema)
    if path.suffix != ".proto":
        try:
            return ProtobufSchema(path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"the schema {path} cannot be read: {error}",
                code="E0405",
                step=context.step,
                help="name a .proto file or a descriptor set, from the workflow file's folder",
            ) from error
    file_text(schema, context)
    folders: list[Path] = [context.path(each) for each in includes]
    return ProtobufSchema(compiled({}, [*folders, path.parent], path.name), path.name)


def _registered(client: RegistryClient, registered: Registered, where: str) -> ProtobufSchema:
    if registered.type != _TYPE:
        raise ConfigError(
            f"{where} is of type {registered.type}, not PROTOBUF",
            code="E0426",
            help="set the `format` that the messages have",
        )
    files = dict(client.texts(registered)) | {_MAIN: registered.text}
    return ProtobufSchema(compiled(files, [], _MAIN), _MAIN)


def _check(client: RegistryClient, codec: ProtobufCodec) -> IndexesOf:
    """Whether messages of an id can be read as those of the reader: the same message, with the same kinds of
    bytes in fields of the same number."""
    schemas: dict[int, ProtobufSchema] = {}
    reader = codec.descriptor

    def check(id_: int, indexes: tuple[int, ...]) -> str | None:
        if id_ not in schemas:
            schemas[id_] = _registered(client, client.schema(id_), f"the schema with id {id_}")
        written = schemas[id_].at(indexes)
        if written is None:
            return f"the schema with id {id_} has no message at the indexes {list(indexes)}"
        if written.full_name != reader.full_name:
            return f"it is a message {written.full_name}, and {reader.full_name} is read here"
        wrong = differing_fields(written, reader)
        if wrong:
            return f"the schema with id {id_} has other types: {', '.join(wrong)}"
        return None

    return check
