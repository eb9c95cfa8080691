"""From the options of messages to what decodes and encodes them.

A source calls `needs_sample`, then `decoder` and `envelope`; a destination calls `encoder`. All of it may
read files and ask a registry, so it belongs on a thread (`sdk.threads.in_thread`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, cast

from dataflare.errors import ConfigError, did_you_mean
from dataflare.model.new_fields import Columns
from dataflare.model.types import Field, Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.destination import need_columns
from dataflare.sdk.messages.config import (
    ChangeOptions,
    Coded,
    SourceCloudEventsOptions,
    SourceCsvOptions,
    SourceMessageOptions,
    ValueOptions,
    ValueSourceOptions,
)
from dataflare.sdk.registry import missing_library

if TYPE_CHECKING:
    import polars as pl

    from dataflare.formats.messages.contract import Decoder, Encoder
    from dataflare.formats.messages.debezium_encode import DebeziumEncoder
    from dataflare.formats.messages.envelope import Envelope, Tombstones


def needs_sample(options: ValueOptions) -> bool:
    """Whether `decoder` finds columns, or their types, in a sample of messages."""
    format_ = options.value_format
    return format_ == "json" or (format_ == "csv" and options.csv.columns is not None)


def decoder(
    options: ValueOptions,
    context: ConnectorContext,
    *,
    topic: str,
    contract: Schema | None = None,
    sample: pl.Series | None = None,
    learned: Columns | None = None,
    is_key: bool = False,
    has_headers: bool = True,
) -> Decoder:
    """The decoder of the values, or of the keys. topic: what the messages are read from, for messages and
    names of subjects. contract: the step's `schema:`. sample: messages from which columns are found, where
    `needs_sample` says so. learned: as a source has them. has_headers: whether messages may have some. Raises ConfigError (E0405) for messages whose
    columns are not known."""
    import polars as pl

    if not is_key and options.has_changes:
        if options.registry is None:
            return _debezium_decoder(options, topic, contract, sample, learned, context.step)
        from dataflare.formats.messages.debezium_records import DebeziumRecords

        records = _decoder(options, context, topic, None, None, None, is_key)
        told = options.change_options
        made = DebeziumRecords(records, told.facts, outbox=told.outbox, step=context.step)
        return _fitting(made, contract, context)
    if is_key or options.format != "cloudevents":
        return _decoder(options, context, topic, contract, sample, learned, is_key)
    from dataflare.formats.messages.cloudevents import CloudEventsDecoder, data_of

    settings = cast("SourceCloudEventsOptions", options.cloudevents)
    if sample is not None:
        mode = settings.mode if has_headers or settings.mode == "binary" else "structured"
        sample = pl.Series([data_of(each, mode) for each in sample], dtype=pl.Binary)
    attributes = CloudEventsDecoder.attributes(settings.extensions)
    if contract is not None:
        contract = Schema(tuple(field for field in contract if field.name not in attributes))
    data = _decoder(options, context, topic, contract, sample, None, is_key)
    return CloudEventsDecoder(
        data, mode=settings.mode, extensions=settings.extensions, step=context.step
    )


def _decoder(
    options: ValueOptions,
    context: ConnectorContext,
    topic: str,
    contract: Schema | None,
    sample: pl.Series | None,
    learned: Columns | None,
    is_key: bool,
) -> Decoder:
    from dataflare.formats.messages.raw import RawDecoder

    match _coded(options, is_key).format:
        case "raw":
            return RawDecoder()
        case "csv":
            return _csv_decoder(options, context, contract, sample)
        case "text":
            return RawDecoder(text=True)
        case "avro":
            with _library("registry", context):
                from dataflare.sdk.messages.avro import avro_decoder

            schema, registry = _schema_of(options, is_key), options.registry
            subject = subject_of(options, topic, is_key)
            return _fitting(avro_decoder(schema, registry, subject, context), contract, context)
        case "protobuf":
            with _library("format: protobuf", context):
                from dataflare.sdk.messages.protobuf import protobuf_decoder

                made = protobuf_decoder(
                    _schema_of(options, is_key),
                    _message_of(options, is_key),
                    options.includes,
                    options.registry,
                    subject_of(options, topic, is_key),
                    context,
                )
            return _fitting(made, contract, context)
    return _json_decoder(topic, contract, sample, learned, context.step)


def _csv_decoder(
    options: ValueOptions,
    context: ConnectorContext,
    contract: Schema | None,
    sample: pl.Series | None,
) -> Decoder:
    from dataflare.formats.csv_read import CsvDialect
    from dataflare.formats.messages.csv import CsvDecoder, csv_columns

    given = cast("SourceCsvOptions", options.csv)
    dialect = CsvDialect(given.delimiter, given.quote, tuple(given.null_values))
    return CsvDecoder(csv_columns(given.columns, contract, sample, dialect, context.step), dialect)


def subject_of(options: ValueOptions, topic: str, is_key: bool) -> str:
    """The name under which the registry has the schemas of a topic."""
    registry = options.registry
    if registry is not None and registry.subject is not None and not is_key:
        return registry.subject
    return f"{topic}-{'key' if is_key else 'value'}"


def _coded(options: ValueOptions, is_key: bool) -> Coded:
    return options.coded()[1 if is_key else 0]


def _schema_of(options: ValueOptions, is_key: bool) -> str | None:
    return _coded(options, is_key).schema


def _message_of(options: ValueOptions, is_key: bool) -> str | None:
    return _coded(options, is_key).message


@contextmanager
def _library(what: str, context: ConnectorContext) -> Iterator[None]:
    """A library that is missing is an error that names its extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_library(what, error).at(step=context.step) from error


def _fitting(made: Decoder, contract: Schema | None, context: ConnectorContext) -> Decoder:
    """The decoder, if its columns are those that the step's `schema:` names. Raises ConfigError (E0405)."""
    for field in contract or ():
        if field.name not in made.schema:
            raise ConfigError(
                f"'schema' names the column '{field.name}', which the messages do not have",
                code="E0405",
                step=context.step,
                help=did_you_mean(field.name, made.schema.names) or "leave it out",
            )
        if made.schema[field.name] != field.type:
            raise ConfigError(
                f"column '{field.name}' is {made.schema[field.name]} in the messages, and 'schema' says "
                f"{field.type}",
                code="E0405",
                step=context.step,
                help="leave it out of 'schema', and cast it in a map step",
            )
    return made


def _json_decoder(
    topic: str,
    contract: Schema | None,
    sample: pl.Series | None,
    learned: Columns | None,
    step: str,
) -> Decoder:
    import polars as pl

    from dataflare.formats.messages.json import JsonDecoder, sampled

    messages = sample if sample is not None else pl.Series(dtype=pl.Binary)
    columns = sampled(messages, contract, learned)
    if not columns:
        bad = JsonDecoder([]).decode(messages).bad
        first = bad.row(0, named=False)[2] if bad.height else None
        raise ConfigError(
            f"{topic} has no messages with fields, so their columns are not known",
            code="E0405",
            step=step,
            notes=[f"of {messages.len()} messages {bad.height} cannot be read; the first: {first}"]
            if first
            else [],
            help="set the 'format' that the messages have, or list the columns in 'schema'"
            if first
            else "list the columns in 'schema'",
        )
    return JsonDecoder(columns)


def _debezium_decoder(
    options: ValueOptions,
    topic: str,
    contract: Schema | None,
    sample: pl.Series | None,
    learned: Columns | None,
    step: str,
) -> Decoder:
    """Columns that the contract names with another type are read as they are written."""
    import polars as pl

    from dataflare.formats.messages.debezium import DebeziumDecoder, rows_of, types_of

    messages = sample if sample is not None else pl.Series(dtype=pl.Binary)
    told = options.change_options
    given = {f.name: f.type for f in contract or () if f.name not in told.facts}
    columns = [
        column
        for column in types_of(messages)
        if given.get(column.name, column.type) == column.type
    ]
    written = {
        column.name: column.type if column.convert is None else column.written for column in columns
    }
    types = Schema.of({**given, **written})
    rows = _json_decoder(topic, types, rows_of(messages), learned, step)
    _refuse_taken(rows.schema, told, step)
    return DebeziumDecoder(rows, columns, told.facts, outbox=told.outbox)


def _refuse_taken(row: Schema, told: ChangeOptions, step: str) -> None:
    """Raises ConfigError (E0411) for a row with a column that has the name of a fact of its change."""
    taken = [name for name in told.facts if name in row]
    if taken:
        raise ConfigError(
            f"'debezium: {{metadata: ...}}' writes the column '{taken[0]}', and the rows have one of that name",
            code="E0411",
            step=step,
            help=f"leave '{taken[0][1:]}' out of it",
        )


def envelope(
    options: SourceMessageOptions | ValueSourceOptions,
    context: ConnectorContext,
    value: Decoder,
    available: Schema,
    key: Decoder | None = None,
) -> Envelope:
    """What makes rows of whole messages. available: what the broker says of a message: the names that
    `metadata` may have, and their types. Raises ConfigError (E0405, E0411)."""
    from dataflare.formats.messages.envelope import Envelope

    for name in options.metadata:
        if name not in available:
            raise ConfigError(
                f"'metadata' names '{name}', which its messages do not have",
                code="E0405",
                step=context.step,
                notes=[f"they have {', '.join(available.names)}"],
                help=did_you_mean(name, available.names) or "leave it out",
            )
    made = Envelope(
        value=value,
        metadata=tuple(Field(name, available[name]) for name in options.metadata),
        key=key,
        nested=options.metadata_nested,
        tombstones=_tombstones(options),
        step=context.step,
    )
    assert len(made.schema) >= len(value.schema)
    return made


def _tombstones(options: SourceMessageOptions | ValueSourceOptions) -> Tombstones:
    """Behind a delete of Debezium there is a message without a value, which says nothing more."""
    if isinstance(options, SourceMessageOptions) and not options.has_changes:
        return options.tombstones
    return "skip"


def encoder(
    options: ValueOptions,
    context: ConnectorContext,
    schema: Schema,
    *,
    topic: str,
    is_key: bool = False,
    header_prefix: str = "ce_",
) -> Encoder:
    """The encoder of rows with these columns, for values or keys. header_prefix: of the headers with attributes of
    CloudEvents, as the broker's binding of the specification has it. Raises ConfigError (E0420) for columns that the
    format cannot hold."""
    if is_key or options.format != "cloudevents":
        return _encoder(options, context, schema, topic, is_key)
    from dataflare.formats.messages.cloudevents_encode import CloudEventsEncoder, attributes_of

    given = options.cloudevents
    fixed = {"source": given.source, "type": given.type}
    attributes = attributes_of(schema)
    rest = Schema(tuple(field for field in schema if field not in attributes))
    return CloudEventsEncoder(
        schema,
        _encoder(options, context, rest, topic, is_key) if len(rest) else None,
        mode=given.mode,
        format_=given.data,
        fixed={name: text for name, text in fixed.items() if text is not None},
        prefix=header_prefix,
        step=context.step,
    )


class DebeziumEncoders(NamedTuple):
    value: DebeziumEncoder
    key: Encoder | None


def debezium_encoders(
    options: ValueOptions, context: ConnectorContext, schema: Schema, keys: Schema, *, topic: str, schemas: bool,
    database: str, table: str,
) -> DebeziumEncoders:  # fmt: skip
    """The encoders of changes and of their keys. Raises ConfigError (E0423) for columns that cannot be written so."""
    from dataflare.formats.messages.connect_write import check_columns
    from dataflare.formats.messages.debezium_encode import DebeziumEncoder, Envelopes, KeyEncoder
    from dataflare.formats.messages.json import JsonEncoder

    is_avro = options.registry is not None
    envelopes = Envelopes(schema, topic, table, database, converts=not is_avro)
    if not is_avro:
        check_columns(schema, context.step)
        key = KeyEncoder(keys, topic, JsonEncoder(), schemas=schemas) if keys else None
        return DebeziumEncoders(DebeziumEncoder(envelopes, JsonEncoder(), schemas=schemas), key)
    inner = _encoder(options, context, envelopes.schema, topic, False)
    of_keys = None
    if keys:
        of_keys = _encoder(
            options.model_copy(update={"key_format": "avro"}), context, keys, topic, True
        )
    return DebeziumEncoders(DebeziumEncoder(envelopes, inner, schemas=False), of_keys)


def _encoder(
    options: ValueOptions, context: ConnectorContext, schema: Schema, topic: str, is_key: bool
) -> Encoder:
    from dataflare.formats.messages.json import JsonEncoder
    from dataflare.formats.messages.raw import RawEncoder

    format_ = _coded(options, is_key).format
    if format_ == "csv":
        return _csv_encoder(options, schema, context.step)
    if format_ == "avro":
        with _library("registry", context):
            from dataflare.sdk.messages.avro import avro_encoder

        subject = subject_of(options, topic, is_key)
        return avro_encoder(_schema_of(options, is_key), options.registry, subject, schema, context)
    if format_ in ("raw", "text"):
        return RawEncoder(schema, context.step)
    if format_ == "protobuf":
        with _library("format: protobuf", context):
            from dataflare.sdk.messages.protobuf import protobuf_encoder

            return protobuf_encoder(
                _schema_of(options, is_key),
                _message_of(options, is_key),
                options.includes,
                options.registry,
                subject_of(options, topic, is_key),
                schema,
                context,
            )
    return JsonEncoder()


def _csv_encoder(options: ValueOptions, schema: Schema, step: str) -> Encoder:
    from dataflare.formats.messages.csv import CsvEncoder

    names = options.csv.columns
    need_columns(step, names or (), schema)
    for name in schema.names:
        if names is not None and name not in names:
            raise ConfigError(
                f"column '{name}' is not one of 'csv: {{columns: ...}}', so it would be lost",
                code="E0405",
                step=step,
                help="add it there, or drop it in a map step before",
            )
    return CsvEncoder(names if names is not None else schema.names, options.csv.delimiter)
