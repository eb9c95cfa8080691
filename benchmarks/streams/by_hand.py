"""The same work by hand, and what fills and counts: `python -m benchmarks.streams.by_hand TASK ARGUMENTS`.

Each task is a function of this module; its docstring says what it prints.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONSUMED_AT_ONCE = 10_000
PRODUCER: dict[str, Any] = {
    "queue.buffering.max.messages": 1_000_000,
    "linger.ms": 20,
    "batch.size": 1_000_000,
}


def fill_topic(servers: str, topic: str, kind: str, rows: str, registry: str = "") -> None:
    """Write rows as messages: json, wide (JSON of 1 KB) or avro, with a schema of the registry."""
    from confluent_kafka import Producer

    from benchmarks.streams.rows import parts

    producer = Producer(PRODUCER | {"bootstrap.servers": servers})
    for frame in parts(int(rows), kind):
        messages = _avro(frame, registry, topic) if kind == "avro" else _json(frame)
        _produce(producer, topic, [{"value": each} for each in messages])
    producer.flush()


def _produce(producer: Any, topic: str, batch: list[dict[str, Any]]) -> None:
    """Queue all messages; those that the client has no room for are tried again."""
    while batch:
        queued = producer.produce_batch(topic, batch)
        batch = [each for each in batch if each.pop("_error", None)] if queued < len(batch) else []
        producer.poll(0.01 if batch else 0)


def _json(frame: Any) -> list[bytes]:
    lines: list[bytes] = frame.write_ndjson().encode().splitlines()
    return lines


def _avro(frame: Any, registry: str, topic: str) -> list[bytes]:
    """Messages in the registry's wire format."""
    import json
    import urllib.request

    from dataflare.formats.messages.avro_encode import AvroEncoder
    from dataflare.formats.messages.avro_schema import parse

    types = {"id": "long", "customer": "long", "amount": "double",
             "created_at": {"type": "long", "logicalType": "local-timestamp-micros"}}  # fmt: skip
    fields = [{"name": name, "type": types.get(name, "string")} for name in frame.columns]
    text = json.dumps({"type": "record", "name": "Order", "fields": fields})
    request = urllib.request.Request(
        f"{registry}/subjects/{topic}-value/versions",
        data=json.dumps({"schema": text}).encode(),
        headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        number = int(json.load(answer)["id"])
    schema = parse(text)
    head = b"\0" + number.to_bytes(4, "big")
    values = AvroEncoder(schema.schema(), schema).encode(frame).values
    return [head + each for each in values.to_list()]


def consume(servers: str, topic: str) -> None:
    """Read a topic to its end and throw the messages away. Prints their number."""
    rows = sum(map(len, _consumed(servers, topic)))
    print(rows)


def _consumed(servers: str, topic: str) -> Iterator[list[Any]]:
    """The messages that are there now, in lists."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "by-hand", "enable.auto.commit": False,
                         "enable.partition.eof": True, "isolation.level": "read_committed",
                         "fetch.wait.max.ms": 50, "fetch.queue.backoff.ms": 5})  # fmt: skip
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    unread = set(partitions)
    while unread:
        messages = consumer.consume(CONSUMED_AT_ONCE, 0.1)
        errors = [each for each in messages if each.error() is not None]
        for each in errors:
            if each.error().code() != KafkaError._PARTITION_EOF:
                raise RuntimeError(each.error())
            unread.discard(each.partition())
        yield messages if not errors else [each for each in messages if each.error() is None]
    consumer.close()


def copy(servers: str, topic: str, target: str) -> None:
    """Copy a topic to another one, without transactions: half of the rows, with one more field."""
    import orjson
    from confluent_kafka import Producer

    producer = Producer(PRODUCER | {"bootstrap.servers": servers})
    for messages in _consumed(servers, topic):
        batch = []
        for message in messages:
            row = orjson.loads(message.value())
            if row["amount"] > 5000:
                row["gross"] = round(row["amount"] * 1.19, 2)
                batch.append({"value": orjson.dumps(row)})
        _produce(producer, target, batch)
    producer.flush()


def passing(rows: str, kind: str, condition: str) -> None:
    """Print how many rows meet a condition in SQL."""
    import polars as pl

    from benchmarks.streams.rows import parts

    print(sum(frame.filter(pl.sql_expr(condition)).height for frame in parts(int(rows), kind)))


def write_parquet(path: str, kind: str, rows: str) -> None:
    """Write the rows as one file."""
    import polars as pl

    from benchmarks.streams.rows import parts

    pl.concat(parts(int(rows), kind)).write_parquet(path, row_group_size=100_000)


def _read(path: str, rows_max: int) -> Iterator[Any]:
    """The rows of a file, as frames of at most `rows_max` rows."""
    import polars as pl

    yield from pl.read_parquet(path).iter_slices(rows_max)


def to_clickhouse(path: str, port: str, user: str, password: str, table: str) -> None:
    """Insert rows over HTTP in Arrow's format, 100,000 at a time, as `clickhouse_connect.insert_arrow` does."""
    import http.client
    import io
    from urllib.parse import quote

    connection = http.client.HTTPConnection("127.0.0.1", int(port))
    headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password.encode().decode("latin-1")}
    statement = quote(f"INSERT INTO {table} FORMAT ArrowStream")
    for frame in _read(path, 100_000):
        body = io.BytesIO()
        frame.write_ipc_stream(body)
        connection.request("POST", f"/?query={statement}", body.getvalue(), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(text)


def to_opensearch(path: str, port: str, index: str) -> None:
    """Bulk requests of 1,000 documents, with ids."""
    import http.client

    import orjson

    connection = http.client.HTTPConnection("127.0.0.1", int(port))
    headers = {"Content-Type": "application/x-ndjson"}
    for frame in _read(path, 1_000):
        lines = []
        for row in frame.iter_rows(named=True):
            lines += [orjson.dumps({"index": {"_id": str(row["id"])}}), orjson.dumps(row)]
        connection.request("POST", f"/{index}/_bulk", b"\n".join(lines) + b"\n", headers)
        answer = orjson.loads(connection.getresponse().read())
        if answer["errors"]:
            raise RuntimeError(answer)
    connection.request("POST", f"/{index}/_refresh")
    connection.getresponse().read()


def to_redis(path: str, url: str) -> None:
    """A hash for each row, in pipelines of 1,000 commands."""
    import redis

    client = redis.Redis.from_url(url)
    for frame in _read(path, 1_000):
        pipeline = client.pipeline(transaction=False)
        for row in frame.iter_rows(named=True):
            pipeline.hset(
                f"order:{row['id']}", mapping={**row, "created_at": str(row["created_at"])}
            )
        pipeline.execute()


def to_mariadb(path: str, port: str, user: str, password: str, database: str, table: str) -> None:
    """Inserts of many rows, made by the client's `executemany`, in one transaction."""
    import pymysql

    connection = pymysql.connect(
        host="127.0.0.1", port=int(port), user=user, password=password, database=database
    )
    with connection, connection.cursor() as cursor:
        for frame in _read(path, 10_000):
            places = ", ".join(["%s"] * frame.width)
            statement = f"INSERT INTO {table} ({', '.join(frame.columns)}) VALUES ({places})"
            cursor.executemany(statement, frame.rows())
        connection.commit()


def write_changes(path: str, rows: str) -> None:
    """Write changes of each hundredth row, by its id."""
    import polars as pl

    number = pl.col("id")
    pl.select(id=pl.int_range(0, int(rows), 100, dtype=pl.Int64)).select(
        "id",
        (number % 100_000 + 1).alias("customer"),
        status=pl.lit("changed"),
        country=pl.lit("ke"),
        amount=number.cast(pl.Float64),
        weight=pl.lit(1.5),
        created_at=pl.lit("2026-06-01T00:00:00Z").str.to_datetime(time_unit="us", time_zone="UTC"),
    ).write_parquet(path)


def _lake(kind: str, place: str) -> Any:
    """The table, read by its own library."""
    if kind == "delta":
        from deltalake import DeltaTable

        return DeltaTable(f"{place}/orders")
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("dataflare", uri=f"sqlite:///{place}/catalog.db", warehouse=place)
    return catalog.load_table("shop.orders")


def _lake_files(kind: str, place: str) -> list[str]:
    table = _lake(kind, place)
    if kind == "delta":
        return list(table.file_uris())
    return [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]


def lake_rows(kind: str, place: str) -> None:
    """Print how many rows a table has."""
    import polars as pl

    print(pl.scan_parquet(_lake_files(kind, place)).select(pl.len()).collect().item())


def lake_changed(kind: str, place: str) -> None:
    """Print how many different rows of a table are changes."""
    import polars as pl

    rows = pl.scan_parquet(_lake_files(kind, place)).filter(pl.col("status") == "changed")
    print(rows.select(pl.col("id").n_unique()).collect(engine="streaming").item())


def lake_commits(kind: str, place: str) -> None:
    """Print how many versions or snapshots a table has."""
    table = _lake(kind, place)
    print(table.version() if kind == "delta" else len(table.snapshots()))


def _s3(endpoint: str) -> dict[str, str]:
    from servers.s3 import KEYS

    return {
        "aws_endpoint_url": endpoint,
        "aws_allow_http": "true",
        **{k.lower(): v for k, v in KEYS.items()},
    }


def s3_copy(endpoint: str, source: str, target: str) -> None:
    """Half of the rows of all files, into one file."""
    import polars as pl

    options = _s3(endpoint)
    rows = pl.scan_parquet(source, storage_options=options).filter(pl.col("amount") > 5000)
    rows.sink_parquet(f"{target}/out.parquet", compression="zstd", storage_options=options)


def s3_rows(endpoint: str, folder: str) -> None:
    """Print how many rows the files of a folder have."""
    import polars as pl

    rows = pl.scan_parquet(f"{folder}/*.parquet", storage_options=_s3(endpoint))
    print(rows.select(pl.len()).collect().item())


def parquet_rows(folder: str) -> None:
    """Print how many rows the files of a folder have."""
    import polars as pl

    print(pl.scan_parquet(f"{folder}/*.parquet").select(pl.len()).collect().item())


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    globals()[sys.argv[1]](*sys.argv[2:])
