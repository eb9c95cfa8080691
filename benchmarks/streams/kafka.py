"""Cases with Kafka at one end or at both."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

from benchmarks.measure import Failed, Spread
from benchmarks.streams.case import (
    CONTROL,
    OURS,
    Bench,
    Outcome,
    Way,
    asked,
    by_hand,
    compared,
    output,
    running,
    spread,
    workflow,
)
from benchmarks.streams.fields import SHORT, WIDE

PARTITIONS = 4


def full_topic(bench: Bench, name: str, kind: str, rows: int, registry: str = "") -> Any:
    """A broker of its own, with rows in a topic."""
    cluster = bench.server("kafka")
    cluster.create_topic(name, PARTITIONS)
    asked("fill_topic", cluster.bootstrap, name, kind, rows, registry)
    return cluster


def emptied(cluster: Any, name: str) -> None:
    """Make the topic again."""
    if name in cluster.admin().list_topics(timeout=10).topics:
        cluster.delete_topic(name)
    cluster.create_topic(name, PARTITIONS)


def source(cluster: Any, name: str, **config: Any) -> dict[str, Any]:
    """To the messages that are there."""
    where = {"bootstrap_servers": cluster.bootstrap, "topic": name, "stop": "latest"}
    return {"type": "kafka", "config": {**where, **config}}


def destination(cluster: Any, name: str, **config: Any) -> dict[str, Any]:
    where = {"bootstrap_servers": cluster.bootstrap, "topic": name}
    return {"type": "kafka", "config": {**where, **config}}


def json_to_parquet(bench: Bench) -> Outcome:
    rows = bench.rows(1_000_000)
    cluster = full_topic(bench, "orders", "wide", rows)
    orders = {**source(cluster, "orders"), "schema": WIDE}
    return _to_parquet(bench, "Kafka to Parquet, 1 KB JSON", orders, cluster, rows)


def avro_to_parquet(bench: Bench) -> Outcome:
    from servers.registry import schema_registry

    rows = bench.rows(3_000_000)
    _, registry = bench.stack.enter_context(schema_registry())
    cluster = full_topic(bench, "orders", "avro", rows, registry.url)
    orders = source(cluster, "orders", format="avro", registry={"url": registry.url})
    return _to_parquet(bench, "Kafka to Parquet, 200 B Avro, registry", orders, cluster, rows)


def _to_parquet(
    bench: Bench, title: str, orders: dict[str, Any], cluster: Any, rows: int
) -> Outcome:
    out = bench.scratch / OURS / "out"
    config = {"path": f"{out}/", "format": "parquet"}
    definition = {
        "sources": {"orders": orders},
        "destinations": {"out": {"type": "file", "inputs": ["orders"], "config": config}},
    }
    ours = Way(OURS, workflow(bench, "to_parquet", definition), lambda: asked("parquet_rows", out))
    consumed = bench.scratch / "consumer" / "stderr.txt"
    theirs = Way(
        "consumer",
        by_hand("consume", cluster.bootstrap, "orders"),
        lambda: int(consumed.read_text()),
    )
    return compared(bench, title, [ours, theirs], rows, 0.7)


COPIED = "amount > 5000"
"""Half of the rows."""


def to_kafka(bench: Bench) -> Outcome:
    rows = bench.rows(600_000)
    cluster = full_topic(bench, "orders", "json", rows)
    definition = {
        "settings": {"checkpoint": {"interval": "1s"}},
        "sources": {"orders": {**source(cluster, "orders"), "schema": SHORT}},
        **copied_to(destination(cluster, "copied")),
    }
    ready = partial(emptied, cluster, "copied")
    count = partial(asked, "consume", cluster.bootstrap, "copied")
    ours = Way(OURS, workflow(bench, "to_kafka", definition), count, ready)
    theirs = Way("copy", by_hand("copy", cluster.bootstrap, "orders", "copied"), count, ready)
    title = (
        "Kafka to Kafka, filter and map, a transaction a second, beside a copy without transactions"
    )
    expected = asked("passing", rows, "json", COPIED)
    return compared(bench, title, [ours, theirs], rows, 0.6, expected)


def copied_to(to: dict[str, Any]) -> dict[str, Any]:
    """A filter, a map and a destination."""
    gross = {"derive": {"gross": "round(amount * 1.19, 2)"}}
    return {
        "transformations": {
            "large": {"type": "filter", "inputs": ["orders"], "config": {"condition": COPIED}},
            "gross": {"type": "map", "inputs": ["large"], "config": gross},
        },
        "destinations": {"copied": {**to, "inputs": ["gross"]}},
    }


RATE, SECONDS = 1_000, 10
P99_MAX_MS = 25.0


def latency(bench: Bench) -> Outcome:
    """From produce to consume, at a steady rate, with and without DataFlare between two topics."""
    cluster = bench.server("kafka")
    orders = source(cluster, "orders", start="latest")
    del orders["config"]["stop"]
    definition = {
        "settings": {"checkpoint": {"interval": "1s"}},
        "sources": {
            "orders": {
                **orders,
                "schema": {"id": "int64", "due": "int64", "amount": "float64", "status": "string"},
            }
        },
        "transformations": {
            "active": {
                "type": "filter",
                "inputs": ["orders"],
                "config": {"condition": "status == 'active'"},
            },
            "gross": {
                "type": "map",
                "inputs": ["active"],
                "config": {"derive": {"gross": "amount * 1.19"}},
            },
        },
        "destinations": {
            "copied": {
                **destination(cluster, "copied", guarantee="at_least_once"),
                "inputs": ["gross"],
            }
        },
    }
    paced = [sys.executable, "-m", "benchmarks.streams.paced"]
    where = [cluster.bootstrap, "orders", "copied"]
    ways = {OURS: workflow(bench, "latency", definition), "copy": [*paced, "copy", *where]}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in (*ways, "copy" + CONTROL)}
    for _ in range(bench.repeat):
        for name in figures:
            for each in where[1:]:
                emptied(cluster, each)
            command = [*paced, *where, str(RATE), str(SECONDS)]
            with running(ways[name.removesuffix(CONTROL)]):
                figures[name].append(json.loads(output(command)))
    return _latencies(figures)


def _latencies(figures: dict[str, list[dict[str, float]]]) -> Outcome:
    title = f"Kafka to Kafka, at least once, {RATE:,} messages/s, from produce to consume"
    outcome = Outcome(title, f"p99 at most {P99_MAX_MS:g} ms")
    p99 = {name: Spread.of([turn["p99_ms"] for turn in turns]) for name, turns in figures.items()}
    p50 = {name: Spread.of([turn["p50_ms"] for turn in turns]) for name, turns in figures.items()}
    for name, turns in figures.items():
        if any(turn["rows"] != RATE * SECONDS for turn in turns):
            raise Failed(f"{name}: not all messages came: {turns}")
    ours, theirs, again = figures
    shown = {name: f"p50 {p50[name].median:.1f} ms, p99 {spread(p99[name])} ms" for name in figures}
    outcome.ours, outcome.beside = shown[ours], shown[theirs]
    outcome.control = f"{p99[again].median / p99[theirs].median:.2f} (p99)"
    outcome.met = p99[ours].median <= P99_MAX_MS
    return outcome
