"""Find who implements a name: built-ins from a static table, others by entry point.

Always true: nothing is imported before its name is asked for; a missing library becomes a
ConfigError that names the extra to install.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from dataflare.errors import ConfigError, did_you_mean
from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.lookup import LookupConnector
from dataflare.sdk.measure import OwnMeasure
from dataflare.sdk.notifier import NotifierConnector
from dataflare.sdk.processor import Processor
from dataflare.sdk.source import SourceConnector

_SOURCES = {
    "file": "dataflare.connectors.file.source:FileSource",
    "sqlite": "dataflare.connectors.sqlite.source:SqliteSource",
    "duckdb": "dataflare.connectors.duckdb.source:DuckdbSource",
    "postgres": "dataflare.connectors.postgres.source:PostgresSource",
    "mysql": "dataflare.connectors.mysql.source:MysqlSource",
    "clickhouse": "dataflare.connectors.clickhouse.source:ClickhouseSource",
    "kafka": "dataflare.connectors.kafka.source:KafkaSource",
    "delta": "dataflare.connectors.delta.source:DeltaSource",
    "iceberg": "dataflare.connectors.iceberg.source:IcebergSource",
    "mqtt": "dataflare.connectors.mqtt.source:MqttSource",
    "rabbitmq": "dataflare.connectors.rabbitmq.source:RabbitmqSource",
    "nats": "dataflare.connectors.nats.source:NatsSource",
    "pulsar": "dataflare.connectors.pulsar.source:PulsarSource",
    "redis": "dataflare.connectors.redis.stream_source:RedisSource",
    "sqs": "dataflare.connectors.sqs.source:SqsSource",
    "dynamodb": "dataflare.connectors.dynamodb.source:DynamodbSource",
    "kinesis": "dataflare.connectors.kinesis.source:KinesisSource",
    "http": "dataflare.connectors.http.source:HttpSource",
    "elasticsearch": "dataflare.connectors.elasticsearch.source:ElasticsearchSource",
    "opensearch": "dataflare.connectors.elasticsearch.source:OpensearchSource",
    "sse": "dataflare.connectors.sse.source:SseSource",
    "websocket": "dataflare.connectors.websocket.source:WebsocketSource",
    "socket": "dataflare.connectors.socket.source:SocketSource",
    "stdin": "dataflare.connectors.stdin.source:StdinSource",
    "syslog": "dataflare.connectors.syslog.source:SyslogSource",
    "webhook": "dataflare.connectors.webhook.source:WebhookSource",
    "generate": "dataflare.connectors.generate:GenerateSource",
    "inline": "dataflare.connectors.inline:InlineSource",
    "python": "dataflare.connectors.python:PythonSource",
    "memory": "dataflare.connectors.memory:MemorySource",
}
_DESTINATIONS = {
    "file": "dataflare.connectors.file.destination:FileDestination",
    "sqlite": "dataflare.connectors.sqlite.destination:SqliteDestination",
    "duckdb": "dataflare.connectors.duckdb.destination:DuckdbDestination",
    "postgres": "dataflare.connectors.postgres.destination:PostgresDestination",
    "mysql": "dataflare.connectors.mysql.destination:MysqlDestination",
    "clickhouse": "dataflare.connectors.clickhouse.destination:ClickhouseDestination",
    "kafka": "dataflare.connectors.kafka.destination:KafkaDestination",
    "delta": "dataflare.connectors.delta.destination:DeltaDestination",
    "iceberg": "dataflare.connectors.iceberg.destination:IcebergDestination",
    "mqtt": "dataflare.connectors.mqtt.destination:MqttDestination",
    "rabbitmq": "dataflare.connectors.rabbitmq.destination:RabbitmqDestination",
    "nats": "dataflare.connectors.nats.destination:NatsDestination",
    "pulsar": "dataflare.connectors.pulsar.destination:PulsarDestination",
    "redis": "dataflare.connectors.redis.destination:RedisDestination",
    "sqs": "dataflare.connectors.sqs.destination:SqsDestination",
    "kinesis": "dataflare.connectors.kinesis.destination:KinesisDestination",
    "http": "dataflare.connectors.http.destination:HttpDestination",
    "elasticsearch": "dataflare.connectors.elasticsearch.destination:ElasticsearchDestination",
    "opensearch": "dataflare.connectors.elasticsearch.destination:OpensearchDestination",
    "python": "dataflare.connectors.python:PythonDestination",
    "stdout": "dataflare.connectors.stdout:StdoutDestination",
    "websocket": "dataflare.connectors.websocket.destination:WebsocketDestination",
    "socket": "dataflare.connectors.socket.destination:SocketDestination",
    "memory": "dataflare.connectors.memory:MemoryDestination",
    "blackhole": "dataflare.connectors.blackhole:BlackholeDestination",
}
_LOOKUPS = {
    "http": "dataflare.connectors.http.lookup:HttpLookup",
    "redis": "dataflare.connectors.redis.lookup:RedisLookup",
}
_EXTRAS = {
    "duckdb": "duckdb",
    "deltalake": "delta",
    "pyiceberg": "iceberg",
    "pyarrow": "duckdb",
    "psycopg": "postgres",
    "pymysql": "mysql",
    "redis": "redis",
    "confluent_kafka": "kafka",
    "nats": "nats",
    "aiormq": "rabbitmq",
    "pulsar": "pulsar",
    "paho": "mqtt",
    "boto3": "aws",
    "botocore": "aws",
    "pamqp": "rabbitmq",
    "httpx": "http",
    "aiohttp": "push",
    "multidict": "push",
    "adbc_driver_postgresql": "postgres",
    "fastavro": "avro",
    "ptars": "protobuf",
    "google": "protobuf",
    "grpc_tools": "protobuf",
    "rocksdict": "rocksdb",
    "prometheus_client": "metrics",
    "mcp": "mcp",
    "opentelemetry": "otlp",
}
_ARROW = ("clickhouse", "mysql", "postgres")
"""Types whose extras bring pyarrow."""
_SOURCE_GROUP = "dataflare.sources"
_DESTINATION_GROUP = "dataflare.destinations"
_LOOKUP_GROUP = "dataflare.lookups"
_PROCESSOR_GROUP = "dataflare.processors"
_NOTIFIER_GROUP = "dataflare.notifiers"
_MEASURE_GROUP = "dataflare.measures"
_Extension = TypeVar("_Extension")
_registered: dict[tuple[str, str], type[Any]] = {}


def source_types() -> list[str]:
    """All installed source types, sorted; those registered in this process are found by name only."""
    return sorted({*_SOURCES, *_entry_points(_SOURCE_GROUP)})


def destination_types() -> list[str]:
    """All installed destination types, sorted; see `source_types`."""
    return sorted({*_DESTINATIONS, *_entry_points(_DESTINATION_GROUP)})


def source(type_: str) -> type[SourceConnector]:
    """The class for a source type. Raises ConfigError (E0401, E0402)."""
    found: type[SourceConnector] = _find("source", type_, _SOURCES, _SOURCE_GROUP, source_types)
    return found


def destination(type_: str) -> type[DestinationConnector]:
    """The class for a destination type. Raises ConfigError (E0401, E0402)."""
    found: type[DestinationConnector] = _find(
        "destination", type_, _DESTINATIONS, _DESTINATION_GROUP, destination_types
    )
    return found


def lookup_types() -> list[str]:
    """All installed types of systems that a lookup asks key by key, sorted; see `source_types`."""
    return sorted({*_LOOKUPS, *_entry_points(_LOOKUP_GROUP)})


def lookup(type_: str) -> type[LookupConnector]:
    """The class for a type that is asked key by key. Raises ConfigError (E0401, E0402)."""
    found: type[LookupConnector] = _find("lookup", type_, _LOOKUPS, _LOOKUP_GROUP, lookup_types)
    return found


def asked_by_key(type_: str, config: Mapping[str, Any]) -> type[LookupConnector] | None:
    """The class for a lookup's own table, where this config is asked key by key; None where it is
    a source that is read whole. Raises ConfigError (E0402)."""
    if type_ not in lookup_types() and ("lookup", type_) not in _registered:
        return None
    class_ = lookup(type_)
    return class_ if class_.asks_by_key(config) else None


def processor_types() -> list[str]:
    """All installed processors, sorted; see `source_types`."""
    return sorted(_entry_points(_PROCESSOR_GROUP))


def processor(type_: str) -> type[Processor] | None:
    """The class of a user's step type, None where it is unknown. Raises ConfigError (E0402)."""
    if ("processor", type_) not in _registered and type_ not in processor_types():
        return None
    found: type[Processor] = _find("processor", type_, {}, _PROCESSOR_GROUP, processor_types)
    return found


def notifier_types() -> list[str]:
    """All notifiers of plugins, sorted; those registered in this process too."""
    return _of_plugins("notifier", _NOTIFIER_GROUP)


def notifier(type_: str) -> type[NotifierConnector] | None:
    """The class of a plugin's notifier, None where it is unknown. Raises ConfigError (E0402, E0418)."""
    if type_ not in notifier_types():
        return None
    found: type[NotifierConnector] = _find("notifier", type_, {}, _NOTIFIER_GROUP, notifier_types)
    return found


def measure_types() -> list[str]:
    """All measures of plugins, sorted; those registered in this process too."""
    return _of_plugins("measure", _MEASURE_GROUP)


def measure(type_: str) -> type[OwnMeasure] | None:
    """The class of a plugin's measure, None where it is unknown. Raises ConfigError (E0402, E0418)."""
    if type_ not in measure_types():
        return None
    found: type[OwnMeasure] = _find("measure", type_, {}, _MEASURE_GROUP, measure_types)
    return found


def _of_plugins(kind: str, group: str) -> list[str]:
    registered = {type_ for of, type_ in _registered if of == kind}
    return sorted({*_entry_points(group), *registered})


_KINDS: dict[type[Any], str] = {
    SourceConnector: "source",
    DestinationConnector: "destination",
    LookupConnector: "lookup",
    Processor: "processor",
    NotifierConnector: "notifier",
    OwnMeasure: "measure",
}


def register(extension: type[_Extension]) -> type[_Extension]:
    """Make a user's connector, lookup, processor, notifier or measure class known in this process by its `type`, an
    aggregate by the name in its signature. Usable as a decorator. Raises ConfigError (E0418) for a class
    that is not one of these, or only half of one."""
    from dataflare.expr.own import Aggregate, register_aggregate

    name = extension.__name__
    bases: list[type[Any]] = [*_KINDS, Aggregate]
    if issubclass(extension, Aggregate):
        register_aggregate(extension)
        return extension
    kind = next((k for base, k in _KINDS.items() if issubclass(extension, base)), None)
    if kind is None:
        raise ConfigError(
            f"{name} is not a connector, lookup, processor, notifier, measure or aggregate",
            code="E0418",
            help=f"derive it from {', '.join(base.__name__ for base in bases)}",
        )
    needed = ("type", "help") if kind == "measure" else ("type", "Config")
    lacking = [n for n in needed if not hasattr(extension, n)]
    lacking += sorted(getattr(extension, "__abstractmethods__", ()))
    if lacking:
        raise ConfigError(
            f"{name} lacks {', '.join(lacking)}",
            code="E0418",
            help="a class says its type, the model of its config, and each method of the contract",
        )
    _registered[kind, extension.type] = extension  # type: ignore[attr-defined]
    return extension


def is_registered(kind: str, type_: str) -> bool:
    """Whether `register` made a class known in this process. kind: source, destination, lookup, processor, notifier or
    measure."""
    return (kind, type_) in _registered


def _find(kind: str, type_: str, table: dict[str, str], group: str, known: Any) -> Any:
    if (kind, type_) in _registered:
        return _registered[kind, type_]
    target = table.get(type_) or _entry_points(group).get(type_)
    if target is None:
        names: Iterable[str] = known()
        raise ConfigError(
            f"unknown {kind} type '{type_}'",
            code="E0401",
            notes=[f"known types: {', '.join(names)}"],
            help=did_you_mean(type_, names) or _by_key_only(type_),
        )
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "dataflare":
            raise
        raise missing_library(type_, error) from error
    if found is None:
        raise ConfigError(
            f"the {kind} '{type_}' is installed as '{target}', where there is no such class",
            code="E0418",
            help=f"its package must name the class in the entry points '{group}'",
        )
    return found


def _by_key_only(type_: str) -> str | None:
    if type_ not in lookup_types():
        return None
    return f"'{type_}' can only be asked by a lookup: source: {{type: {type_}, ...}} in its config"


def missing_library(what: str, error: ModuleNotFoundError) -> ConfigError:
    """The error for a client library that is not installed, naming its extra."""
    library = (error.name or "").partition(".")[0]
    extra = what if library == "pyarrow" and what in _ARROW else _EXTRAS.get(library)
    install = f"pip install 'dataflare[{extra}]'" if extra else f"pip install {library}"
    return ConfigError(
        f"'{what}' needs the library '{library}', which is not installed",
        code="E0402",
        help=f"install it with: {install}",
    )


@lru_cache(maxsize=8)
def _entry_points(group: str) -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=group)}
