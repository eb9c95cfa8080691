"""Cases that load rows into a database, beside the bulk call of its client."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.streams.case import OURS, Bench, Outcome, Way, asked, by_hand, compared, workflow
from benchmarks.streams.fields import SHORT
from benchmarks.streams.kafka import full_topic, source

COLUMNS = (
    "id bigint {key}, customer bigint, status {text}, amount double precision, country {text}, "
    "created_at {time}, sku {text}, note {text}"
)


def orders(bench: Bench, rows: int) -> Path:
    """The rows as a Parquet file."""
    path = bench.scratch / "orders.parquet"
    asked("write_parquet", path, "json", rows)
    return path


def _loaded(
    bench: Bench,
    source: dict[str, Any],
    destination: str,
    config: dict[str, Any],
    name: str = OURS,
    cast: dict[str, str] | None = None,
) -> list[str]:
    """The command that copies the rows. cast: columns that the database takes as another type only."""
    steps = {"typed": {"type": "map", "inputs": ["orders"], "config": {"cast": cast}}}
    last = "typed" if cast else "orders"
    definition = {
        "sources": {"orders": source},
        "transformations": steps if cast else {},
        "destinations": {"out": {"type": destination, "inputs": [last], "config": config}},
    }
    return workflow(bench, name, definition)


def _file(path: Path) -> dict[str, Any]:
    return {"type": "file", "config": {"path": str(path)}}


def kafka_to_postgres(bench: Bench) -> Outcome:
    import psycopg

    rows = bench.rows(400_000)
    server = bench.server("postgres")
    cluster = full_topic(bench, "orders", "json", rows)
    path = orders(bench, rows)
    database = bench.stack.enter_context(psycopg.connect(server.dsn(), autocommit=True))
    database.execute(
        f"create table orders ({COLUMNS.format(key='primary key', text='text', time='timestamp')})"
    )

    def count() -> int:
        found = database.execute("select count(*) from orders").fetchone()
        assert found is not None
        return int(found[0])

    config = {"connection_string": server.dsn(), "table": "orders", "mode": "upsert", "key": "id"}
    topic = {**source(cluster, "orders"), "schema": SHORT}
    ways = [
        Way(name, _loaded(bench, each, "postgres", config, name), count,
            partial(database.execute, "truncate orders"))
        for name, each in ((OURS, topic), ("from-parquet", _file(path)))
    ]  # fmt: skip
    title = "Kafka to PostgreSQL by key, beside DataFlare from Parquet"
    return compared(bench, title, ways, rows, 0.85)


def to_clickhouse(bench: Bench) -> Outcome:
    from servers.clickhouse import PASSWORD, USER

    rows = bench.rows(2_000_000)
    server = bench.server("clickhouse")
    path = orders(bench, rows)
    columns = COLUMNS.format(key="", text="String", time="DateTime64(6)")
    server.ask(
        f"create table orders ({columns}) engine MergeTree order by id "
        "settings non_replicated_deduplication_window = 10000"
    )
    ready = partial(server.ask, "truncate table orders")

    def count() -> int:
        return int(server.ask("select count() from orders"))

    config = {"connection_string": server.dsn(), "table": "orders"}
    ours = Way(
        OURS,
        _loaded(
            bench, _file(path), "clickhouse", config, cast={"created_at": "timestamp[us, UTC]"}
        ),
        count,
        ready,
    )
    command = by_hand("to_clickhouse", path, server.port, USER, PASSWORD, "orders")
    theirs = Way("insert", command, count, ready)
    title = "Parquet to ClickHouse, append, beside inserts in Arrow's format"
    return compared(bench, title, [ours, theirs], rows, 0.8)


def to_opensearch(bench: Bench) -> Outcome:
    rows = bench.rows(80_000)
    server = bench.server("opensearch")
    path = orders(bench, rows)
    fields = {"id": "long", "customer": "long", "amount": "double", "created_at": "date"}
    mappings = {name: {"type": fields.get(name, "keyword")} for name in SHORT}

    def ready() -> None:
        server.ask("DELETE", "/orders?ignore_unavailable=true")
        server.ask("PUT", "/orders", {"mappings": {"properties": mappings}})

    def count() -> int:
        server.ask("POST", "/orders/_refresh")
        return int(server.count("orders"))

    config = {"connection": server.url, "index": "orders", "id_field": "id"}
    ours = Way(OURS, _loaded(bench, _file(path), "opensearch", config), count, ready)
    port = server.url.rpartition(":")[2]
    theirs = Way("bulk", by_hand("to_opensearch", path, port, "orders"), count, ready)
    title = "Parquet to OpenSearch by id, beside bulk requests"
    return compared(bench, title, [ours, theirs], rows, 0.8)


def to_redis(bench: Bench) -> Outcome:
    rows = bench.rows(150_000)
    server = bench.server("redis")
    path = orders(bench, rows)
    client = bench.stack.enter_context(server.client())

    def count() -> int:
        return sum(1 for _ in client.scan_iter("order:*", count=10_000))

    config = {"connection": server.url, "key": ["id"], "key_prefix": "order:"}
    ours = Way(OURS, _loaded(bench, _file(path), "redis", config), count, client.flushdb)
    theirs = Way("pipeline", by_hand("to_redis", path, server.url), count, client.flushdb)
    title = "Parquet to hashes of Redis, exactly once, beside pipelines of redis-py"
    return compared(bench, title, [ours, theirs], rows, 0.8)


def to_mariadb(bench: Bench) -> Outcome:
    from servers.mariadb import PASSWORD

    rows = bench.rows(300_000)
    server = bench.server("mariadb")
    path = orders(bench, rows)
    database = bench.stack.enter_context(server.client("test"))
    cursor = database.cursor()
    columns = COLUMNS.format(key="primary key", text="varchar(100)", time="datetime(6)")
    cursor.execute(f"create table orders ({columns})")
    ready = partial(cursor.execute, "truncate table orders")

    def count() -> int:
        cursor.execute("select count(*) from orders")
        return int(cursor.fetchone()[0])

    config = {"connection_string": server.dsn(), "table": "orders"}
    ours = Way(OURS, _loaded(bench, _file(path), "mysql", config), count, ready)
    command = by_hand("to_mariadb", path, server.port, server.user, PASSWORD, "test", "orders")
    theirs = Way("executemany", command, count, ready)
    title = "Parquet to MariaDB, append, beside executemany of PyMySQL"
    return compared(bench, title, [ours, theirs], rows, 0.8)
